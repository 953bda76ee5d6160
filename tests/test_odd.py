"""Odd collections and damaged shards: a sentence, or the images, and never anything else."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import corpus
import numpy as np
import pyarrow as pa
import pytest
from faults import tear
from PIL import Image
from pyarrow import parquet as pq

import raytransfer
from raytransfer.cli import main
from raytransfer.data import convert as convert_module
from raytransfer.data import runs as runs_module
from raytransfer.data import shards as shards_module
from raytransfer.data.manifest import read_manifest
from raytransfer.data.shards import prepare
from raytransfer.data.verify import verify
from raytransfer.errors import StoppedError, StoreError, UserError
from raytransfer.folder import Folder

PHOTOGRAPH = corpus.encoded(np.full((20, 20, 3), 99, np.uint8), "JPEG")


def tree(folder, classes=("a", "b")):
    for split in ("train", "val"):
        for name in classes:
            corpus.write(folder / split / name / f"{split}{name}.jpg", PHOTOGRAPH)
    return folder


def sound(shards):
    said = []
    verify(shards, lambda problem: said.append(str(problem)))
    return said == []


def test_names_that_are_not_utf8_are_no_trouble(tmp_path):
    source = tree(tmp_path / "source", ("a", os.fsdecode(b"\xff\xfe")))
    corpus.write(source / os.fsdecode(b"stray\xff"), b"nothing")
    manifest = prepare(source, tmp_path / "shards", size=16)
    assert manifest.classes == ("a", "\\xff\\xfe")
    assert manifest.train_counts == (1, 1)
    assert sound(tmp_path / "shards")
    for place in (tmp_path / os.fsdecode(b"src\xff"), source):
        with pytest.raises(UserError, match="is not UTF-8: give it another"):
            prepare(place, tmp_path / os.fsdecode(b"dst\xff"))


def test_a_validation_image_whose_name_is_not_utf8_is_told(tmp_path):
    source = tree(tmp_path / "source")
    shutil.rmtree(source / "val")
    corpus.write(source / "val" / "1.jpg", PHOTOGRAPH)
    corpus.write(source / "val" / os.fsdecode(b"2\xff.jpg"), PHOTOGRAPH)
    (source / "val.txt").write_text("1.jpg a\n")
    with pytest.raises(UserError, match=r"val\.txt in .* does not say the class of"):
        prepare(source, tmp_path / "shards", size=16)


def test_what_is_passed_over_is_told(tmp_path, capsys):
    source = tree(tmp_path / "source")
    for name in ("train/.DS_Store", "train/a/._traina.jpg", "train/.cache/a.jpg", "train/a/.x/1"):
        corpus.write(source / name, b"hidden")
    corpus.write(source / "train" / "a" / "a_boxes.TXT", "1 2 3 4\n")
    corpus.write(source / "val" / "stray.jpg", PHOTOGRAPH)
    assert main(["prepare", str(source), str(tmp_path / "shards"), "--size", "16"]) == 0
    said = capsys.readouterr().err
    passed = "Hidden, a text or in no class's folder, and passed over: 6 (train/.DS_Store, "
    assert passed in said
    assert read_manifest(tmp_path / "shards").train_counts == (1, 1)
    assert "passed over" not in said.replace(passed, "")


def test_which_of_two_lists_was_read_is_told(tmp_path, capsys):
    source = tree(tmp_path / "source")
    shutil.rmtree(source / "val")
    corpus.write(source / "val" / "1.jpg", PHOTOGRAPH)
    corpus.write(source / "val" / ".DS_Store", b"hidden")
    (source / "val" / "near.txt").write_text("1.jpg a\n")
    (source / "far.txt").write_text("1.jpg b\n")
    assert main(["prepare", str(source), str(tmp_path / "shards"), "--size", "16"]) == 0
    said = capsys.readouterr().err
    assert "\nval/near.txt says the classes of the validation images.\n" in said
    assert "passed over: 1 (val/.DS_Store).\n" in said
    assert read_manifest(tmp_path / "shards").val_counts == (1, 0)


@pytest.mark.parametrize("size", [0, 4097, 10**6])
def test_a_size_beyond_reason_is_refused(size, tmp_path):
    with pytest.raises(UserError, match=rf"--size is 1 to 4,096 pixels, not {size}"):
        prepare(tree(tmp_path / "source"), tmp_path / "shards", size=size)


def test_idx_images_of_no_pixels_are_refused(tmp_path):
    for stem in ("train", "t10k"):
        images = corpus.idx_file(np.zeros((4, 0, 0), np.uint8))
        corpus.write(tmp_path / f"{stem}-images-idx3-ubyte", images)
        corpus.write(tmp_path / f"{stem}-labels-idx1-ubyte", corpus.idx_file(np.zeros(4, np.uint8)))
    with pytest.raises(UserError, match="hold no images, or some of no pixels"):
        prepare(tmp_path, tmp_path / "shards")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"channels": "3"}, "channels is '3', not 1 or 3"),
        ({"height": [16]}, "height and width are"),
        ({"classes": []}, "classes are no list of names"),
        ({"duplicates": -1}, "duplicates is -1, not a number"),
        ("[" * 100_000, "cannot be read as a manifest"),
        (None, "cannot be read"),
    ],
)
def test_a_damaged_manifest_is_told_by_every_command(change, reason, tmp_path, capsys):
    shards = tmp_path / "shards"
    prepare(tree(tmp_path / "source"), shards, size=16)
    path = shards / "manifest.json"
    if isinstance(change, dict):
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    else:
        path.unlink()
        path.write_text(change) if change else path.mkdir()
    with pytest.raises(UserError, match=reason.replace("[", r"\[")):
        read_manifest(shards)
    capsys.readouterr()
    for command in (["show"], ["plan", "demo", "--data"], ["verify"]):
        assert main([*command, str(shards)]) in (1, 2)
        said = capsys.readouterr()
        assert reason in said.out + said.err or path.is_dir()


def test_a_store_that_is_not_there_is_told(capsys):
    place = "s3://key:word@bucket/x?scheme=http&endpoint_override=127.0.0.1%3A9&region=here"
    assert main(["verify", place]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "look whether it can be reached" in said
    assert "word" not in said


def test_samples_of_one_name_are_taken_once(tmp_path):
    for split in ("train", "val"):
        members = [
            member
            for key, label in (("0", 0), ("0", 0), ("1", 1), ("0", 1))
            for member in corpus.sample(key, PHOTOGRAPH, label)
        ]
        corpus.write(tmp_path / "source" / f"{split}-0.tar", corpus.tar_of(members))
    manifest = prepare(tmp_path / "source", tmp_path / "shards", size=16, max_bad=0.5)
    assert manifest.train_counts == (1, 1)
    lines = (tmp_path / "shards" / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason"] for line in lines] == [
        "a sample of this name came before"
    ] * 4
    assert sound(tmp_path / "shards")


def test_a_tar_that_names_both_splits_is_refused(tmp_path):
    tar = corpus.tar_of(corpus.sample("0", PHOTOGRAPH, 0))
    corpus.write(tmp_path / "source" / "train-val-0.tar", tar)
    with pytest.raises(UserError, match=r"train-val-0\.tar in .* names both splits: move it"):
        prepare(tmp_path / "source", tmp_path / "shards")


def test_a_column_of_any_numbers_is_not_taken_for_labels(tmp_path):
    for split in ("train", "validation"):
        table = pa.table({"image": [PHOTOGRAPH], "year": [1999]})
        (tmp_path / "source").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "source" / f"{split}-0.parquet")
    with pytest.raises(UserError, match=r"image \(binary\), year \(int64\): .* called label or"):
        prepare(tmp_path / "source", tmp_path / "shards")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"1.jpg a\r\n2.jpg b\r\n", None),
        ("\ufeff1.jpg a\r\n2.jpg b\r\n".encode(), None),
        ("1.jpg a\n2.jpg b\n".encode("utf-16"), None),
        (b"1.jpg a\n2.jpg b\n1.jpg b\n", r"list\.txt in .* says two classes of 1: correct"),
        (b"1.jpg a\n2.jpg c\n", r"says their classes \(val/list\.txt do not\)"),
    ],
)
def test_a_list_of_validation_classes_is_read_as_it_is_written(content, reason, tmp_path):
    source = tree(tmp_path / "source")
    shutil.rmtree(source / "val")
    for name in ("1.jpg", "2.jpg"):
        corpus.write(source / "val" / name, PHOTOGRAPH)
    corpus.write(source / "val" / "list.txt", content)
    if reason is not None:
        with pytest.raises(UserError, match=reason):
            prepare(source, tmp_path / "shards", size=16)
        return
    manifest = prepare(source, tmp_path / "shards", size=16, max_bad=0.5)
    assert manifest.val_counts == (1, 1)


def test_sigterm_in_prepare_is_told_and_the_same_command_goes_on(tmp_path):
    source, out = tree(tmp_path / "source"), tmp_path / "out"
    for i in range(4000):
        os.link(source / "train" / "a" / "traina.jpg", source / "train" / "a" / f"{i}.jpg")
    command = [sys.executable, "-m", "raytransfer", "prepare", str(source), str(out)]
    command += ["--workers", "1", "--size", "512"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list(out.rglob("*.npz")):
        assert running.poll() is None
        time.sleep(0.01)
    running.send_signal(signal.SIGTERM)
    assert "stopped by SIGTERM; the same command goes on." in running.communicate(timeout=60)[1]
    assert running.returncode == 75
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert sound(out)
    assert not (out / "quarantine.jsonl").exists()


def test_a_signal_in_the_middle_of_an_image_is_no_fault_of_the_image(monkeypatch):
    def decode(*_):
        raise StoppedError("stopped by SIGTERM")

    monkeypatch.setattr(convert_module, "decode", decode)
    with pytest.raises(StoppedError):
        convert_module.convert(PHOTOGRAPH, convert_module.Form(3))


def test_unreadable_images_that_were_mended_are_read_again(tmp_path):
    source, out = tree(tmp_path / "source"), tmp_path / "out"
    bad = source / "train" / "a" / "traina.jpg"
    bad.write_bytes(PHOTOGRAPH[:300])
    for _ in range(2):
        with pytest.raises(UserError, match=r"1 of 4 images cannot be read.*mend them"):
            prepare(source, out, size=16)
    bad.write_bytes(PHOTOGRAPH)
    assert prepare(source, out, size=16).train_counts == (1, 1)


def test_an_unfinished_run_that_is_damaged_is_made_again(tmp_path, monkeypatch):
    source, out = tree(tmp_path / "source"), tmp_path / "out"
    with monkeypatch.context() as broken:
        broken.setattr(shards_module, "_write_shards", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(source, out, size=16)
    for file in (out / "unfinished").glob("*.npz"):
        tear(file)
    assert prepare(source, out, size=16).digest == prepare(source, tmp_path / "b", size=16).digest


def test_shards_do_not_lie_in_their_source(tmp_path):
    source = tree(tmp_path / "source")
    for place in (source, source / "train" / "shards"):
        with pytest.raises(UserError, match="lies in the source, and would become a part of it"):
            prepare(source, place, size=16)
    assert not (source / "train" / "shards").exists()


def test_a_program_is_no_image(tmp_path, monkeypatch):
    """Pillow would have Ghostscript run it."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    assert convert_module.convert(program, convert_module.Form(3)) == "not an image"
    assert not (tmp_path / "ran").exists()
    package = Path(raytransfer.__file__).parent
    opening = [file.name for file in package.rglob("*.py") if "Image.open(" in file.read_text()]
    assert opening == ["pixels.py"]


