"""One network as plain PyTorch, and its weights: initialise, transplant, hash."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raytransfer.nets.architecture import Architecture, Layer
from raytransfer.study.treatment import Treatment

Weights = dict[str, Tensor]
"""Tensors by name: layer1.weight, layer1.bias, ... layer8.bias; layers count from 1."""


def layer_names(layer: int) -> tuple[str, str]:
    """Names of the weights and the biases of layer 1 to 8."""
    return f"layer{layer}.weight", f"layer{layer}.bias"


def seeded_generator(*parts: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose seed is a hash of `parts`, such as a seed, a purpose and a treatment id."""
    digest = hashlib.sha256("\n".join(map(str, parts)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def initial_weights(
    architecture: Architecture, channels: int, generator: torch.Generator
) -> Weights:
    """Fresh weights, drawn layer by layer from `generator` on the CPU."""
    weights: Weights = {}
    shapes = architecture.input_shapes(channels)
    for number, (layer, inputs) in enumerate(zip(architecture.layers, shapes, strict=True), 1):
        shape = layer.weight_shape(inputs)
        fan_in = torch.Size(shape[1:]).numel()
        std = layer.std if layer.std is not None else (2 / fan_in) ** 0.5
        weight, bias = layer_names(number)
        weights[weight] = torch.randn(shape, generator=generator) * std
        weights[bias] = torch.full((layer.outputs,), layer.bias)
    return weights


def untrained_weights(treatment: Treatment, architecture: Architecture, channels: int) -> Weights:
    """The random network that all untrained-filter networks of one split and seed copy from."""
    generator = seeded_generator(treatment.seed, "untrained", treatment.split)
    return initial_weights(architecture, channels, generator)


def transplant(
    treatment: Treatment, architecture: Architecture, channels: int, parent: Weights | None
) -> Weights:
    """A treatment's weights before training: new ones, the first n layers replaced by the parent's.

    The new ones are drawn from the treatment's own seed, independently of its parent's and of every
    other treatment's. `parent` is None for a base.
    """
    weights = initial_weights(
        architecture, channels, seeded_generator(treatment.seed, "initial", treatment.id)
    )
    for number in range(1, treatment.n + 1):
        for name in layer_names(number):
            assert parent is not None
            weights[name] = parent[name].clone()
    return weights


def layers_sha256(weights: Mapping[str, Tensor], layers: int) -> str:
    """Hash of the tensors of the first `layers` layers: names, shapes and bytes."""
    digest = hashlib.sha256()
    for number in range(1, layers + 1):
        for name in layer_names(number):
            tensor = weights[name].detach().cpu().contiguous()
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def moved(start: Mapping[str, Tensor], end: Mapping[str, Tensor], layers: int) -> list[float]:
    """How far each layer's weights went: the distance from their start, over the start's norm."""
    distances = []
    for number in range(1, layers + 1):
        weight, _ = layer_names(number)
        begun, ended = start[weight].double(), end[weight].cpu().double()
        distances.append(float((ended - begun).norm() / begun.norm()))
    return distances


def after_weights(layer: Layer, x: Tensor, networks: int = 1) -> Tensor:
    """What follows a layer's weights: ReLU, max-pool, response normalisation.

    x: [images, networks * channels, height, width], or [..., units] for a full layer.
    """
    if layer.pool is not None:
        # The same as pooling after the ReLU, on a quarter of the values.
        x = F.max_pool2d(x, *layer.pool)
    if layer.relu:
        x = F.relu(x, inplace=True)
    if layer.normalise:
        images, channels, *sides = x.shape
        # Caffe's k is 1 and its alpha is divided by the size, as PyTorch's is. Of images with two
        # sides, PyTorch would pool in three dimensions: no GPU does that deterministically. In
        # float32, as bfloat16 would keep two or three digits of the sum of squares.
        x = F.local_response_norm(
            x.reshape(images * networks, channels // networks, -1).float(), 5, 1e-4, 0.75, 1.0
        ).reshape(images, channels, *sides)
    return x


class Network(nn.Module):
    """One network of eight layers.

    Input [images, channels, side, side], mean subtracted and scaled; output [images, classes].
    """

    def __init__(self, architecture: Architecture, weights: Weights, dropout: float = 0.0) -> None:
        super().__init__()
        self.architecture = architecture
        self.dropout = dropout
        for number in range(1, len(architecture.layers) + 1):
            weight, bias = layer_names(number)
            layer = nn.Module()
            layer.weight = nn.Parameter(weights[weight].clone())
            layer.bias = nn.Parameter(weights[bias].clone())
            self.add_module(f"layer{number}", layer)

    def forward(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Layers start + 1 to stop (all by default), each with what follows it."""
        for number, layer in enumerate(self.architecture.layers, 1):
            if number <= start or (stop is not None and number > stop):
                continue
            weight, bias = (self.get_parameter(name) for name in layer_names(number))
            if layer.convolution:
                x = F.conv2d(x, weight, bias, layer.stride, layer.padding, groups=layer.groups)
            else:
                x = F.linear(x.flatten(1), weight, bias)
            x = after_weights(layer, x)
            if layer.dropout:
                x = F.dropout(x, self.dropout, self.training)
        return x
