"""The recipe: everything that is the same for all networks of a study."""

import dataclasses
import hashlib
import json
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from raytransfer.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """How every network of a study is trained. The defaults are the paper's (supplement A)."""

    network: Literal["caffenet", "small"] = "caffenet"
    """Architecture: caffenet is the paper's; small suits images of 28x28."""
    steps: int = 450_000
    """Optimiser steps of each network."""
    batch: int = 256
    """Images a step, over all workers."""
    validate_every: int = 1_000
    """Steps between validations; the last step always ends in one."""
    learning_rate: float = 0.01
    """Rate of weights; the highest one where the schedule varies it."""
    schedule: Literal["step", "one-cycle"] = "step"
    """step divides the rate by 10 every drop_every steps; one-cycle warms up over the first
    fifth, then falls to nought along a cosine."""
    drop_every: int = 100_000
    """Steps between drops of the rate; of no effect with one-cycle."""
    momentum: float = 0.9
    """Momentum, in Caffe's form: the rate is inside the velocity."""
    weight_decay: float = 5e-4
    """Decay of weights; biases have none."""
    bias_rate: float = 2.0
    """Rate of biases, as a multiple of the weights'."""
    dropout: float = 0.5
    """Share of activations dropped after layers 6 and 7; active where they are frozen, too."""
    mirror: bool = True
    """Whether half of the training images are mirrored."""
    pad: int = 0
    """Pixels of mean colour put around an image before its random crop."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Number format of activations; weights are float32."""
    seed: int = 0
    """Seed of the images' order, crops and mirrors: one for all networks, so that they pair."""

    def __post_init__(self) -> None:
        for name, type_ in get_type_hints(Recipe).items():
            value = getattr(self, name)
            if get_origin(type_) is Literal:
                if value not in get_args(type_):
                    raise UserError(f"{name} is one of {', '.join(get_args(type_))}.")
                continue
            if type_ is float and type(value) is int:
                # A whole number is written as 1 or 1.0: the recipe and its hash are the same.
                object.__setattr__(self, name, value := float(value))
            if type(value) is not type_:
                raise UserError(f"{name} is of type {type_.__name__}, not {value!r}.")
            if type_ is float and not math.isfinite(value):
                raise UserError(f"{name} is a finite number, not {value}.")
        for name in ("steps", "batch", "validate_every", "drop_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is 1 or more, not {getattr(self, name)}.")
        for name in ("weight_decay", "bias_rate", "pad", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is 0 or more, not {getattr(self, name)}.")
        for name in ("momentum", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} is at least 0 and below 1, not {getattr(self, name)}.")
        if not self.learning_rate > 0:
            raise UserError(f"learning_rate is above 0, not {self.learning_rate}.")

    def rate(self, step: int) -> float:
        """Learning rate of weights at a step (from 0)."""
        if self.schedule == "step":
            return float(self.learning_rate * 0.1 ** (step // self.drop_every))
        warmup = max(1, self.steps // 5)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        done = (step - warmup) / max(1, self.steps - warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


def recipe_from(settings: dict[str, Any], start: Recipe, where: str) -> Recipe:
    """`start` with `settings` in the place of its own.

    Raises UserError, naming `where`, for a setting that does not exist or has another type.
    """
    known = [field.name for field in dataclasses.fields(start)]
    for name in settings:
        if name not in known:
            raise UserError(f"{where} has an unknown setting {name!r}; known: {', '.join(known)}.")
    try:
        return dataclasses.replace(start, **settings)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def read_recipe(path: Path, start: Recipe) -> Recipe:
    """`start` with the settings of a TOML file."""
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"There is no recipe file {path}.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"Recipe file {path} cannot be read as TOML: {error}.") from None
    return recipe_from(settings, start, f"Recipe file {path}")
