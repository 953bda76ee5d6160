"""The house: which room may import what, and that an import only imports.

Where a test fails, move the code to the room where it belongs; a rule changes with its
reason, here.
"""

import ast
import os
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Which rooms each room may know. errors, folder and lease are everyone's; imports only go down.
ROOMS = {
    "tune_spaces": {"study"},
    "study": {"tune_spaces"},
    "results": {"study"},
    "data": {"study"},
    "nets": {"study"},
    "report": {"results", "study"},
    "train": {"nets", "data", "results", "study"},
    "schedule": {"train", "nets", "data", "results", "study"},
    "__main__": {"cli"},
    "cli": {"schedule", "train", "report", "nets", "data", "results", "study", "tune_spaces"},
}

EVERYONES = {"errors", "folder", "lease", "__version__"}

# Where each large library may be imported. A room, or a module where it is one alone.
LIBRARIES = {
    "torch": {"nets", "train", "schedule"},
    "torchvision": {"data/sources/vision", "schedule/bench"},
    "cv2": {"data"},
    "simplejpeg": {"data"},
    "safetensors": {"nets"},
    "ray": {"schedule", "train/workers"},
    "ray.data": {"data", "train"},
    "ray.exceptions": {"data/mapping", "schedule"},
    "ray.train": {"train", "schedule"},
    "ray.tune": {"schedule", "tune_spaces"},
    "plotly": {"report"},
    "pyarrow": {"data", "results", "folder"},
    "scipy": {"results", "data/sources/truth"},
    "PIL": {"data", "report/weights"},
    "aiohttp": {"schedule/submission"},
    "mlflow": {"schedule/track"},
    "wandb": {"schedule/track"},
    "tyro": {"cli"},
    "rich": {"cli", "schedule/progress"},
}
ANYWHERE = {"numpy", "raytransfer", "tune_spaces"}

# Train reaches Ray through one module; the rest of the training core runs without it.
RAY_IN_TRAIN = "train/workers"

SOURCES = sorted(
    path.relative_to(ROOT)
    for folder in ("raytransfer", "tune_spaces")
    for path in (ROOT / folder).rglob("*.py")
)


def place_of(path):
    """Room/module, such as train/cohort; a room of one module is both."""
    parts = path.with_suffix("").parts
    return "/".join(parts if parts[0] == "tune_spaces" else parts[1:])


@lru_cache
def tree_of(path):
    return ast.parse((ROOT / path).read_text())


def imports_of(path):
    """Every module and name that a file imports, as dotted names, with their lines."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are written in full"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def named(sources):
    return pytest.mark.parametrize("path", sources, ids=str)


@named(SOURCES)
def test_imports_only_go_down(path):
    room = place_of(path).split("/")[0]
    if room == "__init__":
        return
    for name, line in imports_of(path):
        parts = name.split(".")
        if parts[0] == "tune_spaces":
            other = "tune_spaces"
        elif parts[0] == "raytransfer" and parts[1] not in EVERYONES:
            other = parts[1]
        else:
            continue
        assert other == room or other in ROOMS[room], f"{path}:{line}: {room} imports {name}"


@named(SOURCES)
def test_libraries_appear_only_where_they_are_named(path):
    place = place_of(path)
    for name, line in imports_of(path):
        package, second, *_ = [*name.split("."), ""]
        if package in sys.stdlib_module_names or package in ANYWHERE:
            continue
        rule = f"{package}.{second}" if f"{package}.{second}" in LIBRARIES else package
        assert rule in LIBRARIES, f"{path}:{line}: {name} is new: name its rooms in this test"
        allowed = place in LIBRARIES[rule] or place.split("/")[0] in LIBRARIES[rule]
        assert allowed, f"{path}:{line}: {name} belongs in {sorted(LIBRARIES[rule])}"


@named([path for path in SOURCES if place_of(path).startswith("train/")])
def test_the_training_core_runs_without_ray(path):
    if place_of(path) != RAY_IN_TRAIN:
        assert not [name for name, _ in imports_of(path) if name.split(".")[0] == "ray"]


@named(SOURCES)
def test_no_private_names_of_others_are_used(path):
    modules = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            modules |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules |= {alias.asname or alias.name for alias in node.names}
    for name, line in imports_of(path):
        private = [part for part in name.split(".") if re.match(r"_(?!_)", part)]
        assert not private, f"{path}:{line}: {name} is private"
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.Attribute) or not re.match(r"_(?!_)", node.attr):
            continue
        if ast.unparse(node) == "os._exit":  # for all its name, documented
            continue
        owner = node.value
        while isinstance(owner, ast.Attribute):
            owner = owner.value
        imported = isinstance(owner, ast.Name) and owner.id in modules
        assert not imported, f"{path}:{node.lineno}: {ast.unparse(node)} is private"


@named(SOURCES)
def test_a_module_has_at_most_400_lines_and_says_what_it_is(path):
    text = (ROOT / path).read_text()
    assert len(text.splitlines()) <= 400
    assert not text.strip() or ast.get_docstring(tree_of(path)), f"{path} has no docstring"


def test_no_module_is_a_drawer():
    drawers = {"utils", "util", "helpers", "helper", "misc", "common", "manager", "base"}
    assert not [path for path in SOURCES if path.stem in drawers]


def modules_of(rooms):
    return [
        ".".join(path.with_suffix("").parts).removesuffix(".__init__")
        for path in SOURCES
        if place_of(path).split("/")[0] in rooms and path.stem != "__main__"
    ]


# Imports the modules that it is given. Libraries may do as they like when they are imported; then
# a hook notes what our own modules do while they are.
WATCHER = """
import importlib, sys

