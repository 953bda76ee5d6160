"""The commands of a study. Each is a few calls that a Python program can make as well:

    plan      schedule.driver.prepare_study, schedule.text.plan_tables
    run       schedule.driver.prepare_study, schedule.driver.run_study
    status    results.store.read_study
    summary   results.statistics.summarise, results.text.tables
    export    results.table.write_table
    report    report.page.write_report
    splits    study.split.make_split

A program that runs studies calls schedule.session.set_environment() before anything imports Ray.
A command imports what it needs when it runs: help comes at once, and what only reads results
works where neither torch nor ray is installed.
"""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from raytransfer.cli.running import Device, Flag, Running
from raytransfer.cli.tables import print_table
from raytransfer.data.decoding import IN_TRAINING, Decoding
from raytransfer.errors import UserError
from raytransfer.study.recipe import Recipe
from raytransfer.study.space import load_space

if TYPE_CHECKING:
    from raytransfer.results.table import Results
    from raytransfer.schedule.prepared import Prepared

FAILED = 1
"""Exit status when a network failed."""

Statistic = Literal["top1", "top1_best10"]
Space = Annotated[Positional[str], tyro.conf.arg(metavar="SPACE")]
Study = Annotated[Positional[str], tyro.conf.arg(metavar="STUDY")]
StudyOrTable = Annotated[Positional[str], tyro.conf.arg(metavar="STUDY|RESULTS")]
RecipeFile = Annotated[Path | None, tyro.conf.arg(name="recipe", metavar="FILE.toml")]


def demo(*, out: Path = Path("raytransfer-demo")) -> int:
    """Run a small, real study on the images that come along, and write its report.

    Args:
        out: Folder for the study and report.html. Again with the same one: only what is left.
    """
    from raytransfer.data.manifest import demo_shards
    from raytransfer.results.statistics import STATISTICS, summarise
    from raytransfer.results.text import scores
    from raytransfer.schedule.driver import prepare_study

    results = _train(prepare_study(load_space("demo"), demo_shards()), str(out / "study"))
    for group in summarise(results).groups.values():
        table = scores(group.studied[0], STATISTICS["top1"])
        print_table(table.title, table.header, table.rows)
    report(str(out / "study"), out=out / "report.html")
    return _status(results)


