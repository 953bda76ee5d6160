"""How a study is run, as `run` takes it and `submit` hands it on."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal

from tyro.conf import FlagCreatePairsOff

Device = Literal["auto", "cpu", "cuda"]
Flag = FlagCreatePairsOff[bool]


@dataclass(frozen=True)
class Running:
    """How a study is run."""

    workers: int | None = None
    """Processes that share the images of every batch. None: 1."""
    networks_per_trial: int | Literal["auto"] = "auto"
    """At most so many networks in a trial; auto: as memory and cores allow."""
    device: Device = "auto"
    """Where to train; auto: on GPUs where there are any."""
    gpus: int | None = None
    """GPUs to use, of a cluster that grows also more than are there. None: all that are there."""
    deterministic: Flag = False
    """Only deterministic operations: slower, and bit-identical when repeated."""
    checkpoint_every: str = "5m"
    """Steps (500), a time (90s, 5m, 1h), or never."""
    stuck_after: float = 600.0
    """Seconds without a batch after which a trial is started again."""
    allow_change: Flag = False
    """Go on with a study whose settings differ where that does no harm."""
    track: Literal["tensorboard", "mlflow", "wandb"] | None = None
    """Send each network's lines to a tracker as a run of its own. None: to none."""


def flags(settings: Any, usual: Any) -> Iterator[str]:
    """The arguments of a command line that make `settings` of `usual`, a data class each."""
    for field in fields(settings):
        value: Any = getattr(settings, field.name)
        if value == getattr(usual, field.name):
            continue
        name = field.name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{name}" if value else f"--no-{name}"
        else:
            yield from (f"--{name}", str(value))