@pytest.mark.parametrize(("mode", "value"), [("I", 200), ("F", 0.5)])
def test_pixels_of_32_bits_are_refused(mode, value):
    image = corpus.encoded(Image.new(mode, (8, 8), value), "TIFF")
    reason = convert_module.convert(image, convert_module.Form(3))
    assert reason == "ValueError: its pixels are numbers of 32 bits, not shades"


def test_a_sample_is_its_plain_image_whatever_else_lies_beside_it(tmp_path):
    depth = corpus.encoded(np.zeros((20, 20, 3), np.uint8), "PNG")
    members = [("k.cls", b"0"), ("k.depth.png", depth), ("k.jpg", PHOTOGRAPH)]
    for split in ("train", "val"):
        corpus.write(tmp_path / "source" / f"{split}-0.tar", corpus.tar_of(members))
    corpus.write(tmp_path / "source" / "classes.txt", "\ufeffcat \r\n\n".encode())
    manifest = prepare(tmp_path / "source", tmp_path / "shards", size=None)
    assert manifest.classes == ("cat",)
    (image,) = pq.read_table(tmp_path / "shards" / manifest.train[0].name)["image"].to_pylist()
    assert image == PHOTOGRAPH


def huggingface(folder, names=(("a", "b"), ("a", "b")), rows=4):
    folder.mkdir()
    for split, classes in zip(("train", "validation"), names, strict=True):
        label = {"label": {"names": classes, "_type": "ClassLabel"}}
        told = json.dumps({"info": {"features": label}})
        table = pa.table({"image": [PHOTOGRAPH] * rows, "label": [i % 2 for i in range(rows)]})
        table = table.replace_schema_metadata({"huggingface": told})
        pq.write_table(
            table,
            folder / f"{split}-0.parquet",
            row_group_size=2,
            compression="none",
            use_dictionary=False,
        )
    return folder


