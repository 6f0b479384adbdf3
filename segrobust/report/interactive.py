"""Curves that answer to the mouse, with the plotly.js that the optional package plotly brings, embedded in the page."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from segrobust.core.errors import UserError
from segrobust.core.units import format_eps
from segrobust.report.curves import SCORES, Curve, plain
from segrobust.report.texts import unit

_DASHES = {"-": "solid", (0, (5, 2)): "dash", (0, (1.5, 1.5)): "dot", (0, (5, 2, 1.5, 2)): "dashdot"}


def plotly_source() -> str:
    """The text of plotly.js; UserError: plotly is not installed."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise UserError(
            "--interactive: expected the package plotly, which is not installed; pip install 'segrobust[interactive]', "
            "or leave the option out: the page then has static curves"
        ) from error
    return get_plotlyjs()


def plot_json(curves: Sequence[Curve], norm: str, top: float, panels: Mapping[str, str] = SCORES) -> str:
    """Traces and layout of the same panels as :func:`segrobust.report.curves.draw`, as plotly.js takes them."""
    layout: dict[str, Any] = {
        "margin": {"l": 50, "r": 10, "t": 10, "b": 45},
        "legend": {"orientation": "h", "y": -0.2},
        "hovermode": "x unified",
        "height": 400,
    }
    traces: list[dict[str, Any]] = []
    ticks = sorted({eps for curve in curves for points in curve.points.values() for eps, *_ in points})
    for number, (name, label) in enumerate(panels.items(), start=1):
        last = "" if number == 1 else str(number)
        width = 1 / len(panels)
        layout[f"xaxis{last}"] = {
            "title": {"text": f"radius, {_literal(norm)}"},
            "domain": [(number - 1) * width + 0.03 * (number > 1), number * width - 0.03 * (number < len(panels))],
            "tickvals": [unit(norm) * eps for eps in ticks],
            "ticktext": [format_eps(eps, norm) if eps else "0" for eps in ticks],
            "anchor": f"y{last}",
            "rangemode": "tozero",
        }
        layout[f"yaxis{last}"] = {"title": {"text": label}, "range": [0, top], "anchor": f"x{last}"}
        traces += [_trace(curve, name, norm, last) for curve in curves]
    return json.dumps({"data": traces, "layout": layout})


def _trace(curve: Curve, panel: str, norm: str, axis: str) -> dict[str, Any]:
    points, style = curve.points[panel], curve.style
    ink = not style.get("marker")  # the worst case is drawn in the page's own colour
    ends = [interval or (value, value) for _, value, interval in points]
    return {
        "type": "scatter",
        "mode": "lines" if ink else "lines+markers",
        "name": _literal(plain(curve.label)),
        "legendgroup": _literal(curve.label),
        "showlegend": not axis,
        "cliponaxis": False,
        "x": [unit(norm) * eps for eps, *_ in points],
        "y": [value for _, value, _ in points],
        "error_y": {
            "type": "data", "symmetric": False, "thickness": 1, "width": 3,
            "array": [high - value for (_, value, _), (_, high) in zip(points, ends, strict=True)],
            "arrayminus": [value - low for (_, value, _), (low, _) in zip(points, ends, strict=True)],
        },
        "line": {
            "color": "#888888" if ink else style["color"], "width": 6 if ink else style["linewidth"],
            "dash": _DASHES.get(style.get("linestyle", "-"), "solid"),
        },
        "opacity": 0.5 if ink else 1,
        "xaxis": f"x{axis}",
        "yaxis": f"y{axis}",
    }  # fmt: skip


def _literal(text: str) -> str:
    """A text as plotly.js shows it as it is: it reads some tags and entities."""
    return html.escape(text, quote=False)
