"""Spaces, the recipe that they carry, and the plan that is made of them."""

import dataclasses
import hashlib
import itertools
import math
import sys
from collections import Counter

import pytest

from raytransfer.errors import UserError
from raytransfer.study.plan import make_plan
from raytransfer.study.recipe import Recipe, read_recipe, recipe_from
from raytransfer.study.space import expand, load_space, space_names, with_parents
from raytransfer.study.split import make_split
from raytransfer.study.treatment import Treatment

SIZES = {
    "balanced": 232,
    "demo": 46,
    "dissimilar": 16,
    "paper": 136,
    "reduced": 12,
    "untrained": 16,
}
PASSES = {"balanced": 16, "demo": 6, "dissimilar": 4, "paper": 22, "reduced": 12, "untrained": 3}
PLENTY = tuple(map(str, range(1000)))


# Spaces.


def test_the_spaces_are_those():
    assert space_names() == sorted(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_a_space_has_the_networks_that_its_docstring_says(name):
    space = load_space(name)
    assert len(space.treatments) == len(set(space.treatments)) == SIZES[name]
    assert f"{SIZES[name]} networks" in space.doc
    assert set(with_parents(space.treatments)) == set(space.treatments)


@pytest.mark.parametrize("name", SIZES)
def test_a_docstring_has_a_command_its_cost_and_what_to_expect(name):
    doc = load_space(name).doc
    command = "raytransfer demo" if name == "demo" else f"raytransfer run {name} --data SHARDS"
    assert f"\n    {command}" in doc
    assert "\nCost: " in doc
    assert "\nExpected: " in doc


@pytest.mark.parametrize("name", SIZES)
def test_a_space_passes_over_the_images_once_a_stage_and_target(name):
    plan = make_plan(load_space(name).treatments, networks_per_trial=None)
    assert plan.passes == PASSES[name]


def series(treatment):
    """A label without its n: whose layers, onto what, fine-tuned or not."""
    return "".join(character for character in treatment.label if not character.isdigit())


def test_the_paper_space_is_what_the_authors_ran():
    """Counts of paper.md, section 2 (the authors' logs, reduced data left out)."""
    treatments = load_space("paper").treatments
    random = Counter(series(t) for t in treatments if t.split.startswith("random:"))
    assert random == {
        "baseA": 4,
        "baseB": 4,
        "AA": 28,
        "BA": 28,
        "AB": 28,
        "AA+": 10,
        "AB+": 10,
        "baseAB": 1,
        "RAB": 7,
    }
    natural = Counter(series(t) for t in treatments if t.split == "manmade-natural")
    assert natural == {"baseA": 1, "baseB": 1, "AB": 7, "BA": 7}
    fine_tuned = Counter((t.split, series(t)) for t in treatments if t.finetuned)
    assert fine_tuned == {
        ("random:0", "AA+"): 7,
        ("random:0", "AB+"): 7,
        ("random:1", "AA+"): 3,
        ("random:1", "AB+"): 3,
    }


def test_the_balanced_space_has_every_cell_for_every_split_and_direction():
    cells = {
        Treatment(f"random:{seed}", target, source, n, finetuned)
        for seed, target, source, n, finetuned in itertools.product(
            range(4), "AB", "AB", range(1, 8), (False, True)
        )
    }
    bases = {Treatment(f"random:{seed}", target) for seed in range(4) for target in "AB"}
    assert set(load_space("balanced").treatments) == cells | bases


def test_the_demo_space_has_its_series_and_a_recipe_and_split_of_its_own():
    space = load_space("demo")
    counted = Counter((t.split, series(t)) for t in space.treatments)
    assert counted == {
        **{("random:0", label): 1 for label in ("baseA", "baseB")},
        **{("dissimilar", label): 1 for label in ("baseA", "baseB")},
        **{("random:0", label): 7 for label in ("BB", "BB+", "AB", "AB+", "RB")},
        ("dissimilar", "AB"): 7,
    }
    assert space.recipe.network == "small"
    assert set(space.splits) == {"dissimilar"}


def test_the_spaces_for_imagenet_use_the_papers_recipe():
    for name in ("paper", "balanced", "dissimilar", "untrained"):
        assert load_space(name).recipe == Recipe()


def test_the_reduced_space_is_bases_of_all_classes_by_images_a_class():
    space = load_space("reduced")
    images = [make_split(t.split, PLENTY).images_per_class for t in space.treatments]
    assert images == [1, 2, 5, 10, 25, 50, 100, 250, 500, 750, 1000, None]
    assert {t.label for t in space.treatments} == {"baseAB"}
    assert space.recipe == Recipe(learning_rate=0.0125, drop_every=64_000, steps=200_000)


def test_every_treatment_can_be_on_reduced_data_beside_its_own_parent():
    (parent, own) = with_parents([Treatment.parse("reduced:250.A3B+.s0")])
    assert (parent.id, own.id) == ("reduced:250.baseA.s0", "reduced:250.A3B+.s0")


def test_a_users_own_file_is_a_space(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        '"""Mine."""\n'
        "from raytransfer.study.recipe import Recipe\n"
        "from raytransfer.study.treatment import Treatment\n"
        "recipe = Recipe(steps=10)\n"
        'splits = {"pets": {"A": [0, 1], "B": [2, 3]}}\n'
        "def treatments():\n"
        "    for _ in range(2):\n"
        '        yield Treatment("pets", "B", "A", 3)\n'
    )
    space = load_space(str(path))
    assert space.name == "mine"
    assert space.treatments == (Treatment("pets", "B", "A", 3),)
    assert space.recipe == Recipe(steps=10)
    assert space.splits == {"pets": {"A": [0, 1], "B": [2, 3]}}
    assert space.doc == "Mine."


def test_a_space_is_a_program_that_runs_once(tmp_path, capsys):
    (tmp_path / "beside_it.py").write_text("SEEDS = (1, 2)\n")
    (tmp_path / "legs.json").write_text('{"A": [0, 1], "B": [2, 3]}')
    path = tmp_path / "mine.py"
    path.write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from beside_it import SEEDS\n"
        "from raytransfer.study.treatment import Treatment\n"
        "@dataclass\n"
        "class Own:\n"
        "    seed: int\n"
        'splits = {"legs": "legs.json"}\n'
        "print('loaded')\n"
        "def treatments():\n"
        '    return [Treatment("legs", "B", seed=Own(seed).seed) for seed in SEEDS]\n'
    )
    before = list(sys.path)
    for _ in range(2):
        space = load_space(str(path))
    assert [treatment.seed for treatment in space.treatments] == [1, 2]
    assert space.splits == {"legs": {"A": [0, 1], "B": [2, 3]}}
    assert capsys.readouterr().out == "loaded\n"
    assert sys.path == before
    path.write_text(path.read_text().replace("legs.json", "gone.json"))
    with pytest.raises(UserError, match=r"There is no split file .*gone\.json"):
        load_space(str(path))


