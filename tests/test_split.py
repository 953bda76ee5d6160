"""Splits: the authors' own halves for random:0 to 3, man-made against natural, and the user's."""

import hashlib
import json

import numpy as np
import pytest

from raytransfer.errors import UserError
from raytransfer.study.split import Split, make_split, manmade_natural, random_split

# sha256 of json.dumps([name, A, B]). These are the authors' draws (their validation lists have
# these classes), so they never change: where the test fails, the code is wrong.
AUTHORS = {
    0: "9b66f45e8efc13fc830d3ed490cbc6d56e40bf418d0e6a80bbb99b1a5b8de00b",
    1: "ecbc58e3e4121272a94e7be7af79f33187b7b63a4be827ba6aed9acd58fdee2e",
    2: "b418df617d58306b062d1f43ad76c9545ec6caa28b27d562aece908fd9c57077",
    3: "c1398cafbd0f1b2754e4fc8fec0809bd6602cb68eebafba4dcb700b0aa58240b",
}
NAMES = tuple(f"class {index}" for index in range(1000))
PETS = ("ant", "bee", "cat", "dog", "eel")


@pytest.mark.parametrize("seed", AUTHORS)
def test_random_splits_are_the_authors(seed):
    split = make_split(f"random:{seed}", NAMES)
    listed = json.dumps([split.name, split.a, split.b]).encode()
    assert split.sha256 == hashlib.sha256(listed).hexdigest() == AUTHORS[seed]


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 17])
@pytest.mark.parametrize("classes", [10, 11, 1000])
def test_random_splits_are_numpys_legacy_draw_from_the_seed_as_a_list(seed, classes):
    split = random_split(seed, classes)
    drawn = np.random.RandomState([seed]).choice(np.arange(classes), classes // 2, replace=False)
    assert split.a == tuple(np.sort(drawn))
    assert split.b == tuple(np.setdiff1d(np.arange(classes), drawn))
    assert all(type(index) is int for index in split.a + split.b)


def test_a_reduced_split_is_the_first_one_with_fewer_images():
    whole, reduced = make_split("random:0", NAMES), make_split("reduced:250", NAMES)
    assert (reduced.a, reduced.b, reduced.images_per_class) == (whole.a, whole.b, 250)
    assert whole.images_per_class is None


def test_the_first_classes_of_both_halves_are_those_of_the_paper():
    split = random_split(0, 1000)
    assert split.a[:8] == (0, 1, 2, 5, 9, 10, 15, 16)
    assert split.b[:8] == (3, 4, 6, 7, 8, 11, 12, 13)


def test_the_integer_as_a_seed_gives_other_classes():
    drawn = np.random.RandomState(0).choice(np.arange(1000), 500, replace=False)
    assert random_split(0, 1000).a != tuple(np.sort(drawn))


def test_seeds_give_different_splits():
    assert len({random_split(seed, 10).a for seed in range(4)}) == 4


def test_man_made_against_natural_has_551_and_449_classes():
    split = make_split("manmade-natural", NAMES)
    assert split == manmade_natural(1000)
    assert (len(split.a), len(split.b)) == (551, 449)
    assert set(split.a) == {*range(398, 936), *range(959, 970), 971, 999}
    assert split.classes("AB") == tuple(range(1000))


def test_man_made_against_natural_needs_imagenets_classes():
    with pytest.raises(UserError, match="1000 classes, not for 5"):
        make_split("manmade-natural", PETS)


def test_a_users_split_takes_names_and_indices_in_any_order():
    split = make_split("legs", PETS, {"legs": {"A": ["dog", 2], "B": ["bee", "ant"]}})
    assert split == Split("legs", a=(2, 3), b=(0, 1))
    assert split.classes("A") == (2, 3)
    assert split.classes("AB") == (0, 1, 2, 3)  # an eel has no legs and takes no part


def test_a_users_split_comes_from_a_file(tmp_path):
    path = tmp_path / "legs.json"
    path.write_text('{"A": ["cat", "dog"], "B": [0, 1]}')
    assert make_split(str(path), PETS) == Split("legs", a=(2, 3), b=(0, 1))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as some editors begin a file
    assert make_split(str(path), PETS) == Split("legs", a=(2, 3), b=(0, 1))


def test_the_hash_tells_name_and_classes_apart():
    one = Split("x", (0, 1), (2, 3))
    assert one.sha256 == Split("x", (0, 1), (2, 3)).sha256
    others = [Split("y", (0, 1), (2, 3)), Split("x", (2, 3), (0, 1)), Split("x", (0, 2), (1, 3))]
    others += [Split("x", (0, 1), (2, 3), 4), Split("x", (0, 1), (2, 3), 5)]
    assert len({split.sha256 for split in [one, *others]}) == 6


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ({"A": ["ant", "bee"], "B": ["cat", "cow"]}, "names class 'cow', which the data do not"),
        ({"A": ["ant", "bee"], "B": ["cat", 5]}, "names class 5"),
        ({"A": ["ant", "bee"], "B": ["cat", -1]}, "names class -1"),
        ({"A": ["ant", "bee"], "B": ["cat", True]}, "names class True"),
        ({"A": ["ant", "bee"], "B": ["cat", None]}, "names class None"),
        ({"A": ["ant", "bee"], "B": ["bee", "cat"]}, "in both A and B: [1]"),
        ({"A": ["ant", "ant"], "B": ["bee", "cat"]}, "Task A of split mine repeats a class"),
        ({"A": ["ant", 0], "B": ["bee", "cat"]}, "repeats a class"),
        ({"A": ["ant", "bee"], "B": ["cat"]}, "Task B of split mine has fewer than two"),
        ({"A": ["ant", "bee"]}, "exactly the lists A and B"),
        ({"A": ["ant", "bee"], "B": ["cat", "dog"], "C": []}, "exactly the lists A and B"),
        ({"A": "ant", "B": ["cat", "dog"]}, "A of split mine is a list of classes, not 'ant'"),
        ({"A": ["ant", "bee"], "B": 3}, "B of split mine is a list of classes, not 3"),
    ],
)
def test_a_users_split_that_cannot_be_is_refused(tasks, words):
    with pytest.raises(UserError) as refused:
        make_split("mine", PETS, {"mine": tasks})
    assert words in str(refused.value)


@pytest.mark.parametrize("content", ["{", "[1, 2]", "3", b"\xff\xfe\x00"])
def test_a_split_file_that_is_no_such_thing_is_refused_by_name(tmp_path, content):
    path = tmp_path / "legs.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=r"legs\.json"):
        make_split(str(path), PETS)


def test_a_split_file_that_is_missing_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"no split file .*gone\.json"):
        make_split(str(tmp_path / "gone.json"), PETS)


@pytest.mark.parametrize(
    "name",
    ["random", "random:", "random:-1", "random:00", "natural", "", "reduced:", "reduced:0"],
)
def test_an_unknown_split_is_refused_with_the_known_ones(name):
    with pytest.raises(UserError, match=r"known are random:0 .*, manmade-natural, .*, mine"):
        make_split(name, PETS, {"mine": {}})


def test_a_seed_that_numpy_cannot_take_is_refused():
    with pytest.raises(UserError, match="0 to 4294967295, not 4294967296"):
        make_split(f"random:{2**32}", PETS)


def test_halves_of_fewer_than_two_classes_are_refused():
    with pytest.raises(UserError, match="fewer than two classes"):
        make_split("random:0", PETS[:3])
