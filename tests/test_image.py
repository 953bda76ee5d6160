"""The container image: rules of its files, each shown to bite, and the image built and run.

The build needs root, 15 GB of disk, and Debian's podman, runc and mmdebstrap.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
IGNORED = (ROOT / ".dockerignore").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# ---- The Dockerfile.


def instructions(text: str) -> list[tuple[str, str]]:
    """Each instruction's word and its arguments on one line, without comments."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line]


def last_stage(text: str) -> list[tuple[str, str]]:
    all = instructions(text)
    return all[max(i for i, (word, _) in enumerate(all) if word == "FROM") :]


def has_one_base(text: str) -> bool:
    first, *rest = instructions(text)
    stages = {"${BASE_IMAGE}"}
    for arguments in (arguments for word, arguments in rest if word == "FROM"):
        source, *named = arguments.split()
        if source not in stages:
            return False
        stages |= set(named[1:])
    return first[0] == "ARG" and bool(re.fullmatch(r"BASE_IMAGE=\S+:[\w.-]*\d[\w.-]*", first[1]))


def installs_what_is_pinned(text: str) -> bool:
    runs = [arguments for word, arguments in instructions(text) if word == "RUN"]
    steps = [step for run in runs for step in run.split("&&") if "pip install" in step]
    return bool(steps) and all("--require-hashes" in s or "--no-deps" in s for s in steps)


def ends_with_the_wheel(text: str) -> bool:
    """Below it one layer with all that is pinned, which a change of ours leaves as it is."""
    layers = [f"{word} {rest}" for word, rest in last_stage(text) if word in ("RUN", "COPY", "ADD")]
    *_, pins, dependencies, wheel = layers
    return (
        pins.startswith("COPY .docker ")
        and "/requirements.txt" in dependencies
        and wheel.startswith("COPY --from=wheel ")
        and sum(layer.startswith("COPY") for layer in layers) == 2
    )


def tells_version_and_revision(text: str) -> bool:
    stage = last_stage(text)
    arguments = {rest for word, rest in stage if word == "ARG"}
    labels = " ".join(rest for word, rest in stage if word == "LABEL")
    return {"VERSION", "REVISION"} <= arguments and all(
        f'org.opencontainers.image.{name.lower()}="${{{name}}}"' in labels
        for name in ("VERSION", "REVISION")
    )


def lets_in_only_what_it_copies(text: str) -> bool:
    copies = [rest.split()[:-1] for word, rest in instructions(text) if word == "COPY"]
    sources = {name for names in copies if "--from" not in names[0] for name in names}
    first, *rest = IGNORED.splitlines()
    return first == "*" and {name[1:] for name in rest if name[0] == "!"} == {
        name.split("/")[0] for name in sources
    }


RULES: dict[str, Callable[[str], bool]] = {
    "older builders read it": lambda text: (
        not re.search(r"^#\s*(syntax|escape|check)\s*=", text, re.M | re.I)
        and "<<" not in text
        and "--mount" not in text
    ),
    "one base": has_one_base,
    "user": lambda text: [r for word, r in last_stage(text) if word == "USER"] == ["1000:100"],
    "pinned": installs_what_is_pinned,
    "the wheel is the last layer": ends_with_the_wheel,
    "labels": tells_version_and_revision,
    "copies": lets_in_only_what_it_copies,
    "no address": lambda text: "://" not in text,
    "probes": lambda text: any(word == "RUN" and " wget " in r for word, r in last_stage(text)),
}

# What breaks each rule: the words of the Dockerfile that change, and into what.
BREAKS = [
    ("older builders read it", "# Ray's head", "# syntax=docker/dockerfile:1\n# Ray's head"),
    (
        "older builders read it",
        "RUN python3.11 -m venv",
        "RUN --mount=type=cache,target=/c python3.11 -m venv",
    ),
    ("older builders read it", "WORKDIR /src", "COPY <<END /src/note\nnote\nEND\nWORKDIR /src"),
    ("one base", "ARG BASE_IMAGE=python:3.11-slim-bookworm", "ARG BASE_IMAGE"),
    ("one base", "python:3.11-slim-bookworm", "python:latest"),
    ("one base", "FROM ${BASE_IMAGE} AS wheel", "FROM debian:12 AS wheel"),
    ("user", "USER 1000:100", "USER ray"),
    ("user", "USER 1000:100\n", ""),
    ("user", "USER 1000:100\n", "USER 1000:100\nUSER root\n"),
    ("pinned", ":all: --require-hashes", ":all:"),
    ("pinned", "--no-build --require-hashes", "--no-build"),
    ("pinned", "--no-deps", ""),
    ("the wheel is the last layer", "USER 1000:100", "RUN ray --version\nUSER 1000:100"),
    ("the wheel is the last layer", "COPY .docker /opt/pins", "COPY . /opt/pins"),
    ("labels", "ARG REVISION\n", ""),
    ("labels", '.version="${VERSION}"', '.version="0.1.0"'),
    ("copies", "COPY tune_spaces tune_spaces", "COPY tests tests"),
    ("no address", "--no-deps", "--no-deps --index-url https://registry.example/simple"),
    ("probes", "ca-certificates wget", "ca-certificates"),
]


