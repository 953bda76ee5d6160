"""Lists that say which class each validation image is of."""

import pytest

from raytransfer.data.sources.truth import validation_labels
from raytransfer.errors import UserError
from raytransfer.folder import Folder

IMAGES = ["val/1.jpg", "val/2.jpg"]


def labels(folder, classes=("cat", "dog"), **lists):
    """The labels of both images, and the list that said them. lists: contents by name."""
    (folder / "val").mkdir()
    for name, content in lists.items():
        (folder / name.replace("__", "/").replace("_txt", ".txt")).write_text(content)
    found, told_by = validation_labels(Folder(folder), IMAGES, classes)
    assert [name for name, _ in found] == IMAGES
    return [label for _, label in found], told_by


CAT_DOG, DOG_DOG, DOG_CAT = "1.jpg cat\n2.jpg dog\n", "1.jpg dog\n2.jpg dog\n", "1 dog\n2 cat\n"


def test_a_list_of_validation_images_goes_before_others(tmp_path):
    found = labels(tmp_path, sample_submission_txt=DOG_DOG, val_labels_txt=CAT_DOG)
    assert found == ([0, 1], "val_labels.txt")


def test_a_list_of_training_images_is_none(tmp_path):
    """Images of both splits are often numbered alike."""
    assert labels(tmp_path, train_txt=DOG_DOG, val_txt=CAT_DOG)[0] == [0, 1]


def test_a_list_of_training_images_may_contradict_itself(tmp_path):
    assert labels(tmp_path, train_txt=CAT_DOG + DOG_CAT, val_txt=CAT_DOG)[0] == [0, 1]


def test_there_is_no_list_but_of_training_images(tmp_path):
    with pytest.raises(UserError, match=r"No list beside .*\(train\.txt do not\)"):
        labels(tmp_path, train_txt=CAT_DOG)


def test_lists_that_contradict_each_other_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"one\.txt and two\.txt in .* say different classes"):
        labels(tmp_path, one_txt=CAT_DOG, two_txt=DOG_CAT)


@pytest.mark.parametrize(
    "content",
    [
        "1.jpg,golden retriever\n2.jpg,golden\n",
        "image;class\n1.jpg;golden retriever\n2.jpg;golden\n",
        "1.jpg\tgolden retriever\t0\t9\n2.jpg\tgolden\t0\t9\n",
        "1.jpg golden retriever\n2.jpg golden\n",
        'name,class\n"1.jpg","golden retriever"\n"2.jpg","golden"\n',
        "ImageId,PredictionString\n1,golden retriever\n2,golden 1 2 3 4 golden 5 6 7 8\n",
    ],
)
def test_a_class_may_be_several_words(content, tmp_path):
    assert labels(tmp_path, ("golden", "golden retriever"), list_txt=content)[0] == [1, 0]


def test_a_class_that_only_begins_as_another_is_not_taken_for_it(tmp_path):
    with pytest.raises(UserError, match=r"\(list\.txt do not\)"):
        labels(tmp_path, ("golden", "poodle"), list_txt="1.jpg,golden retriever\n2.jpg,poodle\n")


def test_numbers_are_all_names_or_all_places(tmp_path):
    (tmp_path / "places").mkdir()
    (tmp_path / "names").mkdir()
    classes = ("1", "2", "3")
    assert labels(tmp_path / "places", classes, list_txt="1.jpg 0\n2.jpg 1\n")[0] == [0, 1]
    assert labels(tmp_path / "names", classes, list_txt="1.jpg 1\n2.jpg 3\n")[0] == [0, 2]
