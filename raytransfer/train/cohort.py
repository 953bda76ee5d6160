"""A cohort: networks of one target trained over one pass of its images, in plain PyTorch."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from raytransfer.nets.architecture import Architecture
from raytransfer.nets.network import Network, Weights, layer_names
from raytransfer.study.recipe import Recipe
from raytransfer.train.augment import crop
from raytransfer.train.stack import Member, Prefix, Stack

STACKED_BELOW = 50_000_000
"""Multiply-adds an image under which networks are stacked: larger ones fill a device by themselves,
and grouped convolutions are slower than plain ones there."""


VELOCITY = "velocity."
"""Before the name of a weight: what the optimiser's momentum remembers of it."""


@dataclass
class Sums:
    """Sums over images, by network; divided once, when all workers' are added up."""

    loss: Tensor
    top1: Tensor
    top5: Tensor
    images: Tensor

    @classmethod
    def zero(cls, networks: int, device: torch.device) -> "Sums":
        return cls(*(torch.zeros(networks, dtype=torch.float64, device=device) for _ in range(4)))

    @property
    def together(self) -> Tensor:
        """[4, networks]"""
        return torch.stack([self.loss, self.top1, self.top5, self.images])

    def all_reduce(self) -> None:
        """Add up over the workers."""
        together = self.together
        torch.distributed.all_reduce(together)
        self.loss, self.top1, self.top5, self.images = together


@dataclass(frozen=True)
class TrainingState:
    """What networks are in the middle of training, apart from what never changes."""

    networks: dict[str, Weights]
    """By treatment id: learning weights, and their velocities under VELOCITY + their names."""
    sums: dict[str, list[list[float]]]
    """By treatment id: what each worker has summed up since the last line, [workers, 4]."""
    rate: float
    """Learning rate of the last step."""