@pytest.mark.parametrize("rule", RULES)
def test_the_dockerfile_keeps_to(rule):
    assert RULES[rule](DOCKERFILE)


@pytest.mark.parametrize(("rule", "old", "new"), BREAKS)
def test_a_dockerfile_that_breaks_a_rule_is_noticed(rule, old, new):
    assert old in DOCKERFILE
    assert not RULES[rule](DOCKERFILE.replace(old, new))


def hadolint(text: str) -> str:
    linter = shutil.which("hadolint", path=f"{ROOT / '.venv/bin'}:{os.environ['PATH']}")
    assert linter, "hadolint comes with the group dev"
    ran = subprocess.run([linter, "-"], input=text, capture_output=True, text=True, check=False)
    return ran.stdout + ran.stderr


def test_hadolint_finds_nothing():
    assert hadolint(DOCKERFILE) == ""


def test_hadolint_finds_what_is_put_in():
    assert "DL3015" in hadolint(DOCKERFILE.replace("--no-install-recommends", ""))


# ---- What is pinned.

REQUIREMENTS = ROOT / ".docker" / "requirements.txt"
TOOLS = ROOT / ".docker" / "tools.txt"
EXTRA = PROJECT["project"]["optional-dependencies"]["train"]
WANTED = {
    REQUIREMENTS: [*PROJECT["project"]["dependencies"], *EXTRA],
    TOOLS: [*PROJECT["build-system"]["requires"], *PROJECT["dependency-groups"]["image"]],
}
MADE_BY = {
    REQUIREMENTS: "uv pip compile pyproject.toml --extra train ",
    TOOLS: "uv pip compile --group image ",
}


def faults(path: Path, text: str) -> str:
    """What is wrong with a file of pins, a line each."""
    found = []
    made_by = f"#    {MADE_BY[path]}.*--generate-hashes .*-o {path.relative_to(ROOT)}\n"
    if not re.search(made_by, text):
        found.append("no command that makes it")
    body = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    pins = {}
    for entry in re.sub(r"\s*\\\n\s*", " ", body).splitlines():
        words, *hashes = entry.split(" --hash=")
        pin = re.fullmatch(r"([a-z0-9-]+)==([\w.+]+)", words)
        if pin is None:
            found.append(f"no pin: {words}")
            continue
        pins[pin[1]] = pin[2]
        if not hashes or not all(re.fullmatch(r"sha256:[0-9a-f]{64}", h) for h in hashes):
            found.append(f"no hash: {words}")
    for wanted in map(Requirement, WANTED[path]):
        if wanted.name not in pins:
            found.append(f"not there: {wanted.name}")
        elif pins[wanted.name] not in wanted.specifier:
            found.append(f"out of range: {wanted.name}=={pins[wanted.name]}")
    return "\n".join(found)


@pytest.mark.parametrize("path", WANTED, ids=lambda path: path.name)
def test_every_version_is_pinned_with_hashes_and_agrees_with_pyproject(path):
    assert faults(path, path.read_text()) == ""


@pytest.mark.parametrize(
    ("fault", "old", "new"),
    [
        ("no command that makes it", "--generate-hashes ", ""),
        ("no pin: --index-url", r"^torch==", "--index-url https://registry.example\ntorch=="),
        ("no pin: torch", r"^torch==\S+", "torch @ https://registry.example/torch.whl"),
        ("no pin: ray>=2.60", r"^ray==\S+", "ray>=2.60"),
        ("no hash: tyro", r"(^tyro==\S+) (\\\n +--hash=\S+ ?)+", r"\1"),
        ("no hash: tyro", r"(^tyro==\S+ \\\n +--hash=)\S+", r"\1md5:0"),
        ("not there: scipy", r"^scipy==", "scipyx=="),
        ("out of range: ray==2.59.0", r"^ray==\S+", "ray==2.59.0"),
        ("out of range: torch==2.7.1", r"^torch==\S+", "torch==2.7.1"),
    ],
)
def test_a_file_of_pins_that_is_wrong_is_noticed(fault, old, new):
    text, changed = re.subn(old, new, REQUIREMENTS.read_text(), count=1, flags=re.M)
    assert changed
    assert fault in faults(REQUIREMENTS, text)


def image_name() -> str:
    told = subprocess.run(
        [ROOT / ".ci/image", "--name"], capture_output=True, text=True, check=True
    )
    return told.stdout.strip()


def test_the_image_is_named_for_our_version_and_rays():
    ray = re.search(r"^ray==([\d.]+) ", REQUIREMENTS.read_text(), re.M)
    assert ray
    assert image_name() == f"raytransfer:{PROJECT['project']['version']}-ray{ray[1]}"


# ---- The image itself.

