"""Weights on disk: safetensors, never pickle."""

import hashlib

from safetensors import SafetensorError
from safetensors.torch import load, save

from raytransfer.errors import UserError
from raytransfer.nets.network import Weights


def to_bytes(weights: Weights) -> tuple[bytes, str]:
    """Weights as a safetensors file, and the sha256 of it."""
    content = save({name: tensor.contiguous() for name, tensor in weights.items()})
    return content, hashlib.sha256(content).hexdigest()


def from_bytes(content: bytes | None, sha256: str, what: str) -> Weights:
    """The weights in a safetensors file.

    Raises UserError that begins with `what`, as in "The weights of random.0.B", when the file is
    missing, altered or broken.
    """
    if content is None:
        raise UserError(f"{what} are missing.")
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{what} are not those that were written (their sha256 differs).")
    try:
        weights: Weights = load(content)
    except SafetensorError as error:
        raise UserError(f"{what} cannot be read: {error}.") from None
    return weights
