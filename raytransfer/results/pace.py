"""How long a study still takes, by what it has done since it was first seen to move."""

import time


class Pace:
    """Told now and then of the share of the work that is done, 0 to 1."""

    def __init__(self) -> None:
        self._start: tuple[float, float] | None = None

    def left(self, share: float) -> str | None:
        """The time left, such as "4:05 left"; None while nothing has been seen to move."""
        now = time.monotonic()
        if self._start is None or share < self._start[1]:
            self._start = now, share
        since, first = self._start
        if share == first:
            self._start = now, share
            return None
        minutes, seconds = divmod(int((now - since) / (share - first) * (1 - share)), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes:02} min left" if hours else f"{minutes}:{seconds:02} left"
