"""The line that says how far a study is."""

import re
import time

import pytest

from raytransfer.schedule import progress


class Standing:
    """A study of which nothing is heard any more."""

    networks, finished = 2, 1
    running = ("random:0 A1B",)

    def news(self):
        return []

    def done(self, look_everywhere=False):
        return 0.5


class Away(Standing):
    """One whose store answers once, and then no more."""

    asked = 0

    def done(self, look_everywhere=False):
        self.asked += 1
        if self.asked > 1:
            raise OSError("When listing objects: AWS Error NETWORK_CONNECTION")
        return 0.5


@pytest.mark.parametrize("study", [Standing(), Away()])
def test_that_no_step_is_made_is_said(monkeypatch, capsys, study):
    monkeypatch.setattr(progress, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(progress, "SAY_SECONDS", 0.0)
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.1)
    with progress.display(study, show=True):
        time.sleep(0.4)
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == "1 of 2 networks, 50 %, starting Ray random:0 A1B"
    said = r"1 of 2 networks, 50 %, starting Ray, no step for \d+ s random:0 A1B"
    assert re.fullmatch(said, last)