def test_files_that_number_classes_differently_are_refused(tmp_path):
    source = huggingface(tmp_path / "source", (("a", "b"), ("b", "a")))
    with pytest.raises(UserError, match=r"validation-0\.parquet in .* numbers other classes"):
        prepare(source, tmp_path / "shards", size=16)


def test_parquet_of_several_configurations_or_of_both_splits_is_refused(tmp_path):
    large, small = (huggingface(tmp_path / name) for name in ("large", "small"))
    with pytest.raises(UserError, match=r"several configurations \(large, small\): give one of"):
        prepare(tmp_path, tmp_path / "shards", size=16)
    assert prepare(large, tmp_path / "shards", size=16).train_counts == (2, 2)
    (small / "train-0.parquet").rename(small / "train_val_0.parquet")
    with pytest.raises(UserError, match=r"train_val_0\.parquet in .* names both splits: move it"):
        prepare(small, tmp_path / "more", size=16)


def test_tables_beside_class_folders_and_hidden_ones_are_no_images(tmp_path):
    source = tree(tmp_path / "tree")
    for name in ("train/metadata.parquet", "train_metadata.parquet", "embeddings/train.parquet"):
        (source / name).parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"file_name": ["a"]}), source / name)
    assert prepare(source, tmp_path / "a", size=16).settings["layout"] == "tree"
    source = huggingface(tmp_path / "hub")
    corpus.write(source / "._train-0.parquet", b"\0\5\x16\7")
    assert prepare(source, tmp_path / "b", size=16).train_counts == (2, 2)


