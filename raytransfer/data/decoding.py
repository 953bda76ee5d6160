"""Where images are decoded."""

from dataclasses import dataclass
from typing import Literal

from raytransfer.errors import UserError


@dataclass(frozen=True)
class Decoding:
    """Where images are decoded. It changes no result."""

    decode: Literal["train", "tasks"] = "train"
    """In threads of the training processes, or in tasks of Ray Data, wherever there are cores."""
    decode_resource: str | None = None
    """With tasks: the custom resource of Ray of which each takes one. None: none."""

    def __post_init__(self) -> None:
        if self.decode_resource is not None and self.decode != "tasks":
            raise UserError(
                f"--decode-resource {self.decode_resource} is for --decode tasks only: without "
                "tasks, the training processes decode."
            )


IN_TRAINING = Decoding()
"""What is usual: the bytes of a JPEG travel, a tenth of those of its pixels."""
