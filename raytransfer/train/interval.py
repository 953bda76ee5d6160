"""How often a checkpoint is written: every so many steps, or every so many seconds."""

import re
from dataclasses import dataclass

from raytransfer.errors import UserError

_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600}


@dataclass(frozen=True)
class Interval:
    """Whichever is over first; None for neither."""

    steps: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Interval":
        """From such as 500 (steps), 90s, 5m, 1h or never. Raises UserError for anything else."""
        if text == "never":
            return NEVER
        found = re.fullmatch(r"([0-9]+)(s|m|min|h)?", text)
        if found is None or int(found[1]) == 0:
            raise UserError(
                f"--checkpoint-every is a number of steps, or a time such as 90s, 5m or 1h, or "
                f"never; not {text!r}."
            )
        if found[2] is None:
            return cls(steps=int(found[1]))
        return cls(seconds=float(found[1]) * _SECONDS[found[2]])

    def over(self, steps: int, seconds: float) -> bool:
        """Whether it is, after so many steps and seconds."""
        return (self.steps is not None and steps >= self.steps) or (
            self.seconds is not None and seconds >= self.seconds
        )


NEVER = Interval()
