"""Spaces: which treatments a study has."""

import hashlib
import importlib.util
import itertools
import pkgutil
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import tune_spaces
from raytransfer.errors import UserError
from raytransfer.study.recipe import Recipe
from raytransfer.study.split import read_split_file
from raytransfer.study.treatment import UNTRAINED, Kind, Treatment

_OTHER = {"A": "B", "B": "A"}


@dataclass(frozen=True)
class Space:
    """A study's treatments, with the recipe that they are meant for."""

    name: str
    treatments: tuple[Treatment, ...]
    recipe: Recipe = field(default_factory=Recipe)
    splits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Splits of the space's own: name -> lists "A" and "B" of class names or indices."""
    doc: str = ""


MOST_TREATMENTS = 100_000
"""Of a space: one that yields more would not end, or not be trained to its end."""


def space_names() -> list[str]:
    """The spaces in tune_spaces/."""
    return sorted(module.name for module in pkgutil.iter_modules(tune_spaces.__path__))


def load_space(name: str) -> Space:
    """The space in module `name` of tune_spaces/, or in the user's own file `name`.py.

    The module has a function `treatments()` that yields treatments, or a `param_space` as Ray Tune
    takes it (see `expand`); it may have a `recipe`, and `splits`: by name, the lists "A" and "B",
    or the path of a JSON file with them, from the module's folder on. It may import what lies
    beside it.
    """
    if name in space_names():
        return _space(name, importlib.import_module(f"tune_spaces.{name}"))
    path = Path(name)
    if path.suffix != ".py" or not path.is_file():
        raise UserError(
            f"There is no space {name!r}: known are {', '.join(space_names())}, "
            "or give the path of a .py file of your own."
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"Space {name} cannot be read: {error.strerror or error}.") from None
    return _own_space(name, path.resolve(), content)


@lru_cache(maxsize=1)
def _own_space(name: str, path: Path, content: bytes) -> Space:
    """The space in a user's file, which runs once, however often a command asks for it.

    content: of the file; where that changes, it is another space.
    """
    unique = hashlib.sha256(str(path).encode()).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(f"_raytransfer_space_{unique}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
        return _space(name, module)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"Space {name} cannot be loaded: {_told(error, name)}") from None
    finally:
        with suppress(ValueError):
            sys.path.remove(str(path.parent))


def _space(name: str, module: ModuleType) -> Space:
    if hasattr(module, "treatments"):
        try:
            yielded = list(itertools.islice(module.treatments(), MOST_TREATMENTS + 1))
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            raise UserError(f"treatments() of space {name} fails: {_told(error, name)}") from None
        if len(yielded) > MOST_TREATMENTS:
            raise UserError(f"Space {name} yields more than {MOST_TREATMENTS:,} treatments.")
    elif hasattr(module, "param_space"):
        yielded = expand(module.param_space)
    else:
        raise UserError(f"Space {name} has neither a function treatments() nor a param_space.")
    for treatment in yielded:
        if not isinstance(treatment, Treatment):
            raise UserError(f"Space {name} yields {treatment!r}, which is not a Treatment.")
    if not yielded:
        raise UserError(f"Space {name} yields no treatment.")
    recipe = getattr(module, "recipe", Recipe())
    if not isinstance(recipe, Recipe):
        raise UserError(f"The recipe of space {name} is {recipe!r}, which is not a Recipe.")
    return Space(
        name=Path(name).stem,
        treatments=tuple(dict.fromkeys(yielded)),
        recipe=recipe,
        splits=_splits(name, module),
        doc=module.__doc__ or "",
    )


def _splits(name: str, module: ModuleType) -> dict[str, Mapping[str, Any]]:
    """The splits of a space's own, those in files read."""
    splits = getattr(module, "splits", {})
    if not isinstance(splits, Mapping):
        raise UserError(f"The splits of space {name} are {splits!r}, not a dictionary.")
    found: dict[str, Mapping[str, Any]] = {}
    for key, tasks in splits.items():
        if isinstance(tasks, str | Path):
            tasks = read_split_file(Path(module.__file__ or "").parent / tasks)
        if not isinstance(key, str) or not isinstance(tasks, Mapping):
            raise UserError(
                f"The split {key!r} of space {name} is {tasks!r}: give, by a name, a dictionary of "
                "the lists A and B, or the path of a JSON file."
            )
        found[key] = tasks
    return found


def _told(error: BaseException, name: str) -> str:
    """An error of a space's own code, and the last of its lines that led there."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).name == Path(name).name]
    where = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {error}{where}"


def expand(param_space: Mapping[str, Any]) -> list[Treatment]:
    """Treatments of a Ray Tune param_space: the product of its constants and grid_searches.

    Its keys are split, target, kind, n, finetuned and seed, of which only target and kind must be
    there. Other search functions of Ray Tune draw at random and are refused: a study has no random
    part. Combinations for one base are one treatment, as n and finetuned do not bear on it.
    """
    if not isinstance(param_space, Mapping):
        raise UserError(f"param_space is a {type(param_space).__name__}, not a dictionary.")
    defaults = {"split": "random:0", "n": 0, "finetuned": False, "seed": 0}
    if unknown := sorted(map(str, set(param_space) - {*defaults, "target", "kind"})):
        raise UserError(f"param_space has unknown keys: {', '.join(unknown)}.")
    if missing := sorted({"target", "kind"} - set(param_space)):
        raise UserError(f"param_space lacks {' and '.join(missing)}.")
    axes = {key: _axis(key, value) for key, value in {**defaults, **param_space}.items()}
    combinations = (
        dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())
    )
    return list(dict.fromkeys(_treatment(**combination) for combination in combinations))


def _axis(key: str, value: Any) -> Sequence[Any]:
    searched = isinstance(value, Mapping) and set(value) == {"grid_search"}
    values = value["grid_search"] if searched else [value]
    if isinstance(values, Iterable) and not isinstance(values, str):
        axis = tuple(values)
        if all(isinstance(each, str | int | float) for each in axis):
            return axis
    raise UserError(
        f"param_space's {key} is {value!r}, neither a grid_search over a list of constants nor one "
        "(a text, a whole number, True or False)."
    )


def _treatment(
    split: str, target: str, kind: Kind, n: int, finetuned: bool, seed: int
) -> Treatment:
    if kind not in get_args(Kind):
        raise UserError(f"kind is one of {', '.join(get_args(Kind))}, not {kind!r}.")
    if kind == "base":
        return Treatment(split, target, seed=seed)
    if target not in _OTHER and kind != "untrained":
        raise UserError(f"A {kind} network has target A or B, not {target!r}.")
    source = {"selffer": target, "transfer": _OTHER.get(target), "untrained": UNTRAINED}[kind]
    return Treatment(split, target, source, n, finetuned, seed)


def with_parents(treatments: Iterable[Treatment]) -> tuple[Treatment, ...]:
    """The treatments and every base that they copy from, without repeats, bases first."""
    asked = tuple(treatments)
    parents = [treatment.parent for treatment in asked]
    everything = dict.fromkeys([parent for parent in parents if parent is not None] + list(asked))
    return tuple(sorted(everything, key=lambda treatment: treatment.n > 0))
