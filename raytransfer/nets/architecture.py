"""Architectures: a network is a list of eight layers, each with weights."""

from dataclasses import dataclass, replace
from math import prod

from raytransfer.errors import UserError

Shape = tuple[int, int, int]
"""Channels, height, width."""


@dataclass(frozen=True)
class Layer:
    """One weight layer and the operations up to the next one, without dropout.

    Order of operations as in the paper's network: weights, ReLU, max-pool, response normalisation.
    """

    outputs: int
    """Channels of a convolution, units of a full layer."""
    kernel: int | None = None
    """Side of a convolution's kernel; None for a full layer."""
    stride: int = 1
    padding: int = 0
    groups: int = 1
    std: float | None = None
    """Standard deviation of initial weights; None for He's, sqrt(2 / fan-in)."""
    bias: float = 0.0
    """Initial bias."""
    relu: bool = True
    pool: tuple[int, int] | None = None
    """Kernel and stride of the max-pool; None for none."""
    normalise: bool = False
    """Local response normalisation across 5 channels."""
    dropout: bool = False
    """Whether the recipe's dropout follows this layer."""

    @property
    def convolution(self) -> bool:
        return self.kernel is not None

    def weight_shape(self, inputs: Shape) -> tuple[int, ...]:
        """Shape of the weights as PyTorch has it: [outputs, inputs / groups(, side, side)]."""
        if self.kernel is None:
            return (self.outputs, inputs[0] * inputs[1] * inputs[2])
        return (self.outputs, inputs[0] // self.groups, self.kernel, self.kernel)

    def output_shape(self, inputs: Shape) -> Shape:
        if self.kernel is None:
            return (self.outputs, 1, 1)
        sides = [(side + 2 * self.padding - self.kernel) // self.stride + 1 for side in inputs[1:]]
        if self.pool is not None:
            sides = [(side - self.pool[0]) // self.pool[1] + 1 for side in sides]
        return (self.outputs, sides[0], sides[1])

    def multiply_adds(self, inputs: Shape) -> int:
        """Multiply-adds of one image's forward pass."""
        weights = prod(self.weight_shape(inputs))
        if self.kernel is None:
            return weights
        height, width = replace(self, pool=None).output_shape(inputs)[1:]
        return weights * height * width


@dataclass(frozen=True)
class Architecture:
    """Eight layers, the image that they take, and what pixels are multiplied by."""

    name: str
    side: int
    """Height and width of the input, cropped from the image."""
    layers: tuple[Layer, ...]
    """Layers 1 to 8; the last one's outputs are a placeholder for the task's classes."""
    scale: float = 1.0
    """Factor of pixel values (0 to 255) once the mean is subtracted."""

    def with_outputs(self, outputs: int) -> "Architecture":
        """The architecture with `outputs` classes."""
        return replace(self, layers=(*self.layers[:-1], replace(self.layers[-1], outputs=outputs)))

    def input_shapes(self, channels: int) -> list[Shape]:
        """Input shape of each layer, for images of `channels` channels."""
        shapes: list[Shape] = [(channels, self.side, self.side)]
        for layer in self.layers[:-1]:
            shapes.append(layer.output_shape(shapes[-1]))
        return shapes

    def multiply_adds(self, channels: int) -> list[int]:
        """Multiply-adds of one image's forward pass, by layer."""
        shapes = self.input_shapes(channels)
        return [
            layer.multiply_adds(shape) for layer, shape in zip(self.layers, shapes, strict=True)
        ]

    @property
    def first_dropout(self) -> int:
        """How many layers come before the first dropout, the one that it follows counted in."""
        for index, layer in enumerate(self.layers):
            if layer.dropout:
                return index + 1
        return len(self.layers)


CAFFENET = Architecture(
    name="caffenet",
    side=227,
    layers=(
        Layer(96, 11, stride=4, std=0.01, pool=(3, 2), normalise=True),
        Layer(256, 5, padding=2, groups=2, std=0.01, bias=1.0, pool=(3, 2), normalise=True),
        Layer(384, 3, padding=1, std=0.01),
        Layer(384, 3, padding=1, groups=2, std=0.01, bias=1.0),
        Layer(256, 3, padding=1, groups=2, std=0.01, bias=1.0, pool=(3, 2)),
        Layer(4096, std=0.005, bias=1.0, dropout=True),
        Layer(4096, std=0.005, bias=1.0, dropout=True),
        Layer(1000, std=0.01, relu=False),
    ),
)
"""The paper's network (Caffe's reference model), layer by layer."""

SMALL = Architecture(
    name="small",
    side=28,
    scale=1 / 64,
    layers=(
        Layer(8, 5, stride=2, padding=2),
        Layer(8, 3, padding=1, pool=(2, 2)),
        Layer(8, 3, padding=1),
        Layer(8, 3, padding=1),
        Layer(8, 3, padding=1, pool=(2, 2)),
        Layer(64, dropout=True),
        Layer(64, dropout=True),
        Layer(10, relu=False),
    ),
)
"""For images of 28x28: the same eight layers, narrow enough to train in seconds."""

_ARCHITECTURES = {architecture.name: architecture for architecture in (CAFFENET, SMALL)}


def architecture(name: str, outputs: int) -> Architecture:
    """The architecture called `name` with `outputs` classes."""
    if name not in _ARCHITECTURES:
        raise UserError(f"There is no network {name!r}; known: {', '.join(_ARCHITECTURES)}.")
    return _ARCHITECTURES[name].with_outputs(outputs)
