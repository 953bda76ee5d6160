"""What a study is: study.json, and whether a folder holds the same one."""

import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from raytransfer import __version__
from raytransfer.errors import UserError
from raytransfer.folder import Folder
from raytransfer.lease import ATTEMPTS
from raytransfer.schedule.prepared import Prepared

STUDY = "study.json"

BINDING = ("recipe", "splits", "data")
"""What changes every network: never mixed in one study."""

HARMLESS = (
    *("treatments", "deterministic", "layout.device", "layout.workers"),
    *("versions.raytransfer", "versions.torch"),
)
"""What leaves networks comparable, but not bit for bit what they would have been: allowed when it
is asked for. Networks depend on nothing but themselves, so there may be more of them, too."""

MOST_LINES = 20


def described(prepared: Prepared, deterministic: bool) -> dict[str, Any]:
    """study.json: all that the study is made from."""
    manifest = prepared.manifest
    return {
        "space": prepared.space.name,
        "treatments": [treatment.id for treatment in prepared.plan.treatments],
        "recipe": prepared.recipe.to_json(),
        "splits": {
            name: {
                "sha256": split.sha256,
                "images_per_class": split.images_per_class,
                "A": [manifest.classes[index] for index in split.a],
                "B": [manifest.classes[index] for index in split.b],
            }
            for name, split in prepared.splits.items()
        },
        "data": {
            "manifest_sha256": manifest.digest,
            "classes": len(manifest.classes),
            "training_images": sum(manifest.train_counts),
            "validation_images": sum(manifest.val_counts),
            "image": [manifest.channels, manifest.height, manifest.width],
        },
        "deterministic": deterministic,
        "layout": {
            "device": prepared.layout.device,
            "workers": prepared.layout.workers,
            "lanes": prepared.layout.lanes,
            "threads": prepared.layout.threads,
        },
        "versions": {
            "raytransfer": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "ray", "pyarrow", "numpy")},
        },
        "git_revision": _git_revision(),
        "command": told([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def told(words: Sequence[str]) -> str:
    """A command as it may be told, without the keys and passwords of its URIs."""
    return re.sub(r"(://)[^/@\s]+@", r"\1", " ".join(words))


def refuse_foreign(folder: Folder) -> None:
    """Raises UserError, before anything is written, where a folder holds something else."""
    names = folder.names()
    if STUDY not in names and set(names) - {ATTEMPTS}:
        raise UserError(f"{folder} is not empty and holds no study; name a new folder for --study.")


def claim(folder: Folder, new: dict[str, Any], allow_change: bool = False) -> None:
    """Write what the study is, or check that the folder holds this one.

    allow_change: take over differences that do no harm, and keep a record of them. Raises UserError
    with every difference, a line each, where the folder holds another study.
    """
    old = folder.read_json(STUDY)
    if old is None:
        folder.write_json(STUDY, new)
        return
    if not isinstance(old, dict):
        raise UserError(f"{STUDY} in the study folder {folder} is not one.")
    binding, harmless = (
        [line for key in keys for line in _differences(key, _at(old, key), _at(new, key))]
        for keys in (BINDING, HARMLESS)
    )
    if binding or (harmless and not allow_change):
        lines = "".join(f"\n  {line}" for line in [*binding, *harmless][:MOST_LINES])
        advice = "name another folder for --study" if binding else "add --allow-change to go on"
        raise UserError(f"{folder} holds a study with other settings; {advice}.{lines}")
    if harmless:
        kept = [id for id in old["treatments"] if id not in new["treatments"]]
        changes = [*old.get("changes", []), {"time": time.time(), "lines": harmless}]
        treatments = [*new["treatments"], *kept]
        folder.write_json(STUDY, {**new, "treatments": treatments, "changes": changes})


def _at(study: Mapping[str, Any], key: str) -> Any:
    value: Any = study
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _differences(key: str, old: Any, new: Any) -> Iterator[str]:
    """Each difference as a line: where, what is there, what is asked for."""
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted({*old, *new}):
            yield from _differences(f"{key}.{name}", old.get(name), new.get(name))
    elif key == "treatments" and isinstance(old, list):
        if fewer := [id for id in old if id not in new]:
            yield f"treatments: {len(fewer)} there are not asked for, such as {fewer[0]}"
        if more := [id for id in new if id not in old]:
            yield f"treatments: {len(more)} asked for are not there, such as {more[0]}"
    else:
        yield f"{key}: {old!r} there, {new!r} asked for"[:200]


def _git_revision() -> str | None:
    """The revision of the source tree that this runs from, or that an image says it was built of;
    None for another installed package."""
    tree = Path(__file__).resolve().parents[2]
    if not (tree / ".git").exists():
        return os.environ.get("RAYTRANSFER_REVISION") or None
    answer = subprocess.run(
        ["git", "-C", str(tree), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip() or None