@pytest.mark.parametrize(
    "splits", ["{'m': None}", "{'m': [[0, 1], [2, 3]]}", "{1: {'A': [0, 1], 'B': [2, 3]}}"]
)
def test_splits_that_are_none_are_refused(tmp_path, splits):
    path = tmp_path / "mine.py"
    path.write_text(f"param_space = {{'kind': 'base', 'target': 'B'}}\nsplits = {splits}\n")
    with pytest.raises(UserError, match=r"give, by a name, a dictionary of the lists A and B"):
        load_space(str(path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("x = 1", "neither a function treatments() nor a param_space"),
        ("def treatments(): return []", "yields no treatment"),
        ("def treatments(): return ['baseA']", "yields 'baseA', which is not a Treatment"),
        ("import gone", "ModuleNotFoundError"),
        ("def treatments(:", "SyntaxError"),
        ("param_space = {'target': 'A', 'kind': 'base'}\nrecipe = {'steps': 3}", "not a Recipe"),
        (
            "from raytransfer.study.treatment import Treatment\n"
            "def treatments(): yield Treatment('random:0', 'B', 'A', 8)",
            "1 to 7, not 8",
        ),
    ],
)
def test_a_users_file_that_is_no_space_is_refused(tmp_path, content, words):
    path = tmp_path / "mine.py"
    path.write_text(content)
    with pytest.raises(UserError) as refused:
        load_space(str(path))
    assert words in str(refused.value)


