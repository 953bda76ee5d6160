"""From uint8 images to a network's input, on the device: crop, mirror, subtract the mean."""

import torch
from torch import Tensor
from torch.nn import functional as F


def crop(
    images: Tensor, mean: Tensor, side: int, pad: int, draws: Tensor | None, mirror: bool
) -> Tensor:
    """Square crops less the mean image, cropped alike (paper, section 3).

    images: uint8 [b, channels, height, width]; mean: float32 [channels, height, width] in pixel
    values. draws: uniform float64 [b, 3], below 1, for top, left and mirror; None takes the centre
    crop and mirrors nothing. pad: pixels of mean colour around the image before a random crop.
    Returns float32 [b, channels, side, side].
    """
    height, width = images.shape[-2:]
    x = images.float() - mean
    if draws is None:
        top, left = (height - side) // 2, (width - side) // 2
        return x[:, :, top : top + side, left : left + side]
    if pad:
        x = F.pad(x, (pad, pad, pad, pad))
        height, width = x.shape[-2:]
    steps = torch.arange(side, device=images.device)
    rows = (draws[:, :1] * (height - side + 1)).long() + steps
    columns = (draws[:, 1:2] * (width - side + 1)).long() + steps
    if mirror:
        columns = torch.where(draws[:, 2:] < 0.5, columns.flip(1), columns)
    places = rows[:, :, None] * width + columns[:, None, :]
    channels = x.shape[1]
    index = places.flatten(1)[:, None, :].expand(-1, channels, -1)
    return x.flatten(2).gather(2, index).view(-1, channels, side, side)
