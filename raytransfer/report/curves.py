"""Training curves: validation top-1, training loss and learning rate, by network."""

from typing import Any

from raytransfer.report.drawing import Trace, View, panels, rounded
from raytransfer.results.table import Results, series_of

POINTS = 80
"""At most so many points of a curve are drawn; a page of 250 long networks stays small."""

BASE_COLOR = "#6b7280"
COLORS = ("#4c6ef5", "#1c98cf", "#12a08c", "#5f9f26", "#c08f00", "#e0690f", "#d6336c")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid")
"""Colour and dash by n = 1 to 7."""

PANELS = {
    "top1": (100.0, 0.42, "validation top-1, %"),
    "train_loss": (1.0, 0.36, "training loss, nats an image"),
    "learning_rate": (1.0, 0.22, "learning rate"),
}
"""Scale, share of the height, and title, by what a line of training says."""


def curves_figure(results: Results) -> View | None:
    """A panel for each of PANELS that the lines have, a trace for each network; learning rates that
    are the same are drawn once. The page's menus choose which networks are seen.

    Each trace's `meta` tells the menus its split, target and series, and its network's id; what is
    drawn along steps is drawn along images by `images`, those of a step. None without any curve.
    """
    drawn = [row for row in results.networks if results.curves.get(row["treatment"])]
    if not drawn:
        return None
    lines = [line for row in drawn for line in results.curves[row["treatment"]]]
    told = [key for key in PANELS if any(line.get(key) is not None for line in lines)]
    shares = [PANELS[key][1] for key in told]
    layout = panels([PANELS[key][2] for key in told], shares, height=200 + round(660 * sum(shares)))
    for name in [name for name in layout if name.startswith("xaxis")]:
        layout[name]["rangemode"] = "tozero"
    layout[name]["title"]["text"] = "steps"
    data: list[Trace] = []
    rates: dict[tuple[Any, ...], Trace] = {}
    numbers: list[tuple[Any, ...]] = [("network", "step", "images", "top1", "train_loss")]
    for row in drawn:
        curve = results.curves[row["treatment"]]
        for panel, key in enumerate(told, 1):
            trace = _trace(row, curve, key, panel)
            if key != "learning_rate":
                data.append(trace)
                continue
            # Networks of one recipe have one schedule: it is drawn once.
            rates.setdefault((*trace["x"], *trace["y"]), trace)
        numbers += [
            (row["treatment"], *(_short(one.get(name)) for name in numbers[0][1:])) for one in curve
        ]
    for trace in rates.values():
        trace |= {"name": "learning rate", "legendgroup": "learning rate"}
        trace["line"] = {"color": BASE_COLOR, "width": 2}
        data.append(trace)
    return View((), {"data": data, "layout": layout}, tuple(numbers))


def _trace(row: dict[str, Any], curve: list[dict[str, Any]], key: str, panel: int) -> Trace:
    scale = PANELS[key][0]
    points = thinned([one for one in curve if one.get(key) is not None])
    base = row["kind"] == "base"
    number = "" if panel == 1 else str(panel)
    last = curve[-1]
    return {
        "type": "scatter",
        "mode": "lines" if len(points) > 1 else "markers",
        "xaxis": f"x{number}",
        "yaxis": f"y{number}",
        "x": [one["step"] for one in points],
        "y": [_short(scale * one[key]) for one in points],
        "line": {
            "color": BASE_COLOR if base else COLORS[row["n"] - 1],
            "dash": "solid" if base else DASHES[row["n"] - 1],
            "width": 3 if base else 1.8,
        },
        "name": row["treatment"],
        "legendgroup": row["treatment"],
        "showlegend": panel == 1,
        "meta": {
            "network": row["treatment"] if key != "learning_rate" else "",
            "split": row["split"],
            "target": row["target"],
            "series": series_of(row),
            "images": rounded(last["images"] / last["step"]) if last.get("images") else 0,
        },
        "hovertemplate": "<b>%{fullData.name}</b><br>%{x:,}<br>%{y}<extra></extra>",
    }


def _short(value: float | None) -> float | None:
    """With six digits, of which more than can be read off a curve."""
    return value if value is None or isinstance(value, int) else float(f"{value:.6g}")


def menus(results: Results) -> dict[str, list[str]]:
    """The choices of the page's menus; a network is seen where all agree with it.

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
