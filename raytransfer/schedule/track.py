"""Sending a study's lines to an experiment tracker while it runs: one run a network.

The driver reads what training has written, so no worker waits for a tracker, and a tracker that
does not answer holds nothing up: what it missed is sent with the next line that it takes.
"""

import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from raytransfer.errors import UserError
from raytransfer.results.sound import ENDS
from raytransfer.results.store import StudyFolder
from raytransfer.schedule.meanwhile import meanwhile
from raytransfer.study.treatment import Treatment

Tracker = Literal["tensorboard", "mlflow", "wandb"]

LOOK_SECONDS = 5.0

METRICS = ("train_loss", "top1", "top5", "loss", "learning_rate", "epoch")
FINAL = ("top1", "top5", "top1_best10", "loss", "train_loss", "seconds", "images_per_second")

OVER = -1
"""Stands for the last step of a network whose end was sent."""

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """A network in a tracker."""

    log: Callable[[int, dict[str, float]], None]
    """Takes its metrics, in the order of their steps."""
    end: Callable[[Line], None]
    """Takes its final row."""


Opener = Callable[[Treatment, Mapping[str, str]], Run]


@contextmanager
def tracking(
    folder: StudyFolder, treatments: Sequence[Treatment], kind: Tracker | None
) -> Iterator[None]:
    """While the block runs, and once more at its end, send new lines of the study's networks.

    Raises UserError, before the block, where the tracker's library is missing or cannot be set up.
    """
    if kind is None:
        yield
        return
    try:
        open_run = OPENERS[kind](folder)
    except UserError:
        raise
    except Exception as error:  # whatever a tracker raises
        raise UserError(f"--track {kind} cannot be set up: {error}") from error
    sender = Sender(folder, treatments, open_run, kind)
    sender.look()
    with meanwhile(sender.look_at_training, LOOK_SECONDS):
        yield
    sender.look()


class Sender:
    """Knows what of a study has been sent, over restarts too."""

    def __init__(
        self, folder: StudyFolder, treatments: Sequence[Treatment], open_run: Opener, kind: str
    ) -> None:
        self._folder = folder
        self._treatments = list(treatments)
        self._open = open_run
        self._runs: dict[Treatment, Run] = {}
        self._name = f"tracking/{kind}.json"
        said = folder.read_json(self._name)
        self._sent: dict[str, int] = said if isinstance(said, dict) else {}
        """Last step sent, by network, or OVER."""
        self._seen: set[str] = set()
        """Networks that have been seen in training."""
        self._told = False

    def look_at_training(self) -> None:
        """Send what is new of the networks that train: of no others can there be anything."""
        self._seen |= {id for lane in self._folder.progress() for id in lane["networks"]}
        self._look([treatment for treatment in self._treatments if treatment.id in self._seen])

    def look(self) -> None:
        """Send what is new. A tracker that fails is told of once, and tried again."""
        self._look(self._treatments)

    def _look(self, treatments: Sequence[Treatment]) -> None:
        before = dict(self._sent)
        for treatment in treatments:
            if self._sent.get(treatment.id) == OVER:
                continue
            try:
                self._send(treatment)
            except Exception as error:  # whatever a tracker raises, training goes on
                if not self._told:
                    line = str(error).splitlines()[0] if str(error) else type(error).__name__
                    print(f"The tracker does not take what is sent ({line}).", file=sys.stderr)
                self._told = True
                break
        if self._sent != before:
            self._folder.write_json(self._name, self._sent)

    def _send(self, treatment: Treatment) -> None:
        done = self._folder.done(treatment)
        last = self._sent.get(treatment.id, 0)
        lines = [line for line in self._folder.rows(treatment) if line["step"] > last]
        if not lines and done is None:
            return
        if treatment not in self._runs:
            self._runs[treatment] = self._open(treatment, facts(treatment))
        run = self._runs[treatment]
        for line in lines:
            run.log(line["step"], numbers(line, METRICS))
            self._sent[treatment.id] = line["step"]
        if done is not None and done["state"] in ENDS:
            run.end(done)
            self._sent[treatment.id] = OVER
            del self._runs[treatment]