# As a strict cluster runs it: no rights, nothing to write but /tmp, and no network but loopback.
STRICT = ["--network=none", "--read-only", "--read-only-tmpfs=false", "--cap-drop=all"]
STRICT += ["--security-opt=no-new-privileges", "--tmpfs=/tmp:size=4g,mode=1777", "--shm-size=1g"]
# Podman's own limits are higher than root's in a sandbox.
LIMITS = ["--ulimit=nofile=16384:16384", "--ulimit=nproc=16384:16384"]
RUN = ["podman", "run", "--rm", "--runtime=runc", *LIMITS, *STRICT]

# KubeRay's probes of a head; a worker's is the first one.
PROBES = (
    "wget --tries 1 -T 2 -q -O- http://localhost:52365/api/local_raylet_healthz | grep success"
    " && wget --tries 1 -T 10 -q -O- http://localhost:8265/api/gcs_healthz | grep success"
)

# Compiles what has no bytecode that is up to date, and fails as it cannot write.
COMPILED = """
import compileall, importlib.util, pathlib, sys
for name in ("raytransfer", "tune_spaces", "ray", "numpy", "asyncio", "email"):
    folder = pathlib.Path(importlib.util.find_spec(name).origin).parent
    assert compileall.compile_dir(folder, quiet=2), folder
"""


def output(*command: str, timeout: float = 120) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    assert ran.returncode == 0, f"{ran.stdout[-2000:]}\n{ran.stderr[-4000:]}"
    return ran.stdout


@pytest.fixture(scope="session")
def image() -> str:
    if platform.machine() != "x86_64":
        pytest.skip("the image is one for x86_64")
    if os.geteuid() != 0:
        pytest.skip("the image is built by root")
    tools = ("podman", "runc", "mmdebstrap", "uv")
    if missing := [tool for tool in tools if not shutil.which(tool)]:
        reason = f"the image is built with {', '.join(missing)}, which is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return image_name()


@pytest.fixture(scope="session")
def built(image) -> tuple[str, str]:
    """The image's name, and what its build said."""
    return image, output(str(ROOT / ".ci/image"), timeout=900)


def test_the_image_is_what_its_dockerfile_says(built, capsys):
    name, said = built
    with capsys.disabled():
        print(f"\n{said}", end="")
    facts = json.loads(output("podman", "image", "inspect", name))[0]
    config = facts["Config"]
    assert config["User"] == "1000:100"
    assert config["Labels"]["org.opencontainers.image.version"] == PROJECT["project"]["version"]
    revision = output("git", "-C", str(ROOT), "rev-parse", "HEAD").strip()
    assert config["Labels"]["org.opencontainers.image.revision"].removesuffix("-dirty") == revision
    assert (
        f"RAYTRANSFER_REVISION={config['Labels']['org.opencontainers.image.revision']}"
        in config["Env"]
    )
    assert config["Env"][0].startswith("PATH=/opt/venv/bin:")
    assert facts["Size"] < 8e9


def test_everything_imports_and_nothing_is_compiled_as_it_runs(built):
    name, _ = built
    imports = "import cv2, ray.autoscaler._private.kuberay.run_autoscaler, safetensors, simplejpeg"
    imports += ", torch, torchvision, raytransfer, tune_spaces, getpass; print(getpass.getuser())"
    assert output(*RUN, name, "python", "-c", imports) == "ray\n"
    output(*RUN, name, "python", "-c", COMPILED)
    words = "id -u; id -g; command -v raytransfer ray python bash wget; ! touch /new 2>/dev/null"
    assert output(*RUN, name, "bash", "-c", words).split()[:4] == [
        "1000",
        "100",
        "/opt/venv/bin/raytransfer",
        "/opt/venv/bin/ray",
    ]


@pytest.mark.slow
def test_a_head_in_it_answers_kuberays_probes_and_runs_a_study(built):
    """The demo's, with fewer steps, as a job of Ray."""
    name, _ = built
    head = ["ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--num-cpus=2"]
    container = output(*RUN, "--detach", name, *head, "--object-store-memory=100000000").strip()
    try:
        inside = ["podman", "exec", container]
        probe = [*inside, "bash", "-c", PROBES]
        limit = time.monotonic() + 90
        while subprocess.run(probe, capture_output=True, check=False).returncode:
            assert time.monotonic() < limit, output("podman", "logs", container)
            time.sleep(1)
        where = "from raytransfer.data.manifest import demo_shards; print(demo_shards())"
        shards = output(*inside, "python", "-c", where).strip()
        job = ["raytransfer", "run", "demo", "--data", shards, "--study", "/tmp/study"]
        job += ["--steps", "20", "--validate-every", "20"]
        submit = ["ray", "job", "submit", "--address=http://127.0.0.1:8265", "--", *job]
        told = output(*inside, *submit, timeout=300)
        assert "succeeded" in told
        assert "46 networks: 46 trained now, 0 finished already, 0 failed." in told
        report = [*inside, "raytransfer", "report", "/tmp/study", "--out", "/tmp/report.html"]
        assert output(*report) == "/tmp/report.html\n"
    finally:
        output("podman", "rm", "--force", "--time=5", container)
