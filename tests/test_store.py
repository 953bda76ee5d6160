"""A study on disk: files whole or not at all, one writer, and results that can be read any time."""

import os
import time
from pathlib import Path

import pytest

from raytransfer.errors import UserError
from raytransfer.lease import Lease
from raytransfer.report.page import write_page
from raytransfer.results.store import StudyFolder, read_study
from raytransfer.schedule.identity import refuse_foreign
from raytransfer.study.treatment import Treatment

BASE, COPY = Treatment("random:0", "B"), Treatment("random:0", "B", "B", 3)


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# Files.


def test_what_is_written_is_read_and_nothing_else_is_left(tmp_path):
    folder = StudyFolder(tmp_path / "study")
    folder.write("a/b/c", b"one")
    folder.write("a/b/c", b"two")
    folder.write_json("d.json", {"x": [1, None]})
    assert folder.read("a/b/c") == b"two"
    assert folder.read_json("d.json") == {"x": [1, None]}
    assert files_of(tmp_path) == ["study/a/b/c", "study/d.json"]
    assert folder.names("a") == ["b"]


def test_a_file_that_is_not_there_is_none(tmp_path):
    folder = StudyFolder(tmp_path)
    (tmp_path / "file").write_text("x")
    assert folder.read("gone") is folder.read_json("a/gone") is folder.read("file/gone") is None
    assert folder.names("gone") == folder.rows(BASE) == folder.progress() == []
    assert folder.done(BASE) is folder.weights(BASE) is None


def test_a_write_that_is_cut_short_leaves_the_old_file(tmp_path, monkeypatch):
    folder = StudyFolder(tmp_path)
    folder.write("file", b"old")

    def cut(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", cut)
    with pytest.raises(UserError, match="No space left on device"):
        folder.write("file", b"new")
    assert folder.read("file") == b"old"


def test_what_is_being_written_is_not_there_yet_and_what_was_is_swept(tmp_path):
    folder = StudyFolder(tmp_path)
    with folder.writing("trials/one/lane0.json") as stream:
        stream.write(b'{"net')
        stream.flush()
        assert files_of(tmp_path) == [f"trials/one/lane0.json.{os.getpid()}.part"]
        assert folder.names("trials/one") == folder.progress() == []
    (tmp_path / "trials/one/lane0.json.17.part").write_text('{"net')
    (tmp_path / "trials/one/theirs.part").write_text("kept")
    folder.sweep("trials/one")
    assert files_of(tmp_path) == ["trials/one/lane0.json", "trials/one/theirs.part"]


def test_a_driver_killed_as_it_wrote_its_first_file_may_begin_again(tmp_path):
    (tmp_path / "study.json.17.part").write_text('{"treat')
    refuse_foreign(StudyFolder(tmp_path))
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="is not empty and holds no study"):
        refuse_foreign(StudyFolder(tmp_path))


def test_a_page_goes_where_a_link_leads_and_nothing_but_a_file_is_replaced(tmp_path):
    (tmp_path / "there.html").write_text("old")
    (tmp_path / "link.html").symlink_to("there.html")
    write_page("new", tmp_path / "link.html")
    assert (tmp_path / "there.html").read_text() == "new"
    assert (tmp_path / "link.html").is_symlink()
    os.mkfifo(tmp_path / "pipe")
    for other in (tmp_path / "pipe", tmp_path, Path(), Path("/dev/null")):
        with pytest.raises(UserError, match="is there, and is no regular file"):
            write_page("new", other)
    assert (tmp_path / "pipe").is_fifo()


def test_a_folder_opened_is_not_made(tmp_path):
    folder = StudyFolder(tmp_path / "study")
    assert folder.read("study.json") is None
    assert not (tmp_path / "study").exists()


def test_a_study_that_cannot_be_written_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"file/study cannot be written: "):
        StudyFolder(tmp_path / "file/study").write("study.json", b"{}")


def test_broken_json_is_the_users_to_mend(tmp_path):
    folder = StudyFolder(tmp_path)
    for content in (b'{"a": ', b"\xff\xfe", b"[" * 100_000):
        folder.write("study.json", content)
        with pytest.raises(UserError, match=r"study\.json in the study folder .* not readable"):
            read_study(tmp_path)


