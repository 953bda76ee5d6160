"""Pieces of the page: sections, tables, figures with their menus, nested data."""

import base64
import gzip
import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from raytransfer.report.drawing import View
from raytransfer.results import text

FOLD = 12
"""Lists of nested data with more entries than this are folded."""


def packed(content: str) -> str:
    """Text as base64 of gzip, a fraction of its size; no time in it: the same bytes each time."""
    return base64.b64encode(gzip.compress(content.encode(), compresslevel=9, mtime=0)).decode()


def section(id: str, title: str, said: str, body: str = "") -> str:
    return f"""<section id="{id}" aria-labelledby="{id}-title">
<h2 id="{id}-title">{title}</h2>
<p>{minus(escape(said))}</p>
{body}</section>
"""


def figure(
    id: str, title: str, views: Sequence[View], menus: Sequence[str] = (), controls: str = ""
) -> str:
    """A figure's place in the page: menus for its views, and its data, which page.js draws.

    menus: their names, one for each part of a view's choice. A menu of one choice is not shown.
    """
    choices = [list(dict.fromkeys(view.choice[i] for view in views)) for i in range(len(menus))]
    chosen = "".join(
        f'<label{" hidden" if len(options) < 2 else ""}>{name} <select data-view="{place}">'
        + "".join(f"<option>{escape(option)}</option>" for option in options)
        + "</select></label>"
        for place, (name, options) in enumerate(zip(menus, choices, strict=True))
    )
    downloads = "".join(
        f'<button type="button" data-download="{kind}" aria-label="{escape(title)} as {name}">'
        f"{name}</button>"
        for kind, name in (("svg", "SVG"), ("png", "PNG"), ("csv", "CSV"))
    )
    # Each view is unpacked when it is looked at.
    content = {
        "choices": [view.choice for view in views],
        "views": [packed(_json({**view.figure, "numbers": view.numbers})) for view in views],
    }
    return (
        f'<figure data-figure="{id}"><div class="controls">{chosen}{controls}'
        f'<span class="downloads">{downloads}</span></div>'
        f'<div class="plot" id="{id}-plot" role="group" aria-label="{escape(title)}"></div>'
        '<details class="drawn"><summary>What is drawn, as a table</summary>'
        f'<div class="scroll tall" tabindex="0" role="group" aria-label="{escape(title)}: what is '
        'drawn"></div></details>'
        f'<script type="application/json">{_json(content)}</script></figure>'
    )


def _json(content: Any) -> str:
    # Inside a script element only "<" can end or confuse the data.
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def details(summary: str, body: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def table(shown: text.Table) -> str:
    header = "".join(f'<th scope="col">{escape(name)}</th>' for name in shown.header)
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td class="missing">{cell}</td>'
            if cell == text.MISSING
            else f"<td>{minus(escape(cell))}</td>"
            for cell in row
        )
        + "</tr>"
        for row in shown.rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(shown.title)}">'
        f"<table><caption>{escape(shown.title)}</caption><thead><tr>{header}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def tree(value: Any) -> str:
    """Nested plain data as nested definition lists; what is long is folded."""
    if isinstance(value, Mapping):
        entries = "".join(
            f"<div><dt>{escape(str(key))}</dt><dd>{_entry(str(key), entry)}</dd></div>"
            for key, entry in value.items()
        )
        shown = f'<dl class="tree">{entries}</dl>'
        return details(f"{len(value)} entries", shown) if len(value) > 3 * FOLD else shown
    if isinstance(value, Sequence) and not isinstance(value, str):
        nested = any(isinstance(entry, (Mapping, list, tuple)) for entry in value)
        shown = (
            "".join(f"<div>{tree(entry)}</div>" for entry in value)
            if nested
            else escape(", ".join(map(str, value)))
        )
        return details(f"{len(value)} entries", shown) if len(value) > FOLD else shown
    return escape("" if value is None else str(value))


def _entry(key: str, value: Any) -> str:
    if key == "command":
        words = value if isinstance(value, str) else " ".join(map(str, value))
        return f"<code>{escape(words)}</code>"
    return tree(value)


def minus(shown: str) -> str:
    """Negative numbers with the minus sign that typesetters use."""
    return re.sub(r"(?<![\w.])-(?=\d)", "\u2212", shown)