class CohortTrainer:
    """Networks that see the same images, crops and mirrors, in the same order.

    Frozen layers that networks share are computed once a batch, without gradient, up to the first
    dropout; each network adds only its own part. What a network becomes depends on its treatment,
    the recipe and its seed alone: with deterministic=True to the last bit, as every network then
    runs by itself (a stack of one).
    """

    def __init__(
        self,
        architecture: Architecture,
        members: Sequence[Member],
        prefixes: Mapping[str, Weights],
        means: Mapping[str, Tensor],
        recipe: Recipe,
        *,
        device: torch.device | str = "cpu",
        deterministic: bool = False,
        data_parallel: bool = False,
    ) -> None:
        """
        prefixes: weights that frozen layers are copied from, by the name in Member.parent.
        means: mean images, float32 [channels, height, width], by the task in Member.mean.
        data_parallel: whether the processes of torch.distributed share each batch; then gradients
            are averaged and sums added up over them.
        """
        self.device = torch.device(device)
        self.recipe = recipe
        self.data_parallel = data_parallel
        self.architecture = architecture
        self.means = {
            task: mean.to(self.device)
            for task, mean in means.items()
            if task in {member.mean for member in members}
        }
        operations = sum(architecture.multiply_adds(next(iter(means.values())).shape[0]))
        alone = deterministic or operations > STACKED_BELOW
        groups = [[member] for member in members] if alone else [members]
        self.stacks = [Stack(architecture, group, recipe.dropout, self.device) for group in groups]
        self.modules: list[nn.Module] = [
            _parallel(stack, self.device) if data_parallel else stack for stack in self.stacks
        ]
        self.members = [member for stack in self.stacks for member in stack.members]
        self._prefixes = self._frozen(prefixes)
        # Fused: one pass over memory instead of four, for all networks at once.
        parameters = [p for stack in self.stacks for p in stack.named_parameters()]
        self._optimiser = torch.optim.SGD(
            [
                {"params": [p for name, p in parameters if name.endswith("weight")]},
                {"params": [p for name, p in parameters if name.endswith("bias")]},
            ],
            lr=recipe.learning_rate,
            fused=True,
        )
        self._last_rate = recipe.rate(0)
        self.trained = Sums.zero(len(self.members), self.device)
        self.validated = Sums.zero(len(self.members), self.device)

    def _frozen(self, weights: Mapping[str, Weights]) -> dict[Prefix, tuple[Network, int]]:
        """The shared prefixes as networks, with their depth."""
        depths: dict[Prefix, int] = defaultdict(int)
        for stack in self.stacks:
            for member, join in zip(stack.members, stack.joins, strict=True):
                depths[member.prefix] = max(depths[member.prefix], join)
        return {
            (mean, parent): (
                Network(self.architecture, weights[parent])
                .requires_grad_(False)
                .to(self.device)
                .to(memory_format=torch.channels_last)
                .eval(),
                depth,
            )
            for (mean, parent), depth in depths.items()
            if depth
        }

    @torch.no_grad()
    def _shared(self, inputs: Mapping[str, Tensor]) -> dict[tuple[Prefix, int], Tensor]:
        """Activations of every frozen prefix after each of its layers."""
        shared: dict[tuple[Prefix, int], Tensor] = {}
        for prefix, (network, depth) in self._prefixes.items():
            x = inputs[prefix[0]]
            for layer in range(depth):
                x = network(x, start=layer, stop=layer + 1)
                shared[prefix, layer + 1] = x
        return shared

    def _logits(
        self,
        modules: Sequence[nn.Module],
        images: Tensor,
        draws: Tensor | None,
        positions: Tensor,
    ) -> Tensor:
        """[networks, b, classes] in the order of `members`. modules: the stacks, wrapped or not."""
        recipe, side = self.recipe, self.architecture.side
        inputs = {
            task: (
                crop(images, mean, side, recipe.pad, draws, recipe.mirror) * self.architecture.scale
            ).contiguous(memory_format=torch.channels_last)
            for task, mean in self.means.items()
        }
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"
        ):
            shared = self._shared(inputs)
            parts = [module(inputs, shared, positions) for module in modules]
        return torch.cat(parts).float()

    def step(
        self, step: int, images: Tensor, labels: Tensor, positions: Tensor, draws: Tensor
    ) -> None:
        """One optimiser step of every network.

        images: uint8 [b, channels, height, width], this worker's share of the batch; labels: int64
        [b]; positions: int64 [b], places in the order of training; draws: float64 [b, 3] in [0, 1).
        """
        for module in self.modules:
            module.train()
        self._set_rate(step)
        logits = self._logits(self.modules, images, draws, positions)
        losses = _losses(logits, labels)
        self._optimiser.zero_grad(set_to_none=True)
        (losses.sum() / len(images)).backward()
        self._optimiser.step()
        _count(self.trained, logits.detach(), losses.detach(), labels)

    @torch.no_grad()
    def validate(self, images: Tensor, labels: Tensor) -> None:
        """Score every network on images (uint8, as in `step`; none at all is fine)."""
        if len(images) == 0:
            return
        # Bare: a worker may have no image, and nothing is averaged.
        stacks = [stack.eval() for stack in self.stacks]
        logits = self._logits(stacks, images, None, torch.zeros_like(labels))
        _count(self.validated, logits, _losses(logits, labels), labels)

    def take_sums(self) -> tuple[Sums, Sums]:
        """Training and validation sums since the last call, over all workers."""
        sums = self.trained, self.validated
        if self.data_parallel:
            for part in sums:
                part.all_reduce()
        self.trained = Sums.zero(len(self.members), self.device)
        self.validated = Sums.zero(len(self.members), self.device)
        return sums

    def weights(self) -> dict[str, Weights]:
        """Every network's weights as they are now, by treatment id, on the CPU."""
        everything: dict[str, Weights] = {}
        for stack in self.stacks:
            everything |= stack.weights()
            for member, join in zip(stack.members, stack.joins, strict=True):
                for number in range(1, join + 1):
                    prefix, _ = self._prefixes[member.prefix]
                    for name in layer_names(number):
                        parameter = prefix.get_parameter(name).detach().cpu()
                        own = parameter.clone(memory_format=torch.contiguous_format)
                        everything[member.treatment.id][name] = own
        return everything

    def state(self) -> "TrainingState":
        """All that changes in training, copied to the CPU; called on all workers at once."""
        networks: dict[str, Weights] = {}
        for stack in self.stacks:
            learning = dict(stack.learning.items())
            velocities = {
                name: self._optimiser.state[parameter]["momentum_buffer"]
                for name, parameter in learning.items()
            }
            moving = stack.apart(velocities)
            for id, weights in stack.apart(learning).items():
                networks[id] = weights | {VELOCITY + name: v for name, v in moving[id].items()}
        mine = self.trained.together
        workers = [mine]
        if self.data_parallel:
            workers = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size())]
            torch.distributed.all_gather(workers, mine)
        sums = torch.stack(workers).cpu()
        ids = [member.treatment.id for member in self.members]
        return TrainingState(
            networks, {id: sums[:, :, i].tolist() for i, id in enumerate(ids)}, self._last_rate
        )

    @torch.no_grad()
    def restore(self, state: "TrainingState") -> None:
        """Go on from where `state` was taken, in whatever cohort and on however many workers."""
        for stack in self.stacks:
            weights = stack.together(state.networks)
            velocities = stack.together(
                {
                    member.treatment.id: {
                        name.removeprefix(VELOCITY): tensor
                        for name, tensor in state.networks[member.treatment.id].items()
                        if name.startswith(VELOCITY)
                    }
                    for member in stack.members
                }
            )
            for name, parameter in stack.learning.items():
                parameter.copy_(weights[name])
                buffer = torch.empty_like(parameter).copy_(velocities[name])
                self._optimiser.state[parameter]["momentum_buffer"] = buffer
        ids = [member.treatment.id for member in self.members]
        sums = torch.tensor([state.sums[id] for id in ids], dtype=torch.float64)  # [n, workers, 4]
        workers, rank = 1, 0
        if self.data_parallel:
            workers, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
        if sums.shape[1] == workers:
            mine = sums[:, rank]
        else:
            mine = sums.sum(1) if rank == 0 else torch.zeros_like(sums[:, 0])
        self.trained = Sums(*mine.T.to(self.device))
        self._last_rate = state.rate

    def _set_rate(self, step: int) -> None:
        """Caffe keeps the rate inside the velocity; PyTorch does not.

        v = m v + rate (g + wd w) is PyTorch's velocity times the rate, so a change of rate scales
        what PyTorch remembers.
        """
        recipe, rate = self.recipe, self.recipe.rate(step)
        momentum = recipe.momentum * self._last_rate / rate
        self._last_rate = rate
        weights, biases = self._optimiser.param_groups
        weights.update(lr=rate, momentum=momentum, weight_decay=recipe.weight_decay)
        biases.update(lr=rate * recipe.bias_rate, momentum=momentum, weight_decay=0.0)


def _parallel(stack: Stack, device: torch.device) -> nn.Module:
    """The stack with its gradients averaged over the workers."""
    return DistributedDataParallel(
        stack,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
    )


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy [networks, b] of logits [networks, b, classes]."""
    networks, images, _ = logits.shape
    flat = F.cross_entropy(logits.flatten(0, 1), labels.repeat(networks), reduction="none")
    return flat.view(networks, images)


def _count(sums: Sums, logits: Tensor, losses: Tensor, labels: Tensor) -> None:
    own = logits.gather(2, labels.expand(len(logits), -1)[:, :, None])
    # A tie, or a NaN, counts against the network.
    rank = (~(logits < own)).sum(2) - 1
    sums.loss += losses.sum(1)
    sums.top1 += (rank < 1).sum(1)
    sums.top5 += (rank < 5).sum(1)
    sums.images += losses.shape[1]