@pytest.mark.parametrize("name", ["figure2", "gone.py", "", ".", "__init__"])
def test_an_unknown_space_is_refused_with_the_known_ones(name):
    with pytest.raises(UserError, match="balanced, demo, dissimilar, paper, reduced, untrained"):
        load_space(name)


# A param_space of Ray Tune.


def test_grid_searches_are_the_same_treatments_as_nested_loops():
    tune = pytest.importorskip("ray.tune")
    space = {
        "split": tune.grid_search(["random:0", "random:1"]),
        "target": tune.grid_search(["A", "B"]),
        "kind": tune.grid_search(["base", "selffer", "transfer"]),
        "n": tune.grid_search([1, 2, 3, 4, 5, 6, 7]),
        "finetuned": tune.grid_search([False, True]),
        "seed": tune.grid_search([0, 1]),
    }
    loops = set()
    for split, target, seed in itertools.product(("random:0", "random:1"), "AB", (0, 1)):
        loops.add(Treatment(split, target, seed=seed))
        for source, n, finetuned in itertools.product("AB", range(1, 8), (False, True)):
            loops.add(Treatment(split, target, source, n, finetuned, seed))
    expanded = expand(space)
    assert len(expanded) == len(loops) == 2 * 2 * 2 * 29
    assert set(expanded) == loops


def test_untrained_filters_come_from_a_param_space_too(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from ray import tune\n"
        "param_space = {'target': 'AB', 'kind': 'untrained', 'n': tune.grid_search([1, 7])}\n"
    )
    pytest.importorskip("ray.tune")
    assert load_space(str(path)).treatments == (
        Treatment("random:0", "AB", "R", 1),
        Treatment("random:0", "AB", "R", 7),
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("param_space = [1, 2]", "param_space is a list, not a dictionary"),
        ("import sys\nsys.exit(0)", r"cannot be loaded: SystemExit: 0 \(line 2\)"),
        (
            "def treatments():\n    x = 1\n    yield 1 / 0\n",
            r"fails: ZeroDivisionError: division by zero \(line 3\)",
        ),
        ("def treatments():\n    while True:\n        yield 0\n", "more than 100,000 treatments"),
    ],
)
def test_what_a_space_does_wrong_is_told_with_its_line(tmp_path, text, told):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UserError, match=told):
        load_space(str(path))


def test_a_random_search_is_refused_as_a_study_has_no_random_part():
    tune = pytest.importorskip("ray.tune")
    for search in (tune.choice([1, 2]), tune.uniform(1, 2), [1, 2], None, {"grid_search": 3}):
        with pytest.raises(UserError, match=r"n is .* neither a grid_search over a list"):
            expand({"target": "B", "kind": "transfer", "n": search})


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"target": "B"}, "lacks kind"),
        ({}, "lacks kind and target"),
        ({"target": "B", "kind": "base", "layers": 3}, "unknown keys: layers"),
        ({"target": "B", "kind": "transfre", "n": 3}, "kind is one of base, selffer"),
        ({"target": "B", "kind": "transfer"}, "1 to 7, not 0"),
        ({"target": "B", "kind": "transfer", "n": 8}, "1 to 7, not 8"),
        ({"target": "AB", "kind": "transfer", "n": 3}, "target A or B, not 'AB'"),
        ({"target": "B", "kind": "untrained", "n": 3, "finetuned": True}, "are frozen"),
        ({"target": "B", "kind": "transfer", "n": {"grid_search": [2.0]}}, "type int, not 2.0"),
        ({"target": "B", "kind": "transfer", "n": 1.5}, "type int, not 1.5"),
        ({"target": {"grid_search": [["A"]]}, "kind": "base"}, "neither a grid_search over"),
        ({"target": "B", "kind": "base", 3: 4, "x": 1}, "unknown keys: 3, x"),
    ],
)
def test_a_param_space_that_cannot_be_is_refused(space, words):
    with pytest.raises(UserError) as refused:
        expand(space)
    assert words in str(refused.value)