blocked, libraries, modules = (words.split() for words in sys.argv[1:])

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ImportError(f"{name} is not to be imported here")

sys.meta_path.insert(0, Blocker())
for name in libraries:
    importlib.import_module(name)

seen = []
SOURCE = (".py", ".pyc", ".so")

def hook(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        if str(path).endswith(SOURCE) and flags & 3 == 0:
            return
        seen.append(f"{event} {path} {mode}")
    elif event in ("os.mkdir", "os.remove", "os.rename", "os.system", "subprocess.Popen",
                   "socket.connect", "socket.bind", "_thread.start_new_thread", "os.fork"):
        seen.append(f"{event} {arguments}")

sys.addaudithook(hook)
for name in modules:
    importlib.import_module(name)
found = list(seen)
print("\\n".join(found))
sys.exit(bool(found))
"""


def watch(blocked, libraries, modules):
    return subprocess.run(
        [sys.executable, "-c", WATCHER, *map(" ".join, (blocked, libraries, modules))],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_study_results_report_and_commands_work_where_neither_torch_nor_ray_can_be_imported():
    """And importing them opens no file, makes no folder and starts nothing."""
    libraries = ["numpy", "scipy.stats", "pyarrow.fs", "pyarrow.parquet", "plotly.graph_objects"]
    libraries += ["plotly.io", "plotly.offline", "plotly.subplots", "tyro.conf", "tyro.extras"]
    rooms = {"__init__", "errors", "study", "results", "report", "tune_spaces", "cli"}
    watched = watch(["torch", "ray"], libraries, modules_of(rooms))
    assert watched.returncode == 0, watched.stdout + watched.stderr


def test_importing_nets_data_and_the_training_core_opens_and_starts_nothing():
    libraries = ["numpy", "torch", "torch.nn.parallel", "safetensors.torch", "pyarrow.parquet"]
    libraries += ["pyarrow.fs", "PIL.Image", "scipy.stats", "importlib.resources", "gzip"]
    modules = [name for name in modules_of({"nets", "data", "train"}) if "workers" not in name]
    watched = watch(["ray"], libraries, modules)
    assert watched.returncode == 0, watched.stdout + watched.stderr


def test_the_readme_shows_the_files_that_there_are():
    readme = (ROOT / "README.md").read_text()
    block = readme.split("## Layout")[1].split("```")[1]
    shown, folder = set(), ""
    for line in block.strip().splitlines():
        name = line.split()[0]
        nested = line.startswith(" ")
        folder = folder if nested else name
        shown.add(f"{folder}{name}" if nested else name)
    for name in shown:
        assert (ROOT / name).exists(), f"the README's layout names {name}, which is not there"
    package = {f"raytransfer/{p.parent.name}/" for p in ROOT.glob("raytransfer/*/*") if p.is_file()}
    assert {name for name in package if "__pycache__" not in name} <= shown


def test_the_readme_names_every_command_and_space():
    from raytransfer.cli import COMMANDS
    from raytransfer.study.space import space_names

    readme = (ROOT / "README.md").read_text()
    assert all(f"raytransfer {name}" in readme for name in COMMANDS)
    assert all(f"| `{name}` |" in readme for name in space_names())


def test_ray_is_not_imported_before_a_session_has_made_its_settings():
    """Such as not to run uv in every worker, which it looks up as it is imported."""
    words = "import sys, raytransfer.schedule.driver; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words], check=False).returncode == 0