def test_broken_rows_are_refused_by_name(tmp_path):
    folder = StudyFolder(tmp_path)
    folder.write(f"networks/{BASE.id}/rows.jsonl", b'{"step": 1}\n{"st')
    with pytest.raises(UserError, match=r"random:0\.baseB\.s0/rows\.jsonl in .* remove its folder"):
        folder.rows(BASE)


def test_a_networks_files_come_back(tmp_path):
    folder = StudyFolder(tmp_path)
    folder.write_rows(BASE, [{"step": 1}, {"step": 2, "top5": None}])
    folder.finish(BASE, {"state": "finished", "top1": 0.5}, b"weights")
    assert folder.rows(BASE) == [{"step": 1}, {"step": 2, "top5": None}]
    assert folder.done(BASE) == {"state": "finished", "top1": 0.5}
    assert folder.weights(BASE) == b"weights"
    assert files_of(tmp_path) == [
        f"networks/{BASE.id}/{name}" for name in ("done.json", "rows.jsonl", "weights.safetensors")
    ]


def test_a_network_is_over_only_once_its_weights_are_written(tmp_path, monkeypatch):
    folder, written = StudyFolder(tmp_path), []
    monkeypatch.setattr(folder, "write", lambda name, _: written.append(name.split("/")[-1]))
    folder.finish(BASE, {"state": "finished"}, b"weights")
    assert written == ["weights.safetensors", "done.json"]


def test_progress_is_told_with_its_time(tmp_path):
    folder = StudyFolder(tmp_path)
    folder.write_progress("abc", 1, {"step": 3})
    (progress,) = folder.progress()
    assert progress["step"] == 3
    assert folder.lane_progress("abc", 1) == progress
    assert folder.lane_progress("abc", 0) is None
    assert abs(progress["time"] - time.time()) < 60


def test_what_happened_is_told_in_time(tmp_path):
    folder = StudyFolder(tmp_path)
    assert list(folder.events()) == []
    folder.tell("one")
    folder.tell("two")
    (first, _), (second, _) = folder.events()
    assert [sentence for _, sentence in folder.events()] == ["one", "two"]
    assert first < second
    assert list(folder.events(after=first)) == [(second, "two")]


# Results.


@pytest.fixture
def study(tmp_path):
    """Finished, failed, begun and not begun: a network of each."""
    folder = StudyFolder(tmp_path)
    copies = [Treatment("random:0", "B", "B", n) for n in (1, 2, 3)]
    folder.write_json("study.json", {"treatments": [t.id for t in (*reversed(copies), BASE)]})
    folder.write_rows(BASE, [{"step": 1, "top1": 0.25}, {"step": 2, "top1": 0.75}])
    folder.finish(BASE, {"state": "finished", "top1": 0.75, "weights_sha256": "ab"}, b"w")
    folder.finish(copies[0], {"state": "failed", "reason": "its loss was not finite"}, None)
    folder.write_rows(copies[1], [{"step": 1, "top1": 0.5}])
    return folder


def test_a_study_is_read_one_row_a_network(study):
    results = read_study(study.root)
    assert [row["label"] for row in results.networks] == ["baseB", "B1B", "B2B", "B3B"]
    assert [row["state"] for row in results.networks] == [
        "finished",
        "failed",
        "pending",
        "pending",
    ]
    assert [row["reason"] for row in results.networks] == [
        None,
        "its loss was not finite",
        "stopped before its end",
        None,
    ]
    assert results.networks[0]["top1"] == 0.75
    assert results.networks[0]["weights_sha256"] == "ab"
    assert results.networks[1]["n"] == 1
    begun = Treatment("random:0", "B", "B", 2).id
    assert {id: [row["step"] for row in rows] for id, rows in results.curves.items()} == {
        BASE.id: [1, 2],
        begun: [1],
    }


def test_a_network_runs_while_its_writer_lives(study):
    lease = Lease.acquire(study)
    assert [row["state"] for row in read_study(study.root).networks] == [
        "finished",
        "failed",
        "running",
        "pending",
    ]
    lease.release()
    assert read_study(study.root).networks[2]["state"] == "pending"


def test_a_folder_that_holds_no_study_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"no study in .*gone"):
        read_study(tmp_path / "gone")
    for content in ("[]", "{}", "3"):
        (tmp_path / "study.json").write_text(content)
        with pytest.raises(UserError, match=r"study\.json .* names no treatments"):
            read_study(tmp_path)