# The plan.


def balanced():
    return load_space("balanced").treatments


def test_missing_parents_are_added():
    plan = make_plan([Treatment("random:0", "B", "A", 3, seed=5)], networks_per_trial=None)
    assert set(plan.treatments) == {
        Treatment("random:0", "A", seed=5),
        Treatment("random:0", "B", "A", 3, seed=5),
    }


LIMITS = [
    {"networks_per_trial": None},
    {"networks_per_trial": None, "trials_at_once": 3},
    {"networks_per_trial": None, "fitting": lambda some: min(5, len(some))},
    {"networks_per_trial": None, "lanes": 2},
    {"networks_per_trial": None, "lanes": 2, "trials_at_once": 3},
    {"networks_per_trial": None, "lanes": 64, "costs": lambda some: [9 - t.n for t in some]},
    {"networks_per_trial": 1},
    {"networks_per_trial": 7},
    {"networks_per_trial": 40},
    {"networks_per_trial": 10, "fitting": lambda some: min(4, len(some)), "trials_at_once": 2},
]


@pytest.mark.parametrize("limits", LIMITS)
def test_every_treatment_is_planned_exactly_once(limits):
    plan = make_plan(balanced(), **limits)
    planned = [t for wave in plan.waves for trial in wave for t in trial.treatments]
    assert sorted(planned, key=str) == sorted(balanced(), key=str)
    assert sorted(plan.treatments, key=str) == sorted(balanced(), key=str)


@pytest.mark.parametrize("limits", LIMITS)
def test_parents_are_over_before_those_that_copy_from_them(limits):
    """In an earlier wave, or in an earlier stage of the same trial: lanes run side by side."""
    over = set()
    for wave in make_plan(balanced(), **limits).waves:
        trained = set()
        for trial in wave:
            own = set(over)
            for stage in trial.stages:
                side_by_side = {t for lane in stage for cohort in lane for t in cohort.treatments}
                assert {t.parent for t in side_by_side} - {None} <= own
                own |= side_by_side
            trained |= own
        over |= trained


@pytest.mark.parametrize("limits", LIMITS)
def test_a_cohort_has_one_target_and_all_limits_are_kept(limits):
    plan = make_plan(balanced(), **limits)
    fitting = limits.get("fitting", len)
    trial_limit = limits["networks_per_trial"] or math.inf
    for wave in plan.waves:
        if limits["networks_per_trial"] is None:
            assert len(wave) <= limits.get("trials_at_once", 1)
        for trial in wave:
            assert len(trial.treatments) <= trial_limit
            assert all(len(stage) <= limits.get("lanes", 1) for stage in trial.stages)
            for cohort in trial.cohorts:
                assert len(cohort.treatments) <= fitting(cohort.treatments)
                assert len({(t.split, t.target) for t in cohort.treatments}) == 1


def test_lanes_have_about_the_same_cost():
    def costs(networks):
        return [10 - treatment.n for treatment in networks]

    plan = make_plan(balanced(), networks_per_trial=None, lanes=3, costs=costs)
    ((trial,),) = plan.waves
    for stage in trial.stages:
        lanes = [sum(sum(costs(cohort.treatments)) for cohort in lane) for lane in stage]
        assert len(lanes) == 3
        assert max(lanes) - min(lanes) <= 2 * 10


