"""One HTML page of a study, which opens from disk and asks the network for nothing."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import plotly.offline

from raytransfer.folder import PAGE, written_whole
from raytransfer.report import html, words
from raytransfer.report.curves import POINTS, curves_figure, menus
from raytransfer.report.drawing import LOOKS, MEANINGS, PAPER_LOOKS
from raytransfer.report.figures import (
    DECOMPOSITION_MENUS,
    FIGURE_2_MENUS,
    decomposition,
    figure_2,
    figure_3,
)
from raytransfer.report.networks import cost_section, networks_section
from raytransfer.report.weights import MOVEMENT_MENUS, filters_section, movement
from raytransfer.results import text
from raytransfer.results.filters import Filters
from raytransfer.results.statistics import STATISTICS, Group, Statistic, Summary, summarise
from raytransfer.results.table import Results

REGISTERED = re.compile(r"\.register\(\[([\w$]+\(\))(?:,[\w$]+\(\))+\]\)")
"""Where plotly.js sets up its kinds of traces."""

OVERLAY = '<label><input type="checkbox" data-overlay=""> results of 2014</label>'
"""The control of a figure over which the published results can be laid."""

SCRIPTS = ("page.js", "figures.js", "networks.js")


def write_report(
    results: Results,
    out_path: str | Path,
    statistic: Statistic = "top1",
    filters: Mapping[str, Filters] | None = None,
) -> None:
    """Write the page to one .html file, whole or not at all; the same results, the same bytes.

    filters: first layers by network, as results.filters finds them. Raises UserError where the file
    cannot be written.
    """
    write_page(page(results, statistic, filters), Path(out_path))


def write_page(content: str, out: Path) -> None:
    """Write a page to a file, whole or not at all. Raises UserError where it cannot be written."""
    with written_whole(out, *PAGE) as part:
        part.write_text(content, encoding="utf-8", newline="\n")


def page(
    results: Results,
    statistic: Statistic = "top1",
    filters: Mapping[str, Filters] | None = None,
    version: str | None = None,
) -> str:
    """The whole page as text. version: of a page that asks its server for later ones; None for one
    that stands alone."""
    summary = summarise(results, statistic)
    sections = [
        _findings(results, summary),
        _figure_2(results, summary),
        _decomposition(results, summary),
        _figure_3(results, summary),
        _table_1(summary),
        _curves(results),
        filters_section(filters or {}),
        _movement(results, summary),
        networks_section(results),
        _missing(summary),
        cost_section(results),
        _provenance(results.provenance),
    ]
    return document("How transferable are the features of each layer?", sections, version)


def document(title: str, sections: Sequence[str], version: str | None = None) -> str:
    """A page of sections, with the scripts that draw its figures and nothing from elsewhere."""
    style = _own_file("page.css")
    plotly_js = _plotly_js()
    looks = {
        name: {series: asdict(look) for series, look in chosen.items()}
        for name, chosen in (("safe", LOOKS), ("paper", PAPER_LOOKS))
    }
    live = ""
    if version:
        live = f'<div id="live" data-version="{version}" role="status" aria-label="Progress"></div>'
    own = "".join(map(_own_file, SCRIPTS))
    script = f'"use strict";\nconst LOOKS = {json.dumps(looks)};\n{own}'
    policy = "; ".join(
        (
            "default-src 'none'",
            # plotly.js is packed in the page; its script is named by what it unpacks to.
            f"script-src {_digest(plotly_js)} {_digest(script)}",
            # plotly.js sets style attributes and adds a style element of its own.
            "style-src 'unsafe-inline'",
            "img-src data: blob:",
            *(("connect-src 'self'",) if version else ()),
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
<main>
{"".join(sections)}
</main>
<footer>
<div id="picked" role="group" aria-label="Picked networks" hidden></div>
{live}</footer>
<script type="application/gzip" id="plotly">{html.packed(plotly_js)}</script>
<script>{script}</script>
</body>
</html>
"""


