"""Dropout as a pure function: of the network, the layer, the image's place and the unit.

No generator has a state to lose: a restart, another cohort or another worker count draws the same.
"""

import hashlib

import torch
from torch import Tensor

# The finaliser of SplitMix64 (Steele, Lea, Flood, 2014), in wrapping signed arithmetic.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's own carries the sign along."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _FIRST
    x = (x ^ _shift(x, 27)) * _SECOND
    return x ^ _shift(x, 31)


def dropout_seed(*parts: object) -> int:
    """A seed of 63 bits from such parts as a seed, a treatment's id and a layer."""
    digest = hashlib.sha256("\n".join(map(str, ("dropout", *parts))).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def keep_mask(seeds: Tensor, positions: Tensor, units: int, share: float) -> Tensor:
    """Which activations stay when a `share` of them is dropped.

    seeds: int64 [networks]; positions: int64 [b], each image's place in the order of training.
    Returns bool [networks, b, units].
    """
    rows = _mix(_mix(seeds)[:, None] + positions * _GOLDEN)
    # The 64 bits of a draw serve two units.
    pair = torch.arange(-(-units // 2), device=seeds.device) * _GOLDEN
    drawn = _mix(rows[:, :, None] + pair).view(torch.int32)[..., :units]
    return drawn >= int(share * 2**32) - 2**31


def drop(x: Tensor, seeds: Tensor, positions: Tensor, share: float) -> Tensor:
    """Dropout of x [networks, b, units], the rest scaled up to keep the mean."""
    return x * keep_mask(seeds, positions, x.shape[-1], share) * (1 / (1 - share))
