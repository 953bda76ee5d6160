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


def from_bytes(content: bytes | None, sha256: str, name: str) -> Weights:
    """The weights in a safetensors file.

    Raises UserError, with the network's `name`, when the file is missing, altered or broken.
    """
    if content is None:
        raise UserError(f"The final weights of {name} are missing; remove its folder to retrain.")
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(
            f"The final weights of {name} are not those that were written (their sha256 differs); "
            "remove its folder to train it again."
        )
    try:
        weights: Weights = load(content)
    except SafetensorError as error:
        raise UserError(f"The final weights of {name} cannot be read: {error}.") from None
    return weights
