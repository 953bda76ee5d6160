"""Training curves: validation top-1 and training loss against steps, by network."""

from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from raytransfer.results.table import Results, series_of

POINTS = 80
"""At most so many points of a curve are drawn; a page of 250 long networks stays small."""

BASE_COLOR = "#7a828e"
COLORS = ("#4c6ef5", "#1c98cf", "#12a08c", "#5f9f26", "#c08f00", "#e0690f", "#d6336c")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid")
"""Colour and dash by n = 1 to 7."""


def curves_figure(results: Results) -> go.Figure | None:
    """Two panels, a trace a network in each; the page's menus choose which of them are seen.

    Each trace's `meta` tells the menus its split, target and series. None without any curve.
    """
    drawn = [row for row in results.networks if results.curves.get(row["treatment"])]
    if not drawn:
        return None
    figure = make_subplots(
        rows=2,
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.09,
        subplot_titles=("validation top-1, %", "training loss, nats an image"),
    )
    for row in drawn:
        curve = results.curves[row["treatment"]]
        base = row["kind"] == "base"
        line = {
            "color": BASE_COLOR if base else COLORS[row["n"] - 1],
            "dash": "solid" if base else DASHES[row["n"] - 1],
            "width": 3 if base else 1.8,
        }
        for panel, key, scale in ((1, "top1", 100.0), (2, "train_loss", 1.0)):
            points = thinned([one for one in curve if one.get(key) is not None])
            figure.add_trace(
                go.Scatter(
                    x=[one["step"] for one in points],
                    y=[round(scale * one[key], 4) for one in points],
                    mode="lines" if len(points) > 1 else "markers",
                    line=line,
                    name=row["treatment"],
                    legendgroup=row["treatment"],
                    showlegend=panel == 1,
                    meta={
                        "split": row["split"],
                        "target": row["target"],
                        "series": series_of(row),
                    },
                    hovertemplate="<b>%{fullData.name}</b><br>step %{x}<br>%{y}<extra></extra>",
                ),
                row=panel,
                col=1,
            )
    figure.update_layout(
        template="none",
        height=680,
        margin={"l": 46, "r": 14, "t": 34, "b": 48},
        hovermode="closest",
        hoverlabel={"align": "left"},
        legend={"orientation": "h", "x": 0, "y": -0.15, "yanchor": "top"},
    )
    figure.update_xaxes(
        zeroline=False, showgrid=False, ticks="outside", ticklen=4, rangemode="tozero"
    )
    figure.update_xaxes(title_text="steps", title_font_size=13, title_standoff=8, row=2)
    figure.update_yaxes(automargin=True, nticks=7, zeroline=False)
    figure.update_annotations(x=0, xanchor="left", font_size=13)
    return figure


def menus(results: Results) -> dict[str, list[str]]:
    """The choices of the page's menus; a network is seen where all three agree with it.

    Bases of the chosen split and target are always seen.
    """
    drawn = [row for row in results.networks if results.curves.get(row["treatment"])]
    series = [name for name in dict.fromkeys(map(series_of, drawn)) if name != "base"]
    # Transfer is the study's question, so its curves are seen first.
    series.sort(key=lambda name: name != "AnB")
    studied = [row for row in drawn if row["kind"] != "base"] or drawn
    targets = dict.fromkeys(row["target"] for row in [*studied, *drawn])
    return {
        "split": list(dict.fromkeys(row["split"] for row in drawn)),
        "target": list(targets),
        "series": series,
    }


def thinned(curve: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most POINTS rows of a curve, evenly chosen, the first and the last among them."""
    if len(curve) <= POINTS:
        return curve
    last = len(curve) - 1
    return [curve[round(place * last / (POINTS - 1))] for place in range(POINTS)]
