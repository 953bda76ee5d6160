"""One HTML page of a study, which opens from disk and asks the network for nothing."""

import base64
import gzip
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import plotly.io
import plotly.offline

from raytransfer.errors import UserError
from raytransfer.report import words
from raytransfer.report.curves import POINTS, curves_figure, menus
from raytransfer.report.figures import LOOKS, View, figure_2, figure_3
from raytransfer.results import text
from raytransfer.results.statistics import STATISTICS, Group, Statistic, Summary, summarise
from raytransfer.results.table import COLUMNS, Results

FOLD = 12
"""Lists of the provenance with more entries than this are folded."""

_PERCENT = ("top1", "top5", "top1_best10")
_IDENTITY = ("label", "split", "source", "target", "kind", "n", "finetuned", "seed")
"""Columns that the treatment's id already says."""


def write_report(results: Results, out_path: str | Path, statistic: Statistic = "top1") -> None:
    """Write the page to one .html file, whole or not at all; the same results, the same bytes.

    Raises UserError where it cannot be written.
    """
    out = Path(out_path)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    html = page(results, statistic)
    try:
        part.write_text(html, encoding="utf-8", newline="\n")
        os.replace(part, out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}.") from error
    finally:
        with suppress(OSError):
            part.unlink()


def page(results: Results, statistic: Statistic = "top1") -> str:
    """The whole page as text."""
    summary = summarise(results, statistic)
    sections = [
        _findings(results, summary),
        _figure_2(results, summary),
        _figure_3(results, summary),
        _table_1(summary),
        _curves(results),
        _networks(results),
        _missing(summary),
        _provenance(results.provenance),
    ]
    style = _own_file("page.css")
    plotly_js = plotly.offline.get_plotlyjs().replace("\r\n", "\n")
    script = _own_file("page.js")
    policy = "; ".join(
        (
            "default-src 'none'",
            # plotly.js is packed in the page; its script is named by what it unpacks to.
            f"script-src {_digest(plotly_js)} {_digest(script)}",
            # plotly.js sets style attributes and adds a style element of its own.
            "style-src 'unsafe-inline'",
            "img-src data: blob:",
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
<title>How transferable are the features of each layer?</title>
<style>{style}</style>
</head>
<body>
<main>
{"".join(sections)}
</main>
<script type="application/gzip" id="plotly">{_packed(plotly_js)}</script>
<script>{script}</script>
</body>
</html>
"""


def _own_file(name: str) -> str:
    return files("raytransfer.report").joinpath(name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    """The policy's name for an inline script: no other script may run in the page."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _packed(script: str) -> str:
    """A script as text a third of its size; no time in it, so the same bytes each time."""
    return base64.b64encode(gzip.compress(script.encode(), compresslevel=9, mtime=0)).decode()


def _findings(results: Results, summary: Summary) -> str:
    networks = len(results.networks)
    splits = dict.fromkeys(row["split"] for row in results.networks)
    shown = ", ".join(list(splits)[:6]) + (" and more" if len(splits) > 6 else "")
    kicker = f"{networks} networks · {len(splits)} split{'s' * (len(splits) != 1)}: {shown}"
    first, *rest = words.findings(summary)
    items = "".join(f"<li>{_minus(escape(sentence))}</li>" for sentence in rest)
    legend = "".join(
        f'<div><dt style="--c:{look.color}">{name}</dt><dd>{look.meaning}</dd></div>'
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
</header>
"""


def _figure_2(results: Results, summary: Summary) -> str:
    views = figure_2(results, summary)
    if not views:
        return _section("figure-2", "Figure 2: accuracy against n", "No network is finished yet.")
    bases, groups = text.apart(summary)
    tables = [text.base_scores(bases, STATISTICS[summary.statistic])] if bases else []
    for group in groups:
        for part in (part for part in group.studied if part.networks):
            tables += [text.scores(part, STATISTICS[summary.statistic]), text.changes(part)]
            if part.co_adaptation or part.specificity or part.over_untrained:
                tables.append(text.decomposition(part))
    main = next(iter(summary.groups.values())).studied[0]
    said = words.transfer(main) or words.selffer(main) or "There are only bases so far."
    if main.series.keys() > {"base", "RnB"}:
        said += " A click on the legend shows untrained filters (RnB) too; Figure 3 has them."
    body = _plot("figure-2", views) + _details("The numbers", "".join(map(_table, tables)))
    return _section("figure-2", "Figure 2: accuracy against n", said, body)


def _figure_3(results: Results, summary: Summary) -> str:
    title = "Figure 3: dissimilar tasks and untrained filters"
    figure = figure_3(results, summary)
    if figure is None:
        said = "There are neither untrained filters nor transfer over several kinds of split here."
        return _section("figure-3", title, said)
    groups = [group for group in summary.groups.values() if _has_changes(group)]
    said = words.dissimilar(summary) or words.transfer(groups[0].studied[0])
    tables = "".join(_table(text.changes(group)) for group in groups)
    body = _plot("figure-3", [View("all splits", figure)]) + _details("The numbers", tables)
    return _section("figure-3", title, said, body)


def _has_changes(group: Group) -> bool:
    return any(cell.change for cells in group.series.values() for cell in cells.values())


def _table_1(summary: Summary) -> str:
    title = "Table 1: the boost of fine-tuned transfer"
    groups = [group for group in summary.groups.values() if group.boosts]
    if not groups:
        return _section("table-1", title, "There are no fine-tuned networks and bases to compare.")
    body = "".join(_table(text.boosts(group)) for group in groups)
    said = words.boost_sentence(groups[0].boosts)
    return _section("table-1", title, said, f'{body}<p class="note">{words.CONFOUND}</p>')


def _curves(results: Results) -> str:
    figure = curves_figure(results)
    if figure is None:
        return _section("curves", "Training curves", "This table carries no training curves.")
    controls = "".join(
        f'<label>{name} <select data-menu="{name}">'
        + "".join(f"<option>{escape(choice)}</option>" for choice in choices)
        + ('<option value="">all</option>' if len(choices) > 1 else "")
        + "</select></label>"
        for name, choices in menus(results).items()
        if choices
    )
    said = (
        f"{len([c for c in results.curves.values() if c])} networks have curves; the menus choose "
        "which are seen, beside the bases of the same task, and the legend takes single ones out. "
        f"Long curves are thinned to {POINTS} points."
    )
    return _section(
        "curves", "Training curves", said, _plot("curves", [View("", figure)], controls)
    )


def _networks(results: Results) -> str:
    shown = [
        column
        for column in COLUMNS
        if column.name not in _IDENTITY
        and any(row[column.name] is not None for row in results.networks)
    ]
    # What a reader looks for stands first, and what is long and rare last.
    places = {"treatment": 0, "state": 1, "reason": 9}
    shown.sort(key=lambda column: places.get(column.name, 5))
    header = "".join(
        f'<th scope="col" class="{column.type}" title="{escape(column.meaning)}">'
        f"{_heading(column.name)}</th>"
        for column in shown
    )
    rows = "".join(
        f'<tr class="{escape(row["state"])}">'
        + "".join(_network_cell(column.name, row[column.name]) for column in shown)
        + "</tr>"
        for row in results.networks
    )
    failed = [row for row in results.networks if row["state"] == "failed"]
    said = f"All {len(results.networks)} networks, accuracies in per cent of the validation images"
    said += f"; {len(failed)} failed." if failed else "; none failed."
    body = (
        '<div class="scroll tall" tabindex="0" role="region" aria-label="All networks">'
        f"<table><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    return _section("networks", "Networks", said, body)


def _heading(name: str) -> str:
    names = {"top1_best10": "top-1, ten best", "images_per_second": "images/s"}
    shown = names.get(name, name.removesuffix("_sha256").replace("_", " "))
    return shown.replace("top1", "top-1").replace("top5", "top-5")


def _network_cell(name: str, value: Any) -> str:
    if value is None:
        return "<td></td>"
    if name == "treatment":
        return f'<th scope="row">{escape(value)}</th>'
    if name == "state":
        return f'<td><span class="state">{escape(value)}</span></td>'
    if name.endswith("sha256"):
        return f'<td><code class="hash">{escape(value)}</code></td>'
    if name in _PERCENT:
        return f'<td class="number">{100 * value:.2f}</td>'
    if name in ("loss", "train_loss"):
        return f'<td class="number">{value:.4f}</td>'
    if isinstance(value, (int, float)):
        digits = 1 if isinstance(value, float) and value < 100 else 0
        return f'<td class="number">{value:,.{digits}f}</td>'
    return f'<td class="words">{escape(str(value))}</td>'


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
        return _section("missing", "Missing cells", "Every cell of every series is filled.")
    header = ("networks of", "series", "layers n", "finished", "not finished")
    table = text.Table("Cells with fewer finished networks than planned, or none", header, rows)
    some = "One cell is" if len(rows) == 1 else f"{len(rows)} cells are"
    said = f"{some} empty or incomplete, and nothing stands in."
    return _section("missing", "Missing cells", said, _table(table))


def _provenance(provenance: Mapping[str, Any]) -> str:
    if not provenance:
        said = "This page was made from a table, which does not say how its networks were made."
        return _section("provenance", "Provenance", said)
    said = "What the networks were made from, as the study recorded it."
    return _section("provenance", "Provenance", said, _tree(provenance))


def _tree(value: Any) -> str:
    """Nested plain data as nested definition lists; what is long is folded."""
    if isinstance(value, Mapping):
        entries = "".join(
            f"<div><dt>{escape(str(key))}</dt><dd>{_entry(str(key), entry)}</dd></div>"
            for key, entry in value.items()
        )
        shown = f'<dl class="tree">{entries}</dl>'
        return _details(f"{len(value)} entries", shown) if len(value) > 3 * FOLD else shown
    if isinstance(value, Sequence) and not isinstance(value, str):
        nested = any(isinstance(entry, (Mapping, list, tuple)) for entry in value)
        shown = (
            "".join(f"<div>{_tree(entry)}</div>" for entry in value)
            if nested
            else escape(", ".join(map(str, value)))
        )
        return _details(f"{len(value)} entries", shown) if len(value) > FOLD else shown
    return escape("" if value is None else str(value))


def _entry(key: str, value: Any) -> str:
    if key == "command":
        words = value if isinstance(value, str) else " ".join(map(str, value))
        return f"<code>{escape(words)}</code>"
    return _tree(value)


def _section(id: str, title: str, said: str, body: str = "") -> str:
    return f"""<section id="{id}" aria-labelledby="{id}-title">
<h2 id="{id}-title">{title}</h2>
<p>{_minus(escape(said))}</p>
{body}</section>
"""


def _plot(id: str, views: Iterable[View], controls: str = "") -> str:
    """A figure's place in the page, its menu of views, and its data, which page.js draws."""
    views = list(views)
    if len(views) > 1:
        options = "".join(f"<option>{escape(view.name)}</option>" for view in views)
        controls = f'<label>show <select data-view="">{options}</select></label>' + controls
    data = json.dumps([_plain(view.figure) for view in views], separators=(",", ":"))
    # Inside a script element only "<" can end or confuse the data.
    data = data.replace("<", "\\u003c")
    bar = f'<div class="controls">{controls}</div>' if controls else ""
    return (
        f'<figure data-figure="{id}">{bar}<div class="plot" id="{id}-plot"></div>'
        f'<script type="application/json">{data}</script></figure>'
    )


def _plain(figure: go.Figure) -> Any:
    # Named, as the default engine depends on what else is installed.
    return json.loads(plotly.io.to_json(figure, engine="json"))


def _details(summary: str, body: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def _table(table: text.Table) -> str:
    header = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.header)
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td class="missing">{cell}</td>'
            if cell == text.MISSING
            else f"<td>{_minus(escape(cell))}</td>"
            for cell in row
        )
        + "</tr>"
        for row in table.rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.title)}">'
        f"<table><caption>{escape(table.title)}</caption><thead><tr>{header}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _minus(shown: str) -> str:
    """Negative numbers with the minus sign that typesetters use."""
    return re.sub(r"(?<![\w.])-(?=\d)", "\u2212", shown)
