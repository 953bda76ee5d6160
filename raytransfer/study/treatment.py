"""A treatment: one network of the study, and the names that it goes by."""

import re
from dataclasses import dataclass
from typing import Literal

from raytransfer.errors import UserError

Kind = Literal["base", "selffer", "transfer", "untrained"]
KINDS: tuple[Kind, ...] = ("base", "selffer", "transfer", "untrained")

LAYERS = 8
"""Weight layers of every network; layer 8, the classifier, is always new (paper, section 3)."""

UNTRAINED = "R"
"""The source of an untrained-filter network: a network of random weights that nobody trains."""

TARGETS = ("A", "B", "AB")
"""What a network is trained and scored on: a task of the split, or all classes of both."""

_ID = re.compile(
    r"(?P<split>[a-z0-9][a-z0-9:-]*)\.(?:base(?P<base>AB|A|B)"
    r"|(?P<source>[ABR])(?P<n>[1-7])(?P<target>AB|A|B)(?P<plus>\+?))\.s(?P<seed>\d+)"
)
_SPLIT = re.compile(r"[a-z0-9][a-z0-9:-]*")
_TYPES = {"split": str, "target": str, "n": int, "finetuned": bool, "seed": int}


@dataclass(frozen=True, order=True)
class Treatment:
    """One network: the first `n` layers of `source`'s network, the rest new, trained on `target`.

    Raises UserError when the fields describe a network that cannot be.
    """

    split: str
    """Name of the split, such as "random:0"."""
    target: str
    """Task that the network is trained and scored on: "A", "B", or "AB" for all classes."""
    source: str | None = None
    """Task of the network that layers are copied from; "R" for random weights; None for a base."""
    n: int = 0
    """Layers copied, 1 to 7; 0 for a base."""
    finetuned: bool = False
    """Whether the copied layers learn (the paper's "+"). Frozen otherwise; False for a base."""
    seed: int = 0
    """Seed of the network's own initialisation and dropout."""

    def __post_init__(self) -> None:
        for name, type_ in _TYPES.items():
            # A 3.0 or a True would print an id that names nothing.
            if type(value := getattr(self, name)) is not type_:
                raise UserError(f"{name} is of type {type_.__name__}, not {value!r}.")
        if not _SPLIT.fullmatch(self.split):
            raise UserError(
                f"A split's name is lower-case letters, digits, ':' and '-', not {self.split!r}."
            )
        if self.target not in TARGETS:
            raise UserError(f"target is one of {', '.join(TARGETS)}, not {self.target!r}.")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed is 0 or more, and below 2**63, not {self.seed}.")
        if self.source is None:
            if self.n or self.finetuned:
                raise UserError("A base copies nothing: it has n = 0, and is not fine-tuned.")
            return
        if self.source not in ("A", "B", UNTRAINED):
            raise UserError(f"source is A, B or {UNTRAINED} (untrained), not {self.source!r}.")
        if not 1 <= self.n < LAYERS:
            raise UserError(f"n, the number of copied layers, is 1 to {LAYERS - 1}, not {self.n}.")
        if self.source == UNTRAINED and self.finetuned:
            raise UserError("Untrained filters are frozen: learning, they would be a base.")

    @property
    def kind(self) -> Kind:
        if self.source is None:
            return "base"
        if self.source == UNTRAINED:
            return "untrained"
        return "selffer" if self.source == self.target else "transfer"

    @property
    def label(self) -> str:
        """The paper's notation: baseB, B3B, B3B+, A3B, A3B+; R3B for untrained filters."""
        if self.source is None:
            return f"base{self.target}"
        return f"{self.source}{self.n}{self.target}{'+' if self.finetuned else ''}"

    @property
    def id(self) -> str:
        """The name printed everywhere, such as "random:0.A3B+.s0"; `parse` reads it back."""
        return f"{self.split}.{self.label}.s{self.seed}"

    @property
    def frozen_layers(self) -> int:
        return 0 if self.finetuned else self.n

    @property
    def parent(self) -> "Treatment | None":
        """The trained network that layers are copied from; None for a base or untrained filters."""
        if self.source is None or self.source == UNTRAINED:
            return None
        return Treatment(self.split, target=self.source, seed=self.seed)

    @classmethod
    def parse(cls, id: str) -> "Treatment":
        """The treatment that `id` names. Raises UserError for a string that no treatment prints."""
        match = _ID.fullmatch(id)
        if match is None:
            raise UserError(f"{id!r} names no treatment; one looks like random:0.A3B+.s0.")
        part = match.groupdict()
        treatment = cls(
            split=part["split"],
            target=part["base"] or part["target"],
            source=part["source"],
            n=int(part["n"] or 0),
            finetuned=bool(part["plus"]),
            seed=int(part["seed"]),
        )
        if treatment.id != id:
            raise UserError(f"{id!r} names no treatment; did you mean {treatment.id!r}?")
        return treatment

    def __str__(self) -> str:
        return self.id