def facts(treatment: Treatment) -> dict[str, str]:
    """What a tracker's user filters by."""
    found = {
        "split": treatment.split,
        "label": treatment.label,
        "kind": treatment.kind,
        "source": treatment.source or "",
        "target": treatment.target,
        "n": str(treatment.n),
        "finetuned": str(treatment.finetuned).lower(),
        "seed": str(treatment.seed),
    }
    return {name: value for name, value in found.items() if value}


def numbers(line: Line, names: Sequence[str]) -> dict[str, float]:
    return {name: float(line[name]) for name in names if line.get(name) is not None}


def _tensorboard(folder: StudyFolder) -> Opener:
    """Event files below the study's own folder."""
    if not folder.local:
        raise UserError(
            f"--track tensorboard writes its files into the study, and {folder} is no local folder."
        )
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise _missing("tensorboard") from None

    def open_run(treatment: Treatment, facts: Mapping[str, str]) -> Run:
        writer = SummaryWriter(f"{folder.path}/tensorboard/{treatment.id}")

        def log(step: int, metrics: dict[str, float]) -> None:
            for name, value in metrics.items():
                writer.add_scalar(name, value, step)
            writer.flush()

        def end(done: Line) -> None:
            if done.get("reason"):
                writer.add_text("reason", str(done["reason"]))
            writer.close()

        return Run(log, end)

    return open_run


def _mlflow(folder: StudyFolder) -> Opener:
    """Runs of an experiment with the study's name, at MLFLOW_TRACKING_URI."""
    try:
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.tracking import MlflowClient
    except ImportError:
        raise _missing("mlflow") from None

    client = MlflowClient()
    name = str(folder)
    known = client.get_experiment_by_name(name)
    experiment = known.experiment_id if known else client.create_experiment(name)

    def open_run(treatment: Treatment, facts: Mapping[str, str]) -> Run:
        found = client.search_runs([experiment], f"tags.`network` = '{treatment.id}'")
        if found:
            run = found[0].info.run_id
        else:
            run = client.create_run(experiment, run_name=treatment.id).info.run_id
            params = [Param(name, value) for name, value in facts.items()]
            client.log_batch(run, params=params, tags=[RunTag("network", treatment.id)])

        def log(step: int, metrics: dict[str, float]) -> None:
            taken = [Metric(name, value, _now(), step) for name, value in metrics.items()]
            client.log_batch(run, metrics=taken)

        def end(done: Line) -> None:
            final = numbers(done, FINAL)
            taken = [Metric(f"final_{name}", value, _now(), 0) for name, value in final.items()]
            reason = [RunTag("reason", str(done["reason"]))] if done.get("reason") else []
            client.log_batch(run, metrics=taken, tags=reason)
            client.set_terminated(run, "FINISHED" if done["state"] == "finished" else "FAILED")

        return Run(log, end)

    return open_run


def _wandb(folder: StudyFolder) -> Opener:
    """Runs of the group with the study's name, in the project of WANDB_PROJECT."""
    try:
        import wandb
    except ImportError:
        raise _missing("wandb") from None

    def open_run(treatment: Treatment, facts: Mapping[str, str]) -> Run:
        run = wandb.init(
            group=str(folder),
            name=treatment.id,
            # The same network after a restart: the same run.
            id=hashlib.sha256(f"{folder} {treatment.id}".encode()).hexdigest()[:16],
            config=dict(facts),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(silent=True),
        )

        def log(step: int, metrics: dict[str, float]) -> None:
            run.log(metrics, step=step)

        def end(done: Line) -> None:
            run.summary.update({f"final_{k}": v for k, v in numbers(done, FINAL).items()})
            if done.get("reason"):
                run.summary["reason"] = str(done["reason"])
            run.finish(exit_code=0 if done["state"] == "finished" else 1)

        return Run(log, end)

    return open_run


OPENERS: dict[str, Callable[[StudyFolder], Opener]] = {
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
    "wandb": _wandb,
}


def _now() -> int:
    return int(time.time() * 1000)


def _missing(tracker: str) -> UserError:
    library = "mlflow-skinny" if tracker == "mlflow" else tracker
    return UserError(f"--track {tracker} needs its library: pip install {library}.")
