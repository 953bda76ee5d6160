"""The report page: its content, its bytes, and what a browser sees of it."""

import csv
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from axe_playwright_python.sync_playwright import Axe
from chromium import until
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from raytransfer.errors import UserError
from raytransfer.report.curves import curves_figure
from raytransfer.report.figures import decomposition, figure_2, figure_3
from raytransfer.report.page import page, write_report
from raytransfer.report.weights import movement
from raytransfer.results.statistics import summarise
from raytransfer.results.table import Results, in_study_order, network_row, write_table
from raytransfer.study.treatment import Treatment

REASON = "loss became NaN at step 40 </script><img src=x onerror=alert(1)> & more"
FALL = {"random": 0.10, "dissimilar": 0.25}


def realistic() -> Results:
    """Two random splits in both directions with two seeds, one dissimilar split, one failed
    network, one pending, and one cell that nobody planned."""
    rows: list[dict[str, Any]] = []
    curves: dict[str, list[dict[str, Any]]] = {}
    generator = np.random.default_rng(7)
    treatments = []
    for split, seeds in (
        *((f"random:{s}", (0, 1)) for s in range(2)),
        ("dissimilar", (0, 1)),
    ):
        for seed in seeds:
            for target, other in (("A", "B"), ("B", "A")):
                treatments.append(Treatment(split, target, seed=seed))
                for n in range(1, 8):
                    treatments.append(Treatment(split, target, other, n, seed=seed))
                    if split == "dissimilar":
                        continue
                    treatments.append(Treatment(split, target, target, n, seed=seed))
                    treatments.append(Treatment(split, target, target, n, True, seed))
                    treatments.append(Treatment(split, target, "R", n, seed=seed))
                    if n != 6:
                        treatments.append(Treatment(split, target, other, n, True, seed))
    for treatment in treatments:
        if treatment.id == "random:1.A5B.s0":
            rows.append(network_row(treatment, state="failed", reason=REASON))
        elif treatment.id == "random:1.B7A+.s1":
            rows.append(network_row(treatment, state="pending", reason="not started"))
        else:
            curve = _curve(treatment, generator)
            curves[treatment.id] = curve
            rows.append(_finished(treatment, curve))
    provenance = {
        "space": "balanced",
        "command": ["raytransfer", "run", "balanced", "--data", "shards", "--study", "study"],
        "recipe": {"network": "small", "batch": 128, "steps": 1000, "schedule": {"kind": "step"}},
        "splits": {
            "random:0": {
                "A": [f"class {k} <b>" for k in range(0, 40, 2)],
                "B": [f"class {k}" for k in range(1, 40, 2)],
            }
        },
        "versions": {"torch": "2.8.0", "ray": "2.60.0"},
        "revision": "0123abc",
    }
    return Results(in_study_order(rows), curves, provenance)


def _curve(treatment: Treatment, generator: np.random.Generator) -> list[dict[str, Any]]:
    n, depth = treatment.n, max(0, treatment.n - 2) / 5
    family = treatment.split.split(":")[0]
    level = 0.62 + (0.02 if treatment.target == "B" else 0.0)
    effect = {
        "base": 0.0,
        "selffer": 0.012 if treatment.finetuned else -0.03 * math.exp(-((n - 4.5) ** 2)),
        "transfer": 0.016 if treatment.finetuned else -FALL[family] * depth**1.4,
        "untrained": -0.06 * n,
    }[treatment.kind]
    top = level + effect + generator.normal(0, 0.004)
    steps = np.arange(50, 1050, 50)
    return [
        {
            "step": int(step),
            "images": int(step) * 128,
            "epoch": step / 100,
            "learning_rate": 0.01,
            "train_loss": float(2.3 * math.exp(-step / 300) + 0.4 + generator.normal(0, 0.03)),
            "top1": float(top * (1 - 0.6 * math.exp(-step / 160)) + generator.normal(0, 0.002)),
            "top5": 0.95,
            "loss": 1.0,
        }
        for step in steps
    ]