def test_a_link_of_a_class_tar_that_leads_nowhere_is_passed_over(tmp_path, capsys):
    source = tree(tmp_path / "source")
    (source / "train" / "n00000001.tar").symlink_to("/nowhere.tar")
    assert main(["prepare", str(source), str(tmp_path / "shards"), "--size", "16"]) == 0
    assert "passed over: 1 (train/n00000001.tar)" in capsys.readouterr().err


def test_every_row_of_a_damaged_row_group_is_counted(tmp_path):
    source = huggingface(tmp_path / "source", rows=6)
    file = source / "train-0.parquet"
    start = pq.ParquetFile(file).metadata.row_group(1).column(0).data_page_offset
    content = bytearray(file.read_bytes())
    content[start : start + 12] = bytes(12)
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"2 of 12 images cannot be read"):
        prepare(source, tmp_path / "shards", size=16)
    manifest = prepare(source, tmp_path / "shards", size=16, max_bad=0.2)
    assert manifest.train_counts == (2, 2)
    assert manifest.quarantined == 2


@pytest.mark.parametrize(
    ("kind", "owner", "name"),
    [
        ("tar", tarfile.TarFile, "extractfile"),
        ("tar", Folder, "open"),
        ("parquet", pq.ParquetFile, "iter_batches"),
    ],
)
def test_a_store_that_does_not_answer_is_no_damage(kind, owner, name, tmp_path, monkeypatch):
    source, out = tmp_path / "source", tmp_path / "out"
    if kind == "parquet":
        huggingface(source)
    else:
        for split in ("train", "val"):
            tar = corpus.tar_of(corpus.sample("0", PHOTOGRAPH, 0))
            corpus.write(source / f"{split}-0.tar", tar)

    real = getattr(owner, name)

    def away(it, *words, **settings):
        if isinstance(it, Folder) and it.path != str(source):
            return real(it, *words, **settings)
        raise OSError("When reading: AWS Error NETWORK_CONNECTION during GetObject")

    def write_run(job):
        with monkeypatch.context() as now:
            now.setattr(owner, name, away)
            return runs_module.write_run(job)

    def mapper(function, jobs):
        yield from map(write_run, jobs)

    with pytest.raises(StoreError, match=r"The source .* cannot be read just now \(.*NETWORK"):
        prepare(source, out, size=16, mapper=mapper)
    assert not list(out.rglob("*.npz"))
    assert prepare(source, out, size=16).digest == prepare(source, tmp_path / "b", size=16).digest


def test_labels_with_gaps_are_refused(tmp_path):
    for split in ("train", "val"):
        members = [m for i in (1, 2) for m in corpus.sample(str(i), PHOTOGRAPH, i)]
        corpus.write(tmp_path / "source" / f"{split}-0.tar", corpus.tar_of(members))
    with pytest.raises(UserError, match=r"has the label 0, and some have 2: number the classes"):
        prepare(tmp_path / "source", tmp_path / "shards", size=16)
