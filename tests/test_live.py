"""The page of a study that runs: served to this machine, renewed by itself."""

import http.client
import json
import threading

import pytest
from chromium import until
from playwright.sync_api import expect

from raytransfer.errors import UserError
from raytransfer.report import live
from raytransfer.report.live import LiveReport, server
from raytransfer.results.store import StudyFolder
from raytransfer.study.treatment import Treatment

IDS = [f"random:{s}.{label}.s0" for s in (0, 1) for label in ("baseA", "baseB", "A3B", "A5B")]


@pytest.fixture
def folder(tmp_path):
    folder = StudyFolder(tmp_path)
    folder.write_json("study.json", {"treatments": IDS})
    for id in IDS[:6]:
        finish(folder, id, 0.6)
    return folder


def finish(folder, id, top1):
    treatment = Treatment.parse(id)
    folder.write_rows(treatment, [{"step": 50, "top1": top1, "train_loss": 1.0}])
    folder.finish(treatment, {"state": "finished", "top1": top1}, None)


def train(folder, step):
    said = {"networks": IDS[6:], "step": step, "steps": 100, "doing": "training", "batches": 1}
    folder.write_progress("trial", 0, said)


def ask(port, path, host=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    return answer.status, answer.read()


@pytest.fixture
def served(folder):
    report = LiveReport(folder.root)
    with server(report, 0) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield report, serving.server_port
        serving.shutdown()


def test_progress_is_told_with_what_trains(folder, served):
    report, port = served
    assert report.told == ["6 of 8 networks are over, 75 %; nothing trains now."]
    train(folder, 50)
    report.look()
    assert report.told == [
        "6 of 8 networks are over, 88 %; time left not known yet.",
        "random:1.A3B.s0, random:1.A5B.s0: step 50 of 100, training",
    ]
    train(folder, 75)
    report.look()
    assert report.told[0] == "6 of 8 networks are over, 94 %; 0:00 left."
    version = json.loads(ask(port, "/state")[1])["version"]
    for id in IDS[6:]:
        finish(folder, id, 0.5)
    report.look()
    state = json.loads(ask(port, "/state")[1])
    assert state["told"] == ["All 8 networks are over."]
    assert state["version"] != version


def test_only_this_machine_by_its_own_name_is_answered(served):
    _, port = served
    assert ask(port, "/")[0] == ask(port, "/state", f"localhost:{port}")[0] == 200
    assert ask(port, "/", "elsewhere.example")[0] == 403
    assert ask(port, "/../study.json")[0] == 404
    with pytest.raises(UserError, match=rf"--port {port} cannot be used"):
        server(served[0], port)


def test_a_study_that_cannot_be_read_is_told_and_tried_again(folder, served, monkeypatch):
    report, _ = served

    class EndError(Exception):
        pass

    def sleep(seconds):
        if len(slept) == 2:
            raise EndError
        slept.append(report.told)
        folder.write_json("study.json", {"treatments": IDS})

    slept = []
    monkeypatch.setattr(live.time, "sleep", sleep)
    folder.write("study.json", b"torn")
    with pytest.raises(EndError):
        report.keep_looking()
    assert slept[0][0].startswith("The study cannot be read just now: study.json")
    assert slept[1][0].startswith("6 of 8 networks")


def test_the_page_renews_itself_and_keeps_what_the_reader_has_set(folder, served, browser):
    report, port = served
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    tab = context.new_page()
    complaints = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(f"http://127.0.0.1:{port}/")
    tab.wait_for_selector("html[data-drawn=all]", state="attached", timeout=60_000)
    expect(tab.locator("#live")).to_contain_text("6 of 8 networks are over")
    tab.locator("[data-figure=figure-2] select[data-view='2']").select_option(
        "change against the own base"
    )
    tab.locator("[data-figure=figure-2] [data-overlay]").check()
    tab.locator("#filter").fill("A5B")
    tab.locator("tr[data-id='random:0.A5B.s0'] .pick").click()
    points = (
        "document.getElementById('figure-2-plot').data?.filter((t) => t.customdata)"
        ".flatMap((t) => t.customdata).length"
    )
    until(tab, points, 2)
    finish(folder, IDS[6], 0.55)
    finish(folder, IDS[7], 0.5)
    report.look()
    until(tab, points, 4)
    expect(tab.locator("#live")).to_contain_text("All 8 networks are over")
    expect(tab.locator("#figure-2-plot .annotation").first).to_contain_text("change against")
    assert tab.locator("[data-figure=figure-2] [data-overlay]").is_checked()
    expect(tab.locator("#count")).to_have_text("2 networks")
    expect(tab.locator("tr.picked")).to_have_attribute("data-id", "random:0.A5B.s0")
    assert complaints == []
    context.close()