def _finished(treatment: Treatment, curve: list[dict[str, Any]]) -> dict[str, Any]:
    scores = [row["top1"] for row in curve]
    return network_row(
        treatment,
        state="finished",
        top1=scores[-1],
        top5=0.95,
        top1_best10=sum(sorted(scores)[-10:]) / 10,
        loss=1.0,
        train_loss=curve[-1]["train_loss"],
        steps=1000,
        images=128_000,
        seconds=4.25,
        images_per_second=30_117.6,
        weights_sha256="5f" * 32,
        frozen_sha256=None if treatment.finetuned or not treatment.n else "a0" * 32,
        parent_sha256="77" * 32 if treatment.parent else None,
        **{
            f"moved_{layer}": 0.0 if layer <= treatment.frozen_layers else 0.1 * layer
            for layer in range(1, 9)
        },
    )


@pytest.fixture(scope="module")
def results() -> Results:
    return realistic()


@pytest.fixture(scope="module")
def report(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "report.html"
    write_report(results, out)
    return out


@pytest.fixture(scope="module")
def tab(browser: Browser, report: Path) -> Iterator[Page]:
    """The page, opened once, as that takes seconds: each test works on a part of its own."""
    yield from opened(browser, report)


def opened(browser: Browser, path: Path, **settings: Any) -> Iterator[Page]:
    """The page, opened from disk; fails on any other request and on anything in its console."""
    context = browser.new_context(**({"viewport": {"width": 1200, "height": 900}} | settings))
    tab = context.new_page()
    requests: list[str] = []
    complaints: list[str] = []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(path.as_uri())
    tab.wait_for_selector("html[data-drawn=all]", state="attached", timeout=60_000)
    yield tab
    context.close()
    # Images that are downloaded are made from parts of the page's own.
    assert [url for url in requests if not url.startswith("blob:")] == [path.as_uri()]
    assert complaints == []


def test_page_is_small_and_the_same_bytes_each_time(results: Results, report: Path) -> None:
    content = report.read_bytes()
    assert len(content) < 6_000_000
    assert page(results).encode() == content


def test_page_escapes_what_it_is_given(report: Path) -> None:
    content = report.read_text()
    assert "<img src=x" not in content
    assert "&lt;img src=x onerror=alert(1)&gt; &amp; more" in content
    assert "class 0 &lt;b&gt;" in content


def test_page_names_failed_missing_and_provenance(report: Path) -> None:
    content = report.read_text()
    assert "310 of 312 networks are finished (1 pending, 1 failed: in no mean)" in content
    assert re.search(r"<td>random splits</td><td>AnB\+</td><td>6</td><td>not planned</td>", content)
    assert "raytransfer run balanced --data shards --study study" in content


def test_policy_allows_no_request_and_no_other_script(report: Path) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', report.read_text())
    assert policy
    rules = dict(rule.split(" ", 1) for rule in policy[1].split("; "))
    assert rules["default-src"] == "'none'"
    assert re.fullmatch(r"'sha256-\S+' 'sha256-\S+'", rules["script-src"])
    assert rules["img-src"] == "data: blob:"


def test_figures_are_drawn(tab: Page) -> None:
    for figure, points in (("figure-2", 200), ("figure-3", 100)):
        assert tab.locator(f"#{figure}-plot .scatterlayer .points path").count() > points
    assert tab.locator("#decomposition-plot .barlayer .point").count() == 14
    assert tab.locator("#curves-plot .scatterlayer .lines path").count() >= 16
    assert tab.locator("#movement-plot .scatterlayer .trace").count() >= 5


def test_first_figure_is_there_at_once(browser: Browser, report: Path) -> None:
    """The best of five, as the machine has other things to do."""
    drawn = "performance.getEntriesByName('first figure')[0].startTime"
    assert min(tab.evaluate(drawn) for _ in range(5) for tab in opened(browser, report)) < 1500


def test_plotly_starts_with_two_kinds_of_traces(tab: Page) -> None:
    """A third of its time; where this fails, plotly.js looks another way: see page.REGISTERED."""
    assert set(tab.evaluate("Object.keys(Plotly.PlotSchema.get().traces)")) == {"bar", "scatter"}


def test_a_report_of_250_long_networks_is_small() -> None:
    networks = realistic().networks[:250]
    generator = np.random.default_rng(0)
    curves = {
        row["treatment"]: [
            {
                "step": 1000 * k,
                "images": 256_000 * k,
                "epoch": k // 3,
                "learning_rate": 0.01 * 0.1 ** (k // 100),
                "train_loss": float(generator.normal(1, 0.1)),
                "top1": float(generator.uniform()),
            }
            for k in range(1, 451)
        ]
        for row in networks
    }
    filters = {row["treatment"]: np.zeros((96, 3, 11, 11), np.float32) for row in networks[:6]}
    content = page(Results(networks, curves, {"recipe": {}}), filters=filters)
    assert len(content.encode()) < 6_000_000


@pytest.mark.parametrize("name", ["figure 2", "figure 3", "decomposition", "curves", "movement"])
def test_every_view_is_what_plotly_takes(results: Results, name: str) -> None:
    summary = summarise(results)
    views = {
        "figure 2": lambda: figure_2(results, "top1"),
        "figure 3": lambda: [figure_3(results, summary)],
        "decomposition": lambda: decomposition(results, summary),
        "curves": lambda: [curves_figure(results)],
        "movement": lambda: movement(results, summary),
    }[name]()
    assert views
    for view in views[:: max(1, len(views) // 6)]:
        go.Figure(view.figure)  # refuses properties and values that there are not
        assert {len(row) for row in view.numbers} == {len(view.numbers[0])}


def test_figures_offer_no_upload(tab: Page) -> None:
    buttons = tab.locator("#figure-2-plot .modebar-btn").evaluate_all(
        "buttons => buttons.map((button) => button.dataset.title)"
    )
    assert "Zoom" in buttons
    assert not [title for title in buttons if "share" in title.lower()]


def test_hover_shows_the_network_its_n_and_spread(tab: Page) -> None:
    hovered = tab.locator("#figure-2-plot .hoverlayer")
    tab.locator("#figure-2-plot .scatterlayer .trace .points path").first.hover(force=True)
    expect(hovered).to_contain_text(re.compile(r"random:\d\.base[AB]\.s\d"))
    expect(hovered).to_contain_text(re.compile(r"8 networks, sd \d+\.\d\d points"))


def test_legend_takes_a_series_out_of_both_panels(tab: Page) -> None:
    traces = tab.locator("#figure-2-plot .scatterlayer .trace")
    before = traces.count()
    entry = tab.locator("#figure-2-plot .legend .traces", has_text="AnB (transfer, frozen)")
    entry.locator(".legendtoggle").click()
    expect(traces).to_have_count(before - 3)
    visible = tab.evaluate(
        "document.getElementById('figure-2-plot').data"
        ".filter((trace) => trace.meta.series === 'AnB').map((trace) => trace.visible)"
    )
    assert visible == ["legendonly"] * 3
    entry.locator(".legendtoggle").click()
    expect(traces).to_have_count(before)


def test_the_legend_is_reached_by_keyboard_and_holds_over_redraws(tab: Page) -> None:
    traces = tab.locator("#figure-2-plot .scatterlayer .trace")
    before = traces.count()
    entry = tab.get_by_role("checkbox", name="show BnB (selffer, frozen)").first
    expect(entry).to_have_attribute("aria-checked", "true")
    entry.focus()
    tab.keyboard.press("Enter")
    expect(traces).to_have_count(before - 3)
    expect(entry).to_have_attribute("aria-checked", "false")
    expect(entry).to_be_focused()
    pick = tab.locator("tr[data-id='random:0.B2B.s0'] .pick")
    pick.click()  # draws anew
    expect(traces).to_have_count(before - 3)
    pick.click()
    entry.focus()
    tab.keyboard.press(" ")
    expect(traces).to_have_count(before)


def test_what_is_drawn_is_a_table_too(tab: Page) -> None:
    drawn = tab.locator("[data-figure=figure-2] details.drawn")
    drawn.locator("summary").click()
    rows = drawn.locator("tbody tr")
    numbers = next(view for view in figure_2(realistic(), "top1")).numbers
    expect(rows).to_have_count(len(numbers) - 1)
    assert rows.first.locator("td").all_text_contents() == [str(cell) for cell in numbers[1]]
    figure_menu(tab, "figure-2", 0).select_option("dissimilar, target B")
    expect(rows.first.locator("td").nth(3)).to_have_text("dissimilar.baseB.s0")
    figure_menu(tab, "figure-2", 0).select_option("random splits")
    drawn.locator("summary").click()
    curves = tab.locator("[data-figure=curves] details.drawn")
    curves.locator("summary").click()
    expect(curves.locator("caption")).to_contain_text("The first 1,000 of 6,200 rows")
    curves.locator("summary").click()


def figure_menu(tab: Page, figure: str, place: int) -> Locator:
    return tab.locator(f"[data-figure={figure}] select[data-view='{place}']")


def test_menus_choose_networks_score_and_reading(tab: Page) -> None:
    networks, score, reading = (figure_menu(tab, "figure-2", place) for place in range(3))
    options = networks.locator("option").all_text_contents()
    assert options[:3] == ["random splits", "random splits, target A", "random splits, target B"]
    assert {"random:0, target B", "random:1", "dissimilar, target B"} < set(options)
    title = tab.locator("#figure-2-plot .annotation").first
    networks.select_option("dissimilar, target B")
    reading.select_option("change against the own base")
    expect(title).to_contain_text("change against the own base: top-1, final, points")
    score.select_option("loss")
    expect(title).to_contain_text("change against the own base: loss, nats")
    assert networks.input_value() == "dissimilar, target B"
    for menu, choice in ((networks, "random splits"), (score, "top-1, final"), (reading, "score")):
        menu.select_option(choice)
    expect(title).to_contain_text("each network: top-1, final, %")


def test_menus_choose_the_curves_and_what_they_run_along(tab: Page) -> None:
    tab.locator("[data-menu=series]").select_option("RnB")
    legend = tab.locator("#curves-plot .legend")
    legend.get_by_text("random:0.R7A.s0").wait_for()
    assert "random:0.B7A.s0" not in (legend.text_content() or "")
    tab.locator("[data-along]").select_option("images")
    expect(tab.locator("#curves-plot .x3title")).to_have_text("images")
    ends = tab.evaluate("document.getElementById('curves-plot').data[0].x.at(-1)")
    assert ends == 128 * 1000


def test_results_of_2014_are_laid_over(tab: Page) -> None:
    drawn = (
        "document.getElementById('figure-2-plot').data.filter((t) => t.meta.overlay && t.visible)"
    )
    assert tab.evaluate(f"{drawn}.length") == 0
    box = tab.locator("[data-figure=figure-2] [data-overlay]")
    box.check()
    until(tab, f"{drawn}.length", 5)
    shown = tab.evaluate(f"{drawn}.map((trace) => [trace.name, trace.y])")
    assert ["2014: base", [62.51]] in shown
    assert ["2014: AnB", [62.82, 62.39, 61.89, 59.98, 57.8, 58.06, 54.25]] in shown
    box.uncheck()


def test_colours_are_for_all_eyes_or_the_papers(tab: Page) -> None:
    color = (
        "document.getElementById('figure-2-plot').data"
        ".find((t) => t.meta.series === 'AnB' && t.customdata).marker.color"
    )
    assert tab.evaluate(color) == "#d55e00"
    tab.locator("#look").select_option("paper")
    until(tab, color, "#8c1515")
    tab.locator("#look").select_option("safe")
    until(tab, color, "#d55e00")


def test_a_point_finds_its_row_and_curve_and_a_row_its_point(tab: Page) -> None:
    id = "random:1.A4B.s1"
    place = tab.evaluate(
        """(id) => {
          const plot = document.getElementById("figure-2-plot");
          const trace = plot.data.find((one) => one.customdata?.includes(id));
          const axes = plot._fullLayout, box = plot.getBoundingClientRect();
          const at = trace.customdata.indexOf(id);
          plot.scrollIntoView();
          const top = plot.getBoundingClientRect().top;
          return [
            box.left + axes.xaxis._offset + axes.xaxis.d2p(trace.x[at]),
            top + axes.yaxis._offset + axes.yaxis.d2p(trace.y[at]),
          ];
        }""",
        id,
    )
    tab.mouse.click(*place)
    row = tab.locator(f"tr[data-id='{id}']")
    expect(row).to_have_class(re.compile("picked"))
    expect(row.locator(".pick")).to_have_attribute("aria-pressed", "true")
    expect(tab.locator("#picked")).to_contain_text(id)
    legend = tab.locator("#curves-plot .legend")
    expect(legend.get_by_text(id)).to_have_count(1)
    other = tab.locator("tr[data-id='random:0.B2B.s0'] .pick")
    other.focus()
    other.press("Enter")
    emphasised = (
        "document.getElementById('figure-2-plot').data.flatMap("
        "(t) => (t.selectedpoints ?? []).map((i) => t.customdata[i]))"
    )
    until(tab, f"{emphasised}.length", 2)
    assert set(tab.evaluate(emphasised)) == {id, "random:0.B2B.s0"}
    for button in tab.locator("#picked button").all()[::-1]:
        button.click()
    expect(tab.locator("#picked")).to_be_hidden()


def test_table_is_filtered_and_sorted(tab: Page) -> None:
    tab.locator("#filter").fill("random:1 a5b")
    expect(tab.locator("#count")).to_have_text("4 networks")
    tab.locator("#state").select_option("failed")
    expect(tab.locator("#count")).to_have_text("1 network")
    assert tab.locator("#all-networks tbody tr:visible").get_attribute("data-id") == (
        "random:1.A5B.s0"
    )
    tab.locator("#filter").fill("")
    tab.locator("#state").select_option("")
    heading = tab.locator("#all-networks th", has_text="top-1").first
    for direction, sign in (("ascending", 1), ("descending", -1)):
        heading.locator("button").click()
        expect(heading).to_have_attribute("aria-sort", direction)
        shown = tab.locator("#all-networks tbody td:nth-child(3)").all_text_contents()
        scores = [sign * float(score) for score in shown if score]
        assert scores == sorted(scores)
        assert shown[-2:] == ["", ""]  # the networks that have no score


def test_downloads_are_the_results_and_the_drawn_numbers(
    tab: Page, results: Results, tmp_path: Path
) -> None:
    def downloaded(button: Locator) -> str:
        with tab.expect_download() as waiting:
            button.click()
        waiting.value.save_as(tmp_path / waiting.value.suggested_filename)
        return waiting.value.suggested_filename

    write_table(results, tmp_path / "exported.csv")
    assert downloaded(tab.locator("#results-csv")) == "results.csv"
    assert (tmp_path / "results.csv").read_bytes() == (tmp_path / "exported.csv").read_bytes()

    figure = tab.locator("[data-figure=figure-2]")
    downloaded(figure.get_by_role("button", name="CSV"))
    with (tmp_path / "figure-2.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    scores = {row["treatment"]: row["top1"] for row in results.networks}
    networks = {row["network"]: float(row["value"]) for row in rows if row["what"] == "network"}
    assert len(networks) == len(summarise(results).groups["random"].networks)
    assert all(abs(100 * scores[id] - value) < 1e-4 for id, value in networks.items())
    cell = summarise(results).groups["random"].series["AnB"][4].score
    mean = next(
        row for row in rows if (row["what"], row["series"], row["n"]) == ("mean", "AnB", "4")
    )
    told = [float(mean[name]) for name in ("value", "low", "high", "networks")]
    assert told == pytest.approx(
        [100 * cell.mean, 100 * cell.low, 100 * cell.high, cell.n], abs=1e-4
    )

    downloaded(figure.get_by_role("button", name="SVG"))
    assert re.match(r'<svg [^>]*width="672"', (tmp_path / "figure-2.svg").read_text())
    downloaded(figure.get_by_role("button", name="PNG"))
    with Image.open(tmp_path / "figure-2.png") as image:
        assert image.width == 2100  # 7 inches of 300 dots


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(
    browser: Browser, results: Results, scheme: str, tmp_path: Path
) -> None:
    """Of every kind some networks, as each cell of the table takes it a millisecond."""
    some = results.networks[::8] + tuple(r for r in results.networks if r["state"] != "finished")
    rows = in_study_order({row["treatment"]: row for row in some}.values())
    write_report(Results(rows, results.curves, results.provenance), tmp_path / "report.html")
    for tab in opened(browser, tmp_path / "report.html", color_scheme=scheme):
        for details in tab.locator("details").all():
            details.evaluate("(one) => { one.open = true; }")
        tab.locator("tr[data-id] .pick").first.click()
        found = Axe().run(tab)
        assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize(
    "settings",
    [
        {"viewport": {"width": 390, "height": 844}},
        {"viewport": {"width": 1200, "height": 900}, "color_scheme": "dark"},
    ],
    ids=["phone", "dark"],
)
def test_page_fits_a_phone_and_the_dark(
    browser: Browser, report: Path, settings: dict[str, Any]
) -> None:
    for tab in opened(browser, report, **settings):
        width, background = tab.evaluate(
            "[document.documentElement.scrollWidth,"
            " getComputedStyle(document.body).backgroundColor]"
        )
        assert width <= settings["viewport"]["width"]
        assert (background == "rgb(20, 22, 26)") == ("color_scheme" in settings)


def test_paper_is_light_whatever_the_screen_is(browser: Browser, report: Path) -> None:
    ink = "document.getElementById('figure-2-plot').layout.font.color"
    for tab in opened(browser, report, color_scheme="dark"):
        assert tab.evaluate(ink) == "#e7e9ed"
        tab.emulate_media(media="print", color_scheme="dark")
        until(tab, ink, "#1d2128")
        expect(tab.locator(".controls").first).to_be_hidden()


def test_curves_of_bases_alone_are_drawn(
    results: Results, browser: Browser, tmp_path: Path
) -> None:
    bases = tuple(row for row in results.networks if row["kind"] == "base")
    curves = {row["treatment"]: results.curves[row["treatment"]][:1] for row in bases}
    write_report(Results(bases, curves), tmp_path / "report.html")
    for tab in opened(browser, tmp_path / "report.html"):
        expect(tab.locator("#curves-plot .scatterlayer .trace")).to_have_count(
            5
        )  # a curve and a loss of two, and one learning rate


@pytest.mark.parametrize("kept", ["base", "base, untrained", "nothing finished", "nothing"])
def test_page_says_what_it_lacks(results: Results, kept: str) -> None:
    rows = [row for row in results.networks if row["kind"] in kept]
    if kept == "nothing finished":
        rows = [row for row in results.networks if row["state"] != "finished"]
    content = page(Results(tuple(rows)))
    assert "This table carries no training curves." in content
    assert "There are no fine-tuned networks and bases to compare." in content
    assert "made from a table" in content
    assert ("No network is finished yet." in content) == kept.startswith("nothing")


def test_place_that_cannot_be_written_is_one_sentence(results: Results, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be written: No such file"):
        write_report(Results(results.networks[:2]), tmp_path / "nowhere" / "report.html")
    assert not list(tmp_path.iterdir())
