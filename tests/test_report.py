"""The report page: its content, its bytes, and what a browser sees of it."""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from raytransfer.errors import UserError
from raytransfer.report.page import page, write_report
from raytransfer.results.table import Results, in_study_order, network_row
from raytransfer.study.treatment import Treatment

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
REASON = "loss became NaN at step 40 </script><img src=x onerror=alert(1)> & more"
FALL = {"random": 0.10, "dissimilar": 0.25}


def realistic() -> Results:
    """Four random splits in both directions with two seeds, one dissimilar split, one failed
    network, one pending, and one cell that nobody planned."""
    rows: list[dict[str, Any]] = []
    curves: dict[str, list[dict[str, Any]]] = {}
    generator = np.random.default_rng(7)
    treatments = []
    for split, seeds in (
        *((f"random:{s}", (0, 1)) for s in range(4)),
        ("dissimilar", (0, 1, 2)),
    ):
        for seed in seeds:
            for target, other in (("A", "B"), ("B", "A")):
                treatments.append(Treatment(split, target, seed=seed))
                for n in range(1, 8):
                    treatments.append(Treatment(split, target, other, n, seed=seed))
                    if split == "dissimilar":
                        continue
                    treatments.append(Treatment(split, target, target, n, seed=seed))
                    treatments.append(Treatment(split, target, target, n, True, seed))
                    treatments.append(Treatment(split, target, "R", n, seed=seed))
                    if n != 6:
                        treatments.append(Treatment(split, target, other, n, True, seed))
    for treatment in treatments:
        if treatment.id == "random:1.A5B.s0":
            rows.append(network_row(treatment, state="failed", reason=REASON))
        elif treatment.id == "random:3.B7A+.s1":
            rows.append(network_row(treatment, state="pending", reason="not started"))
        else:
            curve = _curve(treatment, generator)
            curves[treatment.id] = curve
            rows.append(_finished(treatment, curve))
    provenance = {
        "space": "balanced",
        "command": ["raytransfer", "run", "balanced", "--data", "shards", "--study", "study"],
        "recipe": {"network": "small", "batch": 128, "steps": 1000, "schedule": {"kind": "step"}},
        "splits": {
            "random:0": {
                "A": [f"class {k} <b>" for k in range(0, 40, 2)],
                "B": [f"class {k}" for k in range(1, 40, 2)],
            }
        },
        "versions": {"torch": "2.8.0", "ray": "2.60.0"},
        "revision": "0123abc",
    }
    return Results(in_study_order(rows), curves, provenance)


def _curve(treatment: Treatment, generator: np.random.Generator) -> list[dict[str, Any]]:
    n, depth = treatment.n, max(0, treatment.n - 2) / 5
    family = treatment.split.split(":")[0]
    level = 0.62 + (0.02 if treatment.target == "B" else 0.0)
    effect = {
        "base": 0.0,
        "selffer": 0.012 if treatment.finetuned else -0.03 * math.exp(-((n - 4.5) ** 2)),
        "transfer": 0.016 if treatment.finetuned else -FALL[family] * depth**1.4,
        "untrained": -0.06 * n,
    }[treatment.kind]
    top = level + effect + generator.normal(0, 0.004)
    steps = np.arange(50, 1050, 50)
    return [
        {
            "step": int(step),
            "images": int(step) * 128,
            "epoch": step / 100,
            "learning_rate": 0.01,
            "train_loss": float(2.3 * math.exp(-step / 300) + 0.4 + generator.normal(0, 0.03)),
            "top1": float(top * (1 - 0.6 * math.exp(-step / 160)) + generator.normal(0, 0.002)),
            "top5": 0.95,
            "loss": 1.0,
        }
        for step in steps
    ]


def _finished(treatment: Treatment, curve: list[dict[str, Any]]) -> dict[str, Any]:
    scores = [row["top1"] for row in curve]
    return network_row(
        treatment,
        state="finished",
        top1=scores[-1],
        top5=0.95,
        top1_best10=sum(sorted(scores)[-10:]) / 10,
        loss=1.0,
        train_loss=curve[-1]["train_loss"],
        steps=1000,
        images=128_000,
        seconds=4.25,
        images_per_second=30_117.6,
        weights_sha256="5f" * 32,
        frozen_sha256=None if treatment.finetuned or not treatment.n else "a0" * 32,
        parent_sha256="77" * 32 if treatment.parent else None,
    )


@pytest.fixture(scope="module")
def results() -> Results:
    return realistic()


@pytest.fixture(scope="module")
def report(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "report.html"
    write_report(results, out)
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        reason = f"the page is tested in Chromium, and there is no {CHROMIUM}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()