def plan(
    space: Space,
    *,
    data: str,
    workers: int | None = None,
    networks_per_trial: int | Literal["auto"] = "auto",
    device: Device = "auto",
    gpus: int | None = None,
    device_memory: float | None = None,
    device_rate: float | None = None,
    measured: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None,
    recipe_file: RecipeFile = None,
    recipe: OmitArgPrefixes[Recipe] = Recipe(),  # noqa: B008
) -> None:
    """Show what a study would run and cost, here or elsewhere. Runs and writes nothing.

    Args:
        space: Name of a space (demo, paper, ...) or the path of a .py file of your own.
        data: Folder of shards that `raytransfer prepare` wrote, or its URI.
        workers: Processes that share the images of every batch. None: 1.
        networks_per_trial: At most so many networks in a trial; auto: as memory and cores allow.
        device: What trains; auto: GPUs where there are any, or where the other settings name them.
        gpus: GPUs to plan for, which need not be here. None: those that are here, or 1.
        device_memory: GB of each GPU, or of the machine where a CPU trains. None: as it is here.
        device_rate: Useful operations a second of a GPU or core, such as 1e14. None: assumed.
        measured: Step times that benchmarks/device.py wrote, to count the hours from.
        recipe_file: File of recipe settings; flags of the command line go before it.
        recipe: Settings whose defaults are the space's.
    """
    from raytransfer.schedule.measured import planned_for
    from raytransfer.schedule.text import plan_tables

    images = -(-recipe.batch // (workers or 1))
    machine, rate = planned_for(device, gpus, device_memory, device_rate, measured, recipe, images)
    prepared = _prepared(space, data, recipe, workers, networks_per_trial, machine=machine)
    most = None if networks_per_trial == "auto" else networks_per_trial
    for table in plan_tables(prepared, most, rate):
        print_table(table.title, table.header, table.rows)


def run(
    space: Space,
    *,
    data: str,
    study: str,
    running: OmitArgPrefixes[Running] = Running(),  # noqa: B008
    decoding: OmitArgPrefixes[Decoding] = IN_TRAINING,
    recipe_file: RecipeFile = None,
    recipe: OmitArgPrefixes[Recipe] = Recipe(),  # noqa: B008
) -> int:
    """Train the networks of a study. The same command again trains only what is left.

    Args:
        space: Name of a space (demo, paper, ...) or the path of a .py file of your own.
        data: Folder of shards that `raytransfer prepare` wrote, or its URI.
        study: Folder for the study, or its URI.
        running: How the study is run.
        decoding: Where images are decoded.
        recipe_file: File of recipe settings; flags of the command line go before it.
        recipe: Settings whose defaults are the space's.
    """
    on = {"device": running.device, "gpus": running.gpus}
    prepared = _prepared(space, data, recipe, running.workers, running.networks_per_trial, **on)
    results = _train(
        prepared,
        study,
        deterministic=running.deterministic,
        decoding=decoding,
        checkpoint_every=running.checkpoint_every,
        stuck_after=running.stuck_after,
        allow_change=running.allow_change,
        track=running.track,
    )
    print(f"Next: raytransfer report {study}")
    return _status(results)


def status(study: Study) -> None:
    """Show how many networks of a study are finished, running, pending and failed.

    Args:
        study: Folder of the study, or its URI.
    """
    from raytransfer.results.store import read_study
    from raytransfer.results.table import STATES

    results = read_study(study)
    counts = Counter(row["state"] for row in results.networks)
    print_table("Networks", STATES, [[str(counts[state]) for state in STATES]])
    told = []
    for row in results.networks:
        if row["state"] in ("running", "failed") or row["reason"]:
            step = str(results.curves.get(row["treatment"], [{"step": 0}])[-1]["step"])
            told.append((row["treatment"], row["state"], step, row["reason"] or ""))
    print_table("Not finished", ("treatment", "state", "last step", "reason"), told)


def summary(source: StudyOrTable, *, json: Flag = False, statistic: Statistic = "top1") -> None:
    """Show what the networks say: means, intervals, boosts, co-adaptation, specificity.

    Args:
        source: Folder of a study, or a table of results (.parquet, .csv).
        json: The same as JSON.
        statistic: Final validation top-1, or the mean of the ten highest (the paper's).
    """
    from raytransfer.results.statistics import summarise
    from raytransfer.results.text import tables

    found = summarise(_read(source), statistic)
    if json:
        _print_json(found.to_json())
        return
    for table in tables(found):
        print_table(table.title, table.header, table.rows)


def export(
    study: Study, results: Annotated[Positional[Path], tyro.conf.arg(metavar="RESULTS")]
) -> None:
    """Write a study as a table, one row a network.

    Args:
        study: Folder of the study, or its URI.
        results: File to write; its name ends in .parquet or .csv.
    """
    from raytransfer.results.store import read_study
    from raytransfer.results.table import write_table

    write_table(read_study(study), results)
    print(results)


def report(
    source: StudyOrTable,
    other: Annotated[Positional[str | None], tyro.conf.arg(metavar="STUDY|RESULTS")] = None,
    *,
    out: Path | None = None,
    statistic: Statistic = "top1",
    watch: Flag = False,
    port: int = 8271,
) -> None:
    """Write the figures and tables of a study as one HTML file that opens without a network.

    Args:
        source: Folder of a study, or a table of results (.parquet, .csv).
        other: Another one, to lay beside the first.
        out: File to write. None: report.html in the study's folder, or TABLE.html beside a table;
            of two, comparison.html here.
        statistic: Final validation top-1, or the mean of the ten highest (the paper's).
        watch: Write nothing; serve the page to this machine, renewed by itself while a study runs.
        port: Of --watch, on 127.0.0.1; 0 for any that is free.
    """
    if watch:
        from raytransfer.report import live

        if other is not None:
            raise UserError("--watch shows one study: name one.")
        if out is not None:
            raise UserError("--watch writes no file: give no --out.")
        live.watch(source, statistic, port)
        return
    if other is not None:
        _compare(source, other, out or Path("comparison.html"), statistic)
        return
    from raytransfer.report.page import write_report
    from raytransfer.results.filters import first_filters
    from raytransfer.results.store import StudyFolder

    results = _read(source)
    filters = first_filters(StudyFolder(source), results) if results.provenance else {}
    if out is None:
        if "://" in source:
            raise UserError(f"A report on {source} is written to a local file: name it with --out.")
        out = Path(source) / "report.html"
        if Path(source).is_file():
            out = Path(source).with_suffix(".html")
    write_report(results, out, statistic, filters)
    print(out)


def _compare(source: str, other: str, out: Path, statistic: Statistic) -> None:
    from raytransfer.folder import Folder
    from raytransfer.report.comparison import comparison
    from raytransfer.report.page import write_page

    # Without a URI's options, which may hold a password.
    whole = [str(Folder(each)).rstrip("/") for each in (source, other)]
    last = [each.rpartition("/")[2] for each in whole]
    names = last if last[0] != last[1] else whole
    if names[0] == names[1]:
        raise UserError(f"Both are {names[0]}: name two studies to lay them side by side.")
    found = dict(zip(names, map(_read, (source, other)), strict=True))
    write_page(comparison(found, statistic), out)
    print(out)


def splits(
    name: Annotated[Positional[str], tyro.conf.arg(metavar="NAME|FILE.json")],
    *,
    classes: int | None = None,
    data: str | None = None,
    json: Flag = False,
) -> None:
    """Show the class indices of the tasks A and B of a split.

    Args:
        name: random:S with a seed S, reduced:K with K images a class, manmade-natural, or a .json
            file with lists A and B.
        classes: Classes of the data set. None: 1,000, or those of --data.
        data: Shards whose classes, with their names, are split. None: classes without names.
        json: The same as JSON.
    """
    from raytransfer.data.manifest import read_manifest
    from raytransfer.study.split import IMAGENET_CLASSES, make_split

    if data is not None and classes is not None:
        raise UserError("Give --classes or --data, not both: the data say how many classes.")
    count = IMAGENET_CLASSES if classes is None else classes
    names = read_manifest(data).classes if data is not None else tuple(map(str, range(count)))
    split = make_split(name, names)
    tasks = {"A": list(split.a), "B": list(split.b)}
    if json:
        of = {"name": split.name, "classes": len(names), "images_per_class": split.images_per_class}
        _print_json({**of, **tasks, "sha256": split.sha256})
        return
    limited = f", {split.images_per_class} images of each" if split.images_per_class else ""
    print(f"{split.name} of {len(names)} classes{limited}, sha256 {split.sha256}")
    for task, indices in tasks.items():
        shown = (f"{i} {names[i]}" if data is not None else str(i) for i in indices)
        print(f"{task} ({len(indices)}): {', '.join(shown)}")


def _prepared(
    space: str,
    data: str,
    recipe: Recipe,
    workers: int | None,
    networks_per_trial: int | Literal["auto"],
    **on: Any,
) -> "Prepared":
    from raytransfer.schedule.driver import prepare_study

    return prepare_study(
        load_space(space),
        data,
        recipe,
        workers=workers,
        networks_per_trial=None if networks_per_trial == "auto" else networks_per_trial,
        **on,
    )


def _train(prepared: "Prepared", study: str, **settings: Any) -> "Results":
    """Run the study, and say what became of its networks."""
    from raytransfer.results.store import StudyFolder
    from raytransfer.schedule.driver import run_study

    folder = StudyFolder(study)
    before = {id for id in folder.names("networks") if folder.has(f"networks/{id}/done.json")}
    results = run_study(prepared, study, **settings)
    states = Counter((row["state"], row["treatment"] in before) for row in results.networks)
    failed = [row for row in results.networks if row["state"] == "failed"]
    trained, already = states["finished", False], states["finished", True]
    counts = f"{trained} trained now, {already} finished already, {len(failed)} failed"
    networks = len(results.networks)
    print(f"{networks} network{'s' * (networks != 1)}: {counts}.")
    if before >= {row["treatment"] for row in results.networks}:
        print("Nothing was left to train.")
    reasons = ((row["treatment"], row["reason"] or "") for row in failed)
    print_table("Failed", ("treatment", "reason"), reasons)
    if trained + already + len(failed) < networks:
        # Ray Tune takes Ctrl-C for itself, and returns as if all were done.
        raise KeyboardInterrupt
    return results


def _status(results: "Results") -> int:
    """The exit status of a study that has ended."""
    return FAILED if any(row["state"] == "failed" for row in results.networks) else 0


def _read(source: str) -> "Results":
    """A study's results, or those of a table."""
    from raytransfer.results.store import read_study
    from raytransfer.results.table import read_table

    path = Path(source)
    if path.is_file() or (path.suffix in (".parquet", ".csv") and not path.is_dir()):
        return read_table(path)
    return read_study(source)


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=1))