def _plotly_js() -> str:
    """plotly.js with the kinds of traces that figures here consist of.

    It sets up all fifty as it starts, which takes most of a second; the first of its list is bars,
    and points and lines are always there. Where its text is another than expected, it stays whole.
    """
    whole = plotly.offline.get_plotlyjs().replace("\r\n", "\n")
    changed, found = REGISTERED.subn(r".register([\1])", whole)
    return changed if found == 1 else whole


def _own_file(name: str) -> str:
    return files("raytransfer.report").joinpath(name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    """The policy's name for an inline script: no other script may run in the page."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _findings(results: Results, summary: Summary) -> str:
    networks = len(results.networks)
    splits = dict.fromkeys(row["split"] for row in results.networks)
    shown = ", ".join(list(splits)[:6]) + (" and more" if len(splits) > 6 else "")
    kicker = f"{networks} networks · {len(splits)} split{'s' * (len(splits) != 1)}: {shown}"
    first, *rest = words.findings(summary)
    items = "".join(f"<li>{html.minus(escape(sentence))}</li>" for sentence in rest)
    legend = "".join(
        f'<div><dt style="--c:{look.color}">{name}</dt><dd>{MEANINGS[name]}</dd></div>'
        for name, look in LOOKS.items()
    )
    return f"""<header>
<p class="kicker">{escape(kicker)}</p>
<h1>How transferable are the features of each layer?</h1>
<p class="lead">{escape(first)}</p>
<ul class="findings">{items}</ul>
<dl class="series">{legend}</dl>
<p class="note">B is the task that a network is trained and scored on, A the other task of its
split; n is the number of layers copied, and a + says that they go on learning. An A in the role of
the target is drawn under the same names.</p>
{html.details("How the intervals are made", f'<p class="note">{words.METHOD}</p>')}
</header>
"""


def _figure_2(results: Results, summary: Summary) -> str:
    title = "Figure 2: accuracy against n"
    views = figure_2(results, summary.statistic)
    if not views:
        return html.section("figure-2", title, "No network is finished yet.")
    bases, groups = text.apart(summary)
    tables = [text.base_scores(bases, STATISTICS[summary.statistic])] if bases else []
    for group in groups:
        for part in (part for part in group.studied if part.networks):
            tables += [text.scores(part, STATISTICS[summary.statistic]), text.changes(part)]
    said = words.first(summary, words.transfer, words.selffer) or words.no_changes(summary)
    if any("RnB" in part.series and len(part.series) > 2 for part in summary.studied.values()):
        said += " A click on the legend shows untrained filters (RnB) too; Figure 3 has them."
    controls = (
        f'{OVERLAY}<label>colours <select id="look"><option value="safe">for all eyes</option>'
        '<option value="paper">as in the paper</option></select></label>'
    )
    body = html.figure("figure-2", title, views, FIGURE_2_MENUS, controls)
    body += html.details("The numbers", "".join(map(html.table, tables)))
    return html.section("figure-2", title, said, body)


def _decomposition(results: Results, summary: Summary) -> str:
    title = "Where the accuracy goes: co-adaptation and specificity"
    views = decomposition(results, summary)
    if not views:
        said = "There are no pairs of a base, its selffer and its transfer to compare."
        return html.section("decomposition", title, said)
    said = (
        "What is lost when layers are copied and frozen has two parts: base - BnB is lost although "
        "the features are the network's own, as layers that had grown together were taken apart "
        "(co-adaptation); BnB - AnB is lost because they are another task's (specificity). "
        "Negative parts are gains, and stand below the line."
    )
    groups = [part for group in summary.groups.values() for part in group.studied]
    tables = [text.decomposition(part) for part in groups if part.co_adaptation or part.specificity]
    body = html.figure("decomposition", title, views, DECOMPOSITION_MENUS)
    body += html.details("The numbers", "".join(map(html.table, tables)))
    return html.section("decomposition", title, said, body)


def _figure_3(results: Results, summary: Summary) -> str:
    title = "Figure 3: dissimilar tasks and untrained filters"
    view = figure_3(results, summary)
    if view is None:
        said = "There are neither untrained filters nor transfer over several kinds of split here."
        return html.section("figure-3", title, said)
    groups = [group for group in summary.groups.values() if _has_changes(group)]
    said = words.dissimilar(summary) or words.transfer(groups[0].studied[0])
    tables = "".join(html.table(text.changes(group)) for group in groups)
    body = html.figure("figure-3", title, [view], controls=OVERLAY)
    body += html.details("The numbers", tables)
    return html.section("figure-3", title, said, body)


def _has_changes(group: Group) -> bool:
    return any(cell.change for cells in group.series.values() for cell in cells.values())


def _table_1(summary: Summary) -> str:
    title = "Table 1: the boost of fine-tuned transfer"
    groups = [group for group in summary.groups.values() if group.boosts]
    if not groups:
        return html.section(
            "table-1", title, "There are no fine-tuned networks and bases to compare."
        )
    body = "".join(html.table(text.boosts(group)) for group in groups)
    said = words.boost_sentence(groups[0].boosts)
    return html.section("table-1", title, said, f'{body}<p class="note">{words.CONFOUND}</p>')


def _curves(results: Results) -> str:
    title = "Training curves"
    view = curves_figure(results)
    if view is None:
        return html.section("curves", title, "This table carries no training curves.")
    controls = "".join(
        f'<label>{name} <select data-menu="{name}">'
        + "".join(f"<option>{escape(choice)}</option>" for choice in choices)
        + ('<option value="">all</option>' if len(choices) > 1 else "")
        + "</select></label>"
        for name, choices in menus(results).items()
        if choices
    )
    controls += (
        '<label>along <select data-along=""><option value="steps">steps</option>'
        '<option value="images">images</option></select></label>'
    )
    said = (
        f"{len([c for c in results.curves.values() if c])} networks have curves; the menus choose "
        "which are seen, beside the bases of the same task and those that are picked in the table. "
        f"Long curves are thinned to {POINTS} points; the CSV has all."
    )
    body = html.figure("curves", title, [view], controls=controls)
    return html.section("curves", title, said, body)


def _movement(results: Results, summary: Summary) -> str:
    title = "How far each layer moved"
    views = movement(results, summary)
    if not views:
        said = "These results do not say how far layers moved in training."
        return html.section("movement", title, said)
    said = (
        "The distance of each layer's weights from where they started, over the length that they "
        "had there: 0 where a layer is frozen; left of the line are the copied layers. Those that "
        "are fine-tuned stay near their start where it serves them."
    )
    body = html.figure("movement", title, views, MOVEMENT_MENUS)
    return html.section("movement", title, said, body)


def _missing(summary: Summary) -> str:
    rows = tuple(
        (
            group.name,
            missing.series,
            str(missing.n),
            f"{missing.finished} of {missing.planned}" if missing.planned else "not planned",
            ", ".join(missing.unfinished),
        )
        for group in summary.groups.values()
        for missing in group.missing
    )
    if not rows:
        return html.section("missing", "Missing cells", "Every cell of every series is filled.")
    header = ("networks of", "series", "layers n", "finished", "not finished")
    table = text.Table("Cells with fewer finished networks than planned, or none", header, rows)
    some = "One cell is" if len(rows) == 1 else f"{len(rows)} cells are"
    said = f"{some} empty or incomplete, and nothing stands in."
    return html.section("missing", "Missing cells", said, html.table(table))


def _provenance(provenance: Mapping[str, Any]) -> str:
    if not provenance:
        said = "This page was made from a table, which does not say how its networks were made."
        return html.section("provenance", "Provenance", said)
    said = "What the networks were made from, as the study recorded it."
    return html.section("provenance", "Provenance", said, html.tree(provenance))
