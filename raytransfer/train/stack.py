"""A stack: networks of one architecture, trained side by side as one network of grouped layers.

A small network spends most of its time on starting operations. Stacked, its layer l and that of
every other network are one grouped convolution or one batched product. A network with frozen layers
joins where its shared prefix ends, so a stack grows wider towards its classifier.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raytransfer.nets.architecture import Architecture, Layer
from raytransfer.nets.network import Weights, after_weights, layer_names
from raytransfer.study.treatment import LAYERS, Treatment
from raytransfer.train.draws import drop, dropout_seed

Prefix = tuple[str, str]
"""A frozen prefix: the mean that is subtracted from its images, and the name of its network."""

Shared = Mapping[tuple[Prefix, int], Tensor]
"""Activations of frozen prefixes, by prefix and the number of layers that they went through."""


@dataclass(frozen=True)
class Member:
    """A network before training, and the frozen prefix that it shares."""

    treatment: Treatment
    weights: Weights
    parent: str
    """Name of the network that its frozen layers are copied from."""
    mean: str
    """Task whose mean image is subtracted: the source's, as in the paper; else the target's."""

    @property
    def prefix(self) -> Prefix:
        return self.mean, self.parent

    def prefix_layers(self, architecture: Architecture, dropout: float) -> int:
        """Frozen layers that are the same for all who share the prefix: up to the first dropout."""
        shareable = architecture.first_dropout if dropout else LAYERS
        return min(self.treatment.frozen_layers, shareable)


class Stack(nn.Module):
    """Members side by side. Output: logits [members, images, classes] in the order of `members`."""

    def __init__(
        self,
        architecture: Architecture,
        members: Sequence[Member],
        dropout: float,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.dropout = dropout
        # Later joiners stand behind earlier ones, and of one layer, frozen weights behind learning
        # ones: so the networks at work in a layer are always the first few. Those that subtract the
        # same mean are neighbours, for they share the input of layer 1.
        self.members = sorted(members, key=lambda m: (m.treatment.frozen_layers, m.mean))
        self.joins = [member.prefix_layers(architecture, dropout) for member in self.members]
        # Plain tensors, not buffers: constant, so no worker need send them to another.
        self.learning = nn.ParameterDict()
        self._frozen: dict[str, Tensor] = {}
        self._seeds: dict[int, Tensor] = {}
        for number, layer in enumerate(architecture.layers, 1):
            learning = self._learners(number)
            frozen = self.members[len(learning) : self._active(number)]
            for name in layer_names(number):
                key = _attribute(name)
                if learning:
                    tensors = [member.weights[name] for member in learning]
                    self.learning[key] = nn.Parameter(_stacked(layer, tensors).to(device))
                if frozen:
                    tensors = [member.weights[name] for member in frozen]
                    self._frozen[key] = _stacked(layer, tensors).to(device)
            if layer.dropout:
                seeds = [
                    dropout_seed(m.treatment.seed, m.treatment.id, number) for m in self.members
                ]
                self._seeds[number] = torch.tensor(seeds, device=device)

    def _active(self, number: int) -> int:
        """How many members compute layer `number` here."""
        return sum(join < number for join in self.joins)

    def _tensor(self, name: str) -> Tensor:
        key = _attribute(name)
        parts = [part[key] for part in (self.learning, self._frozen) if key in part]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def forward(self, inputs: Mapping[str, Tensor], shared: Shared, positions: Tensor) -> Tensor:
        """inputs: images less each mean, [b, channels, side, side]; positions int64 [b] seed the
        dropout."""
        x: Tensor | None = None
        for number, layer in enumerate(self.architecture.layers, 1):
            if (active := self._active(number)) == 0:
                continue
            weight, bias = (self._tensor(name) for name in layer_names(number))
            if number == 1:
                x = self._first(inputs, weight, bias)
            else:
                x = self._join(x, number, shared)
                x = self._drop(x, number - 1, positions)
                if layer.convolution:
                    groups = layer.groups * active
                    x = F.conv2d(x, weight, bias, layer.stride, layer.padding, groups=groups)
                else:
                    # The weights stand first, so that their gradient is laid out as they are:
                    # turned over, it would have to be copied, which took longer than the product.
                    x = torch.baddbmm(bias[..., None], weight, x.transpose(1, 2)).transpose(1, 2)
            x = after_weights(layer, x, active)
        assert x is not None
        return x

    def _first(self, inputs: Mapping[str, Tensor], weight: Tensor, bias: Tensor) -> Tensor:
        """Layer 1, a convolution, before what follows it: once for each mean."""
        layer = self.architecture.layers[0]
        networks = Counter(member.mean for member in self.members[: self._active(1)])
        rows = [count * layer.outputs for count in networks.values()]
        parts = [
            F.conv2d(inputs[mean], w, b, layer.stride, layer.padding, groups=layer.groups)
            for mean, w, b in zip(networks, weight.split(rows), bias.split(rows), strict=True)
        ]
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    def _join(self, x: Tensor | None, number: int, shared: Shared) -> Tensor:
        """The input of layer `number`: those at work already, then those whose prefix ends here."""
        joining = [
            shared[member.prefix, number - 1]
            for member, join in zip(self.members, self.joins, strict=True)
            if join == number - 1
        ]
        layers = self.architecture.layers
        if layers[number - 1].convolution:
            return _together(x, joining, 1)
        if not layers[number - 2].convolution:
            return _together(x, [activations[None] for activations in joining], 0)
        x = _together(x, joining, 1)
        images, channels = x.shape[:2]
        active = channels // layers[number - 2].outputs
        return x.reshape(images, active, -1).transpose(0, 1)

    def _drop(self, x: Tensor, number: int, positions: Tensor) -> Tensor:
        """Dropout after layer `number`, drawn for each network by itself."""
        if not (self.training and self.dropout and self.architecture.layers[number - 1].dropout):
            return x
        return drop(x, self._seeds[number][: len(x)], positions, self.dropout)

    def weights(self) -> dict[str, Weights]:
        """Every member's weights as they are now, by treatment id, on the CPU.

        Those of its shared prefix are as they were at first: the stack does not hold them.
        """
        everything = {}
        for place, member in enumerate(self.members):
            own = dict(member.weights)
            for number, layer in enumerate(self.architecture.layers, 1):
                if number > self.joins[place]:
                    for name in layer_names(number):
                        own[name] = _unstacked(layer, self._tensor(name), place).cpu()
            everything[member.treatment.id] = own
        return everything

    def apart(self, tensors: Mapping[str, Tensor]) -> dict[str, Weights]:
        """Tensors laid out as `learning`, such as its velocities, taken apart: every member's, by
        treatment id and by the names of its weights; on the CPU."""
        parts: dict[str, Weights] = {member.treatment.id: {} for member in self.members}
        for number, layer in enumerate(self.architecture.layers, 1):
            for name in layer_names(number):
                if (tensor := tensors.get(_attribute(name))) is not None:
                    for place, member in enumerate(self._learners(number)):
                        own = _unstacked(layer, tensor, place).cpu()
                        parts[member.treatment.id][name] = own
        return parts

    def together(self, parts: Mapping[str, Weights]) -> dict[str, Tensor]:
        """The reverse of `apart`."""
        tensors = {}
        for number, layer in enumerate(self.architecture.layers, 1):
            for name in layer_names(number):
                if learners := self._learners(number):
                    own = [parts[member.treatment.id][name] for member in learners]
                    tensors[_attribute(name)] = _stacked(layer, own)
        return tensors

    def _learners(self, number: int) -> list[Member]:
        """Who learns layer `number`: the first few."""
        return [member for member in self.members if member.treatment.frozen_layers < number]


def _together(x: Tensor | None, joining: Sequence[Tensor], dimension: int) -> Tensor:
    """What is at work and what joins it, side by side; one alone is not copied."""
    parts = [x, *joining] if x is not None else joining
    return torch.cat(list(parts), dimension) if len(parts) > 1 else parts[0]


def _attribute(name: str) -> str:
    return name.replace(".", "_")


def _stacked(layer: Layer, tensors: Sequence[Tensor]) -> Tensor:
    """Convolution weights behind one another, as groups; all others along a new first dimension."""
    if not layer.convolution:
        return torch.stack(list(tensors))
    stacked = torch.cat(list(tensors))
    return stacked.to(memory_format=torch.channels_last) if stacked.dim() == 4 else stacked


def _unstacked(layer: Layer, tensor: Tensor, place: int) -> Tensor:
    if not layer.convolution:
        return tensor[place].detach().clone()
    rows = layer.outputs
    return tensor[place * rows : (place + 1) * rows].detach().clone().contiguous()
