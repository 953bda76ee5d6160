"""First layers of a study's networks: read from their files alone, and drawn."""

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import save

from raytransfer.errors import UserError
from raytransfer.report.weights import filters_section, sheet
from raytransfer.results.filters import first_filters, first_layer
from raytransfer.results.store import StudyFolder
from raytransfer.results.table import Results, in_study_order, network_row
from raytransfer.study.treatment import Treatment

BASE = Treatment("random:0", "B")


def filters(seed=0, shape=(6, 3, 5, 4)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def weights(first):
    return {"layer8.weight": np.ones((2, 2), np.float32), "layer1.weight": first}


@pytest.fixture
def folder(tmp_path):
    return StudyFolder(tmp_path)


def write(folder, treatment, content):
    folder.write(f"networks/{treatment.id}/weights.safetensors", content)


def test_the_first_layer_is_read_from_anywhere_in_the_file(folder):
    write(folder, BASE, save(weights(filters())))
    assert (first_layer(folder, BASE) == filters()).all()
    assert first_layer(folder, Treatment("random:0", "A")) is None
    write(folder, BASE, save(weights(filters(shape=(6, 20)))))
    assert first_layer(folder, BASE) is None  # not convolutional


def header(entry):
    content = json.dumps({"layer1.weight": entry}).encode()
    return struct.pack("<Q", len(content)) + content + bytes(64)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        struct.pack("<Q", 2**60),
        struct.pack("<Q", 5) + b"{nonsense",
        struct.pack("<Q", 200_000) + b"[" * 200_000,
        header({}),
        header({"dtype": "F64", "shape": [1, 1, 2, 2], "data_offsets": [0, 32]}),
        header({"dtype": "F32", "shape": [1, 1, 2, 2], "data_offsets": [0, 99]}),
        header({"dtype": "F32", "shape": [1, 1, -2, -2], "data_offsets": [0, 16]}),
        header({"dtype": "F32", "shape": [1, 1, 2, 2], "data_offsets": [-16, 0]}),
        header({"dtype": "F32", "shape": [1, 1, 2, 2], "data_offsets": [60, 76]}),
        header({"dtype": "F32", "shape": [1, 1, 2**15, 2**15], "data_offsets": [0, 2**32]}),
    ],
)
def test_a_broken_file_is_named(folder, content):
    write(folder, BASE, content)
    with pytest.raises(UserError, match=r"random:0.baseB.s0/weights.safetensors in .* verify"):
        first_layer(folder, BASE)


def test_one_of_each_kind_is_shown_with_its_sources_base(folder):
    labels = ("baseA", "baseB", "B2B+", "B7B+", "A3B", "A7B", "B4A", "A7B+", "R5B")
    rows = []
    for split in (0, 1):
        for label in labels:
            treatment = Treatment.parse(f"random:{split}.{label}.s0")
            rows.append(network_row(treatment, state="finished", top1=0.5))
            write(folder, treatment, save(weights(filters())))
    found = first_filters(folder, Results(in_study_order(rows)))
    shown = [Treatment.parse(id) for id in found]
    assert {treatment.split for treatment in shown} == {"random:0"}
    # The first transfer network is of target A, and so are the others that are shown.
    assert [treatment.label for treatment in shown] == ["baseA", "B4A", "baseB"]
    assert first_filters(folder, Results(())) == {}


def test_filters_are_drawn_between_their_own_ends():
    image = sheet(filters())
    assert image.shape == (2 * 5 + 1, 3 * 4 + 2, 3)
    corner = image[:5, :4].astype(int)
    assert (corner.min(), corner.max()) == (0, 255)
    assert (image[5] == 255).all()  # between them
    grey = sheet(filters(shape=(6, 1, 5, 4)))
    assert (grey == grey[..., :1]).all()
    assert (sheet(np.zeros((1, 3, 2, 2), np.float32))[:, :2] == 0).all()


def test_the_page_shows_them_with_what_they_are():
    shown = filters_section({"random:0.A3B+.s0": filters(), "random:0.A3B.s0": filters()})
    assert shown.count("data:image/png;base64,") == 2
    assert 'alt="6 filters of random:0.A3B+.s0"' in shown
    assert "copied from baseA, fine-tuned" in shown
    assert "copied from baseA, the same" in shown
    assert "There are no weights" in filters_section({})