def test_one_network_a_trial_is_the_textbook_way():
    plan = make_plan(balanced(), networks_per_trial=1)
    assert [len(wave) for wave in plan.waves] == [8, 224]


def test_alone_on_a_machine_one_trial_runs_everything():
    plan = make_plan(balanced(), networks_per_trial=None)
    assert [len(wave) for wave in plan.waves] == [1]


def test_ids_are_names_of_the_members_and_hold_no_time():
    plan, again = (
        make_plan(load_space("demo").treatments, networks_per_trial=None) for _ in range(2)
    )
    cohorts = [cohort for stage in plan.stages for cohort in stage]
    assert [cohort.id for cohort in cohorts] == [c.id for stage in again.stages for c in stage]
    assert len({cohort.id for cohort in cohorts}) == len(cohorts)
    for cohort in cohorts:
        members = "\n".join(treatment.id for treatment in cohort.treatments)
        digest = hashlib.sha256(members.encode()).hexdigest()[:12]
        assert cohort.id == f"{cohort.split}.{cohort.target}.{digest}"
    for wave in plan.waves:
        for trial in wave:
            ids = "\n".join(cohort.id for cohort in trial.cohorts)
            assert trial.id == hashlib.sha256(ids.encode()).hexdigest()[:12]


def test_a_cohorts_id_does_not_depend_on_the_order_of_the_loops():
    forth, back = (
        make_plan(order, networks_per_trial=None)
        for order in (load_space("demo").treatments, load_space("demo").treatments[::-1])
    )
    ids = [{cohort.id for stage in plan.stages for cohort in stage} for plan in (forth, back)]
    assert ids[0] == ids[1]


# The recipe.


def test_the_default_recipe_is_the_papers():
    assert Recipe() == Recipe(
        network="caffenet",
        steps=450_000,
        batch=256,
        validate_every=1_000,
        learning_rate=0.01,
        schedule="step",
        drop_every=100_000,
        momentum=0.9,
        weight_decay=5e-4,
        bias_rate=2.0,
        dropout=0.5,
        mirror=True,
        pad=0,
    )


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 1e-2),
        (99_999, 1e-2),
        (100_000, 1e-3),
        (199_999, 1e-3),
        (200_000, 1e-4),
        (300_000, 1e-5),
        (400_000, 1e-6),
        (449_999, 1e-6),
    ],
)
def test_the_papers_rate_falls_to_a_tenth_every_100_000_steps(step, rate):
    assert Recipe().rate(step) == pytest.approx(rate, rel=1e-12)


def test_the_rate_of_the_reduced_data_bases_falls_every_64_000_steps():
    recipe = Recipe(learning_rate=0.0125, drop_every=64_000, steps=200_000)
    assert [recipe.rate(step) for step in (63_999, 64_000, 199_999)] == pytest.approx(
        [0.0125, 0.00125, 0.0000125], rel=1e-12
    )


def test_one_cycle_warms_up_over_a_fifth_and_falls_to_nought():
    recipe = Recipe(steps=100, schedule="one-cycle", learning_rate=0.2)
    rates = [recipe.rate(step) for step in range(100)]
    assert rates[:2] == pytest.approx([0.01, 0.02])
    assert rates[19] == rates[20] == max(rates) == 0.2
    assert rates[60] == pytest.approx(0.1)
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert 0 < rates[-1] < 1e-4


@pytest.mark.parametrize("steps", [1, 2, 4, 5])
def test_one_cycle_of_few_steps_has_a_rate_at_each(steps):
    recipe = Recipe(steps=steps, schedule="one-cycle")
    assert all(recipe.rate(step) > 0 for step in range(steps))


