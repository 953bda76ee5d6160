"""What is wrong with shards is named, line by line; what is right is not."""

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from raytransfer.cli import main
from raytransfer.data.manifest import demo_shards, parse_manifest, read_labels, read_manifest
from raytransfer.data.shards import ROW_GROUP, prepare
from raytransfer.data.verify import verify
from raytransfer.errors import UserError

TRAIN, VAL = "train-00000-of-00001.parquet", "val-00000-of-00001.parquet"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    prepare(corpus.imagenet_tree(folder / "source"), folder / "shards", size=64)
    return folder / "shards"


@pytest.fixture
def shards(made: Path, tmp_path: Path) -> Path:
    """Whole shards, for a test to spoil."""
    return Path(shutil.copytree(made, tmp_path / "shards"))


def problems(shards: Path) -> list[str]:
    said: list[str] = []
    found = verify(shards, lambda problem: said.append(str(problem)))
    assert found.problems == len(said)
    return said


def edit(shards: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Edits the manifest, and the hashes that would tell."""
    path = shards / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    sums = {file.name: file.sha256 for file in parse_manifest(str(shards), path.read_text()).stored}
    sums["manifest.json"] = hashlib.sha256(path.read_bytes()).hexdigest()
    lines = [f"{sha256}  {name}\n" for name, sha256 in sums.items() if (shards / name).exists()]
    (shards / "SHA256SUMS").write_text("".join(lines))


def rewrite(
    shards: Path, change: Callable[[list[dict[str, Any]]], None], row_group: int = ROW_GROUP
) -> None:
    """Writes the training shard again with other rows, as a faulty program would."""
    path = shards / TRAIN
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path, row_group_size=row_group)
    edit(shards, lambda manifest: manifest["train"][0].update(size_and_hash(path)))
    labels = [row["label"] for row in rows] + pq.read_table(shards / VAL)["label"].to_pylist()
    relabel(shards, np.array(labels, np.int32))


def relabel(shards: Path, labels: np.ndarray) -> None:
    path = shards / "labels.npy"
    np.save(path, labels)
    edit(shards, lambda manifest: manifest["labels"].update(size_and_hash(path)))


def size_and_hash(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_whole_shards_are_read_to_their_end(made: Path) -> None:
    found = verify(made, lambda problem: pytest.fail(str(problem)), threads=3)
    assert found.images == {"train": 8 * corpus.TRAIN, "val": 8 * corpus.VAL}
    assert found.files == 5
    stored = sum(file.bytes for file in read_manifest(made).stored)
    assert found.bytes == stored + (made / "manifest.json").stat().st_size


def test_the_shards_that_come_along_and_kept_images_are_whole(tmp_path: Path) -> None:
    counted: list[tuple[int, int]] = []
    found = verify(
        demo_shards(),
        lambda problem: pytest.fail(str(problem)),
        progress=lambda done, all_: counted.append((done, all_)),
    )
    assert found.images == {"train": 10_000, "val": 5_000}
    assert counted[-1] == (15_000, 15_000)
    assert counted == sorted(counted)
    prepare(corpus.imagenet_tree(tmp_path / "source"), tmp_path / "kept", size=None)
    assert problems(tmp_path / "kept") == []


def test_each_flipped_byte_is_found(shards: Path) -> None:
    whole = (shards / TRAIN).read_bytes()
    random = np.random.default_rng(0)
    for place in random.integers(4, len(whole) - 8, 20).tolist():
        spoilt = bytearray(whole)
        spoilt[place] ^= 0x55
        (shards / TRAIN).write_bytes(spoilt)
        said = problems(shards)
        assert said, place
        assert all(line.startswith((TRAIN, "manifest.json: class")) for line in said)


def test_a_byte_flipped_in_an_image_is_found_with_its_row(shards: Path) -> None:
    row = pq.read_table(shards / TRAIN).to_pylist()[17]
    whole = (shards / TRAIN).read_bytes()
    # The second byte of a JPEG's last marker: the image has no end then.
    end = whole.index(row["image"]) + len(row["image"]) - 1
    spoilt = bytearray(whole)
    spoilt[end] ^= 0xFF
    (shards / TRAIN).write_bytes(spoilt)
    image, file = problems(shards)
    assert image.startswith(f"{TRAIN}, row 17, {row['key']}: cannot be decoded: ")
    assert file == f"{TRAIN}: its bytes are not those that were written: the sha256 differs"


def test_a_file_that_is_cut_off_or_missing_is_named_and_the_others_are_read(shards: Path) -> None:
    whole = (shards / TRAIN).read_bytes()
    (shards / TRAIN).write_bytes(whole[:-100])
    (shards / "means.npy").unlink()
    said = problems(shards)
    size = f"{TRAIN}: has {len(whole) - 100} bytes, not the {len(whole)} that were written"
    assert said[0] == size
    assert said[1].startswith(f"{TRAIN}: is no whole Parquet file: ")
    assert said[2] == (
        "manifest.json: class 0 (n01440764) has 0 train images, not the 6 that the manifest tells"
    )
    assert said[-1] == "means.npy: is missing"
    assert len(said) == 2 + 8 + 1
    (shards / TRAIN).unlink()
    assert problems(shards)[0] == f"{TRAIN}: is missing"


def test_images_that_are_none_or_of_another_form_are_named(shards: Path) -> None:
    random = np.random.default_rng(0)

    def change(rows: list[dict[str, Any]]) -> None:
        picture = corpus.cut(random, 64, 64)
        rows[1]["image"] = b"no image"
        rows[2]["image"] = b""
        rows[3]["image"] = corpus.encoded(corpus.cut(random, 64, 63), "JPEG")
        rows[4]["image"] = corpus.encoded(picture[..., 0], "JPEG")
        rows[5]["image"] = corpus.encoded(picture, "PNG")[:-1000]
        rows[6]["image"] = rows[6]["image"][:-600]
        rows[7]["image"] = corpus.encoded(picture, "WEBP")
        rows[8]["image"] = corpus.jpeg_bomb(60_000)

    rewrite(shards, change)
    said = [re.sub("train/.*?JPEG", "KEY", line) for line in problems(shards)]
    assert said[:4] == [
        f"{TRAIN}, row 1, KEY: is not an image",
        f"{TRAIN}, row 2, KEY: is not an image",
        f"{TRAIN}, row 3, KEY: is 64x63 pixels, not 64x64",
        f"{TRAIN}, row 4, KEY: is grey, unlike what the manifest tells",
    ]
    assert said[4].startswith(f"{TRAIN}, row 5, KEY: cannot be decoded: ")
    assert said[5].startswith(f"{TRAIN}, row 6, KEY: cannot be decoded: ")
    assert said[6] == f"{TRAIN}, row 8, KEY: is 60000x60000 pixels, not 64x64"
    assert len(said) == 7


def test_wrong_labels_names_and_keys_are_named(shards: Path) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[0]["label"] = 8
        rows[1]["label"] = (rows[1]["label"] + 1) % 8
        rows[9]["key"] = rows[4]["key"]
        rows[10]["class_name"] = "two\nlines"

    rewrite(shards, change)
    said = problems(shards)
    assert any(re.match(rf"{TRAIN}, row 0, .*: label 8 is none of the 8 classes", s) for s in said)
    assert any(re.match(rf"{TRAIN}, row 1, .*: is of class n\d+, but label", s) for s in said)
    assert f"{TRAIN}, row 9: has the key of row 4 of {TRAIN}" in said
    assert any(r"is of class two\nlines, but" in line for line in said)
    counts = [line for line in said if line.startswith("manifest.json: class")]
    assert len(said) == 4 + len(counts)
    assert 1 <= len(counts) <= 3


def test_keys_are_compared_across_files_and_row_groups(tmp_path: Path, made: Path) -> None:
    table = pq.read_table(made / TRAIN)
    folder = Path(shutil.copytree(made, tmp_path / "shards"))
    pq.write_table(table, folder / TRAIN, row_group_size=20)
    pq.write_table(table.slice(40, 5), folder / "more.parquet", row_group_size=20)
    files = [
        {"name": name, "rows": rows, **size_and_hash(folder / name)}
        for name, rows in ((TRAIN, 48), ("more.parquet", 5))
    ]
    edit(folder, lambda content: content.update(train=files, row_group=20))
    labels = np.load(folder / "labels.npy")
    relabel(folder, np.concatenate([labels[:48], labels[40:45], labels[48:]]))
    said = problems(folder)
    assert said[-5:] == [
        f"more.parquet, row {i}: has the key of row {40 + i} of {TRAIN}" for i in range(5)
    ]
    assert all(line.startswith("manifest.json: class") for line in said[:-5])


def test_other_rows_row_groups_and_columns_are_named(shards: Path) -> None:
    rewrite(shards, lambda rows: rows.pop(), row_group=10)
    said = problems(shards)
    assert f"{TRAIN}: has 47 rows, not 48" in said
    assert f"{TRAIN}: its row groups are not of {ROW_GROUP} rows, the last of fewer" in said
    table = pq.read_table(shards / TRAIN).drop_columns(["key"])
    pq.write_table(table, shards / TRAIN)
    assert any(
        "its columns are not those of shards but image binary, label int32" in s
        for s in problems(shards)
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"train_counts": [6] * 7 + [5]}, "class 7 (n03126707) has 6 train images, not the 5"),
        ({"val_counts": [2] * 7}, "val_counts are not one number for each class"),
        ({"classes": ["a"] * 8}, "two classes have the same name"),
        ({"classes": ["a", "b"] + [None] * 6}, "classes are no list of names"),
        ({"channels": 4}, "channels is 4, not 1 or 3"),
        ({"channels": 1}, "is in colour, unlike what the manifest tells"),
        ({"height": 65}, "is 64x64 pixels, not 64x65"),
        ({"height": None}, "height and width are None and 64, not both 1 or more"),
        ({"row_group": "many"}, "row_group is 'many', not 1 or more"),
        ({"row_group": 7}, "its row groups are not of 7 rows"),
        ({"mean_colour": [[1, 2, 3]] * 8}, "mean_colour is not what means.npy gives"),
        ({"settings": None}, "settings are no table of names and values"),
    ],
)
def test_an_edited_manifest_is_found(shards: Path, change: dict[str, Any], expected: str) -> None:
    edit(shards, lambda content: content.update(change))
    said = problems(shards)
    assert any(expected in line for line in said), said
    assert all(line.count("\n") == 0 for line in said)


def test_what_no_image_tells_of_is_held_by_the_sums(tmp_path: Path) -> None:
    source, shards = corpus.imagenet_tree(tmp_path / "source"), tmp_path / "shards"
    (image, *_) = (source / "train").rglob("*.JPEG")
    image.with_name("again.JPEG").write_bytes(image.read_bytes())
    image.with_name("bad.JPEG").write_bytes(b"none")
    (tmp_path / "terms").write_text("Anybody may.\n")
    prepare(source, shards, size=16, max_bad=0.1, licence=tmp_path / "terms")
    listed = {line.split("  ")[1] for line in (shards / "SHA256SUMS").read_text().splitlines()}
    assert listed == {path.name for path in shards.iterdir()} - {"SHA256SUMS"}
    command = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    assert subprocess.run(command, cwd=shards, check=True, capture_output=True).stdout == b""
    assert problems(shards) == []
    for name in ("manifest.json", "quarantine.jsonl", "duplicates.jsonl", "LICENSE"):
        whole = (shards / name).read_text()
        (shards / name).write_text(f"{whole} ")
        changed = f"{name}: its bytes are not those that were written: the sha256 differs"
        assert problems(shards) == [changed]
        (shards / name).write_text(whole)
    (shards / "duplicates.jsonl").unlink()
    shutil.copy(shards / VAL, shards / "val-00001-of-00002.parquet")
    assert problems(shards) == [
        "val-00001-of-00002.parquet: is none of these shards: take it away, or others will read it",
        "duplicates.jsonl: is missing",
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: None, "is missing: nothing says whether manifest.json is as it was written"),
        (lambda text: text[66:], "does not tell the sha256 of labels.npy"),
        (lambda text: text.replace("  val", "  ../val"), "has no sha256 and name of a file here"),
        (lambda text: f"{'0' * 64}{text[64:]}", "tells another sha256 of labels.npy than manifest"),
        (lambda text: text + "0" * 64 + "  \n", "has no sha256 and name of a file here in line 6"),
        (lambda text: text + "none\n", "has no sha256 and name of a file here in line 6"),
    ],
)
def test_sums_that_do_not_fit_are_found(
    shards: Path, change: Callable[[str], str | None], expected: str
) -> None:
    path = shards / "SHA256SUMS"
    changed = change(path.read_text())
    path.unlink() if changed is None else path.write_text(changed)
    assert any(line.startswith(f"SHA256SUMS: {expected}") for line in problems(shards))


def test_files_outside_the_folder_are_not_read(shards: Path) -> None:
    edit(shards, lambda content: content["val"][0].update(name="../../etc/passwd"))
    assert problems(shards) == [
        "manifest.json: '../../etc/passwd' is no name of a file in the folder"
    ]


def test_other_labels_are_found(shards: Path) -> None:
    labels = np.load(shards / "labels.npy")
    other = labels.copy()
    other[3] += 1
    for array, expected in (
        (other, "labels.npy, row 3: is not the label that the shards hold"),
        (labels[1:], "holds int32 63, not an int32 label of each of the 64 images"),
        (labels.astype(np.int64), "holds int64 64, not an int32 label"),
    ):
        relabel(shards, array)
        (said,) = problems(shards)
        assert expected in said
    relabel(shards, labels)
    np.save(shards / "labels.npy", other)
    assert problems(shards)[0].startswith("labels.npy: its bytes are not those")
    with pytest.raises(UserError, match=r"damaged, labels\.npy is not what was written"):
        read_labels(read_manifest(shards), "train")


def test_other_means_are_found(shards: Path) -> None:
    means = np.load(shards / "means.npy")
    for array, expected in (
        (means[:7], "holds float32 7x3x32x32, not a float32 image of every class and channel"),
        (means.astype(np.float64), "holds float64"),
        (means * np.nan, "holds means that are no colours from 0 to 255"),
        (means / 2, "mean_colour is not what means.npy gives"),
    ):
        np.save(shards / "means.npy", array)
        assert any(expected in line for line in problems(shards))
    (shards / "means.npy").write_bytes(b"\x93NUMPY\x01\x00no array")
    assert any(line.startswith("means.npy: is no array: ") for line in problems(shards))


def test_the_command_ends_with_a_table_and_a_status(
    shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(shards)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"files +train images +val images +MB +images/s +problems", said)
    assert re.search(r"^ 5 +48 +16 +0\.\d +[\d,]+ +0 *$", said, re.MULTILINE)
    (shards / "means.npy").unlink()
    assert main(["verify", shards.as_uri()]) == 1
    said = capsys.readouterr().out
    assert said.startswith("means.npy: is missing\n")
    assert re.search(r" 1 *$", said, re.MULTILINE)


def test_what_is_no_shards_at_all_is_refused(
    tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in (tmp_path / "nowhere", tmp_path, shards / TRAIN, "foo://x"):
        assert main(["verify", str(place)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    (shards / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be read as a manifest"):
        verify(shards, print)
