"""benchmarks/device.py: what it measures can be read by a plan, and what cannot be is said."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from raytransfer.schedule.measured import measured_rate, read_measured
from raytransfer.study.recipe import Recipe

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import device  # noqa: E402

sys.path.remove(str(BENCHMARKS))


def task(**changes):
    settings = {
        "network": "small",
        "precision": "float32",
        "compiled": False,
        "batch": 4,
        "networks": 3,
        "device": "cpu",
        "threads": 1,
        "warm_up": 1,
        "steps": 2,
    }
    return device.Task(**settings | changes)


def test_what_it_writes_a_plan_reads(tmp_path):
    path = tmp_path / "device.json"
    options = ["--device", "cpu", "--network", "small", "--batch", "4", "--networks", "1", "3"]
    options += ["--precision", "float32", "--compile-up-to", "0", "--steps", "2"]
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "device.py", *options, "--out", path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads(path.read_text())["rows"]
    assert [row["networks"] for row in rows] == [1, 3]
    assert all(row["peak_bytes"] > 0 and row["seconds"] > 0 for row in rows)
    rate = measured_rate(read_measured(path), path, Recipe(network="small"), 32)
    assert rate.networks == (1, 3)
    assert rate.of(1) == pytest.approx(rows[0]["operations"] / rows[0]["seconds"])


def test_one_network_is_the_base_and_more_are_every_kind_of_them():
    assert [t.label for t in device.mixture(1)] == ["baseB"]
    assert [t.label for t in device.mixture(4)] == ["B4B", "A4B", "B4B+", "A4B+"]
    assert len({t.label for t in device.mixture(28)}) == 28
    assert len(set(device.mixture(device.MOST))) == device.MOST


def test_a_row_says_when_memory_is_short_and_when_nothing_can_be_compiled(monkeypatch):
    def failing(error):
        def build(task):
            raise error

        monkeypatch.setattr(device, "build", build)

    failing(MemoryError())
    assert device.measure(task())["note"] == "out of memory"
    failing(RuntimeError("CUDNN_STATUS_ALLOC_FAILED"))
    assert device.measure(task(compiled=True))["note"] == "out of memory"
    failing(RuntimeError("no compiler\nsays a long trace"))
    row = device.measure(task(compiled=True))
    assert row["note"] == "cannot be compiled here: RuntimeError: no compiler"
    assert row["seconds"] is None
    with pytest.raises(RuntimeError, match="no compiler"):
        device.measure(task())


@pytest.mark.parametrize("limit", [1, 2, 5, 37, 100, device.MOST])
def test_the_most_networks_that_fit_are_found_by_trying(limit, monkeypatch):
    tried = []

    def apart(function, asked):
        tried.append(asked.networks)
        return {"seconds": 1.0 if asked.networks <= limit else None}

    monkeypatch.setattr(device, "apart", apart)
    found = device.most_that_fit(lambda **more: task(**{"device": "cuda", **more}), 10**7)
    assert limit * (1 - device.CLOSE) - 1 <= found <= limit
    assert len(tried) <= 12
    assert len(tried) == len(set(tried))


def test_on_a_cpu_nothing_is_tried(monkeypatch):
    monkeypatch.setattr(device, "apart", None)
    assert 1 < device.most_that_fit(lambda **more: task(**more), 10**8) <= device.MOST