def test_a_recipe_file_changes_what_it_names_and_nothing_else(tmp_path):
    path = tmp_path / "recipe.toml"
    text = 'network = "small"\nsteps = 30\nlearning_rate = 1\nmirror = false\n'
    path.write_text(text, encoding="utf-8-sig")
    start = Recipe(batch=32)
    read = read_recipe(path, start)
    assert read == dataclasses.replace(
        start, network="small", steps=30, learning_rate=1.0, mirror=False
    )
    assert read.sha256 == dataclasses.replace(read, learning_rate=1.0).sha256 != start.sha256


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 4.0}, "steps is of type int, not 4.0"),
        ({"steps": "3"}, "steps is of type int, not '3'"),
        ({"pad": 2.5}, "pad is of type int, not 2.5"),
        ({"mirror": "no"}, "mirror is of type bool, not 'no'"),
        ({"dropout": True}, "dropout is of type float, not True"),
        ({"network": ["small"]}, "network is one of caffenet, small"),
    ],
)
def test_a_recipe_of_other_types_is_refused(settings, words):
    with pytest.raises(UserError) as refused:
        Recipe(**settings)
    assert words in str(refused.value)


def test_a_whole_number_is_as_good_as_a_fraction(tmp_path):
    start = Recipe(dropout=0, learning_rate=1)
    assert start.sha256 == Recipe(dropout=0.0, learning_rate=1.0).sha256
    (tmp_path / "r.toml").write_text("dropout = 0.5\nbias_rate = 1\n")
    assert read_recipe(tmp_path / "r.toml", start) == dataclasses.replace(
        start, dropout=0.5, bias_rate=1.0
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("stpes = 3", "unknown setting 'stpes'; known: network, steps"),
        ("steps = 3.0", "steps is of type int, not 3.0"),
        ("steps = true", "steps is of type int, not True"),
        ('steps = "3"', "steps is of type int, not '3'"),
        ("mirror = 1", "mirror is of type bool, not 1"),
        ("learning_rate = true", "learning_rate is of type float, not True"),
        ('learning_rate = "fast"', "learning_rate is of type float, not 'fast'"),
        ('network = "alexnet"', "network is one of caffenet, small"),
        ('schedule = "cosine"', "schedule is one of step, one-cycle"),
        ("steps = 0", "steps is 1 or more, not 0"),
        ("batch = 0", "batch is 1 or more"),
        ("learning_rate = 0", "learning_rate is above 0"),
        ("learning_rate = inf", "learning_rate is a finite number"),
        ("weight_decay = nan", "weight_decay is a finite number"),
        ("weight_decay = -1", "weight_decay is 0 or more"),
        ("momentum = 1", "momentum is at least 0 and below 1"),
        ("dropout = 1.0", "dropout is at least 0 and below 1"),
        ("[recipe]\nsteps = 3", "unknown setting 'recipe'"),
        ("steps =", "cannot be read as TOML"),
    ],
)
def test_a_recipe_file_with_a_mistake_is_refused_in_a_sentence(tmp_path, content, words):
    path = tmp_path / "recipe.toml"
    path.write_text(content)
    with pytest.raises(UserError) as refused:
        read_recipe(path, Recipe())
    assert words in str(refused.value)


def test_a_recipe_file_that_is_missing_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"no recipe file .*gone\.toml"):
        read_recipe(tmp_path / "gone.toml", Recipe())


def test_settings_say_where_they_come_from():
    with pytest.raises(UserError, match=r"^--set has an unknown setting"):
        recipe_from({"epochs": 3}, Recipe(), "--set")


def test_every_setting_changes_the_hash():
    other = {"network": "small", "schedule": "one-cycle", "precision": "bfloat16", "mirror": False}
    hashes = {Recipe().sha256}
    for field in dataclasses.fields(Recipe):
        value = other.get(field.name)
        if value is None:
            value = getattr(Recipe(), field.name) / 2 or 1
            value = type(getattr(Recipe(), field.name))(value)
        hashes.add(dataclasses.replace(Recipe(), **{field.name: value}).sha256)
    assert len(hashes) == 1 + len(dataclasses.fields(Recipe))
