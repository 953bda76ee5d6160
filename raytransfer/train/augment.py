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
    channels, height, width = images.shape[1:]
    if draws is None:
        top, left = (height - side) // 2, (width - side) // 2
        window = (..., slice(top, top + side), slice(left, left + side))
        return images[window].float() - mean[window]
    if pad:
        # Nothing less a mean of nothing: as if of mean colour.
        images, mean = (F.pad(x, (pad, pad, pad, pad)) for x in (images, mean))
        height, width = height + 2 * pad, width + 2 * pad
    tops = (draws[:, 0] * (height - side + 1)).long()
    lefts = (draws[:, 1] * (width - side + 1)).long()
    # Channels last in memory, as images come: each row of a window is one run of bytes.
    rows, means = images.permute(0, 2, 3, 1), mean.permute(1, 2, 0)[None]
    which, of_mean = torch.arange(len(images), device=images.device), torch.zeros_like(lefts)
    if mirror:
        # Mirror images come after all others; in them a window lies as far from the right.
        rows, means = (torch.cat([x, x.flip(2)]) for x in (rows, means))
        turned = draws[:, 2] < 0.5
        which, of_mean = which + turned * len(images), turned.long()
        lefts = torch.where(turned, width - side - lefts, lefts)
    pixels = _windows(rows, side)[which, tops, lefts]
    less = _windows(means, side)[of_mean, tops, lefts]
    x = torch.sub(pixels, less, out=less)
    return x.view(-1, side, side, channels).permute(0, 3, 1, 2)


def _windows(images: Tensor, side: int) -> Tensor:
    """All square windows of images [n, height, width, channels], as a view
    [n, tops, lefts, side, side * channels]."""
    channels = images.shape[3]
    return images.flatten(2).unfold(1, side, 1).unfold(2, side * channels, channels)
