"""The line that says how far a study is."""

import time

from raytransfer.schedule import progress


class Standing:
    """A study of which nothing is heard any more."""

    networks, finished = 2, 1
    running = ("random:0 A1B",)

    def news(self):
        return []

    def done(self, look_everywhere=False):
        return 0.5


def test_that_no_step_is_made_is_said(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(progress, "SAY_SECONDS", 0.0)
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.1)
    with progress.display(Standing(), show=True):
        time.sleep(0.4)
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == "1 of 2 networks, 50 %, starting Ray random:0 A1B"
    assert last == "1 of 2 networks, 50 %, no step for 0 s random:0 A1B"
