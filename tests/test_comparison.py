"""Two studies side by side."""

import csv
import re

import pytest
from chromium import until
from playwright.sync_api import expect

from raytransfer.cli import main
from raytransfer.report.comparison import comparison
from raytransfer.results.table import Results, in_study_order, network_row, write_table
from raytransfer.study.treatment import Treatment

RECIPE = {"steps": 100, "dropout": 0.5, "schedule": {"kind": "step"}}


def study(fall, splits=4, **recipe):
    """AnB falls by so much with each layer; splits differ a little."""
    rows = []
    for split in range(splits):
        for label, n in (("baseA", 0), ("baseB", 0), *((f"A{n}B", n) for n in (1, 4, 7))):
            treatment = Treatment.parse(f"random:{split}.{label}.s0")
            top1 = 0.6 + 0.01 * split - fall * n * (1 + 0.02 * split)
            rows.append(network_row(treatment, state="finished", top1=top1))
    provenance = {"recipe": RECIPE | recipe, "versions": {"torch": "2"}, "command": "x"}
    return Results(in_study_order(rows), {}, provenance if recipe else {})


def test_differences_have_intervals_and_settings_are_listed():
    page = comparison({"dry": study(0.02, dropout=0.0), "wet <b>": study(0.01, dropout=0.5)})
    said = re.search(r"<li>random splits, target B: ([^<]*)</li>", page)[1]
    # 7 layers cost 14 points, and 7 in the other study, 3 % more on average over the four splits.
    assert "of 7 layers (AnB) changes top-1" in said
    assert "by \u221214.4 [\u221215.0, \u221213.8] (4) points" in said
    assert "wet &lt;b&gt;, by \u22127.2" in said
    # Welch: standard error .202, 4.41 degrees of freedom.
    assert "a difference of +7.2 [+6.7, +7.8] (4)." in said
    assert "wet <b>" not in page.replace("\\u003c", "<").partition("<script")[0]
    assert "<td>recipe.dropout</td><td>0.0</td><td>0.5</td>" in page
    assert "1 settings differ" not in page
    assert "One setting differs." in page


def test_networks_of_one_base_decide_no_difference():
    def alike(loss):
        labels = {"baseAB": 0.6, "A3AB": 0.6 - loss, "B3AB": 0.601 - loss}
        rows = [
            network_row(Treatment.parse(f"random:0.{label}.s0"), state="finished", top1=top1)
            for label, top1 in labels.items()
        ]
        return Results(in_study_order(rows))

    page = comparison({"a": alike(0.03), "b": alike(0.01)})
    assert "a difference of +2.0 (2), without an interval, which does not decide." in page


def test_tables_and_lone_networks_are_told_as_such():
    page = comparison({"a": study(0.02, splits=1), "b": study(0.01, splits=1)})
    assert "without an interval, which does not decide" in page
    assert "A table of results does not say how its networks were made." in page


def test_studies_of_nothing_in_common():
    other = Results(
        (network_row(Treatment("dissimilar", "B"), state="finished", top1=0.5),), {}, {}
    )
    page = comparison({"a": study(0.02), "b": other})
    assert "The studies share no group of networks" in page
    assert "Only b has dissimilar: not compared here." in page
    assert "No cell is filled in both studies." in page


def test_the_command_writes_a_page_that_draws_both(tmp_path, browser, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, fall in (("one", 0.02), ("two", 0.01)):
        (tmp_path / name).mkdir()
        write_table(study(fall), tmp_path / name / "results.csv")
    assert main(["report", "one/results.csv", "one/results.csv"]) == 2
    assert "name two studies" in capsys.readouterr().err
    assert main(["report", "one/results.csv", "two/results.csv", "--watch"]) == 2
    assert main(["report", "one/results.csv", "two/results.csv"]) == 0
    tab = browser.new_page()
    complaints = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto((tmp_path / "comparison.html").as_uri())
    tab.wait_for_selector("html[data-drawn=all]", state="attached", timeout=60_000)
    names = "document.getElementById('figure-2-plot').data.map((trace) => trace.name)"
    drawn = set(tab.evaluate(names))
    assert {name.split(": ")[1] for name in drawn} == {"AnB (transfer, frozen)"}
    assert {name.split("/")[-2] for name in drawn} == {"one", "two"}
    tab.locator("select[data-view='2']").select_option("top-1, final")
    until(tab, "document.getElementById('figure-2-plot').layout.yaxis.zeroline", False)
    with tab.expect_download() as waiting:
        tab.get_by_role("button", name="CSV").click()
    waiting.value.save_as(tmp_path / "figure.csv")
    with (tmp_path / "figure.csv").open(newline="") as file:
        means = {(r["study"].split("/")[-2], r["series"], r["n"]): r for r in csv.DictReader(file)}
    assert float(means["two", "AnB", "4"]["value"]) == pytest.approx(61.5 - 4.12)
    expect(tab.locator("#numbers caption")).to_contain_text("random splits, target B")
    assert complaints == []
    tab.close()
