"""Score against radius as inline SVG: one line per attack (or per run) with its 95 % band, the clean value at eps 0.

Text and axes are drawn in the page's own colour (``currentColor``), so that a figure reads on white and on black.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from segrobust.analysis.summary import Record
from segrobust.analysis.worst_case import WORST_CASE
from segrobust.report.runs import Run
from segrobust.report.texts import shown_name, unit

SCORES = {"mIoU": "mIoU (%)", "aAcc": "aAcc (%)"}
_INK = "#010203"  # stands for the page's text colour until the SVG is written
_COLOURS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#999999")  # Paul Tol, bright
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 2, 1.5, 2)))
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
}
# wide and behind, so that it hides no attack
_WORST_STYLE = {"color": _INK, "alpha": 0.3, "linewidth": 6, "zorder": 1.5}


@dataclass(frozen=True)
class Curve:
    """``points``, by panel: ``(eps, percent, its interval or None)`` by growing eps."""

    label: str
    points: dict[str, list[tuple[float, float, Sequence[float] | None]]]
    style: dict[str, Any]


def score_curve(label: str, records: Sequence[Record], clean: Record | None, style: dict[str, Any]) -> Curve:
    """The scores in the clean record (if any) and in the records by growing radius; none where there is no number."""
    places = [(0.0, clean)] * bool(clean) + [(record["eps"], record) for record in records]
    return Curve(label, {m: [(eps, r[m], r["ci"][m]) for eps, r in places if r[m] is not None] for m in SCORES}, style)


def attack_curves(run: Run, norm: str, names: Sequence[str]) -> list[Curve]:
    """One curve per attack of a run; ``names`` are those of all runs, so that an attack keeps its colour."""
    style = styles(names)
    return [
        score_curve(shown_name(name), run.at_radius(norm, name), run.clean, style[name])
        for name in run.attack_names(norm)
    ]


def run_curves(runs: Sequence[Run], norm: str) -> list[Curve]:
    """The worst case of each run, to compare models; runs without one are left out."""
    curves = []
    for i, run in enumerate(runs):
        style = _nth_style(i) | {"linestyle": _DASHES[i % len(_DASHES)], "linewidth": 2.2}
        if records := run.at_radius(norm, WORST_CASE):
            curves.append(score_curve(run.label, records, run.clean, style))
    return curves


def styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """How the attacks with these names are drawn, and the worst case."""
    attacks = [name for name in names if name != WORST_CASE]
    return {name: _nth_style(number) for number, name in enumerate(attacks)} | {WORST_CASE: _WORST_STYLE}


def _nth_style(number: int) -> dict[str, Any]:
    """Colour and marker of the attack or run with that number."""
    marker = _MARKERS[(number + number // len(_COLOURS)) % len(_MARKERS)]
    return {"color": _COLOURS[number % len(_COLOURS)], "marker": marker, "linewidth": 1.6, "markersize": 5}


def draw(
    curves: Sequence[Curve],
    norm: str,
    title: str,
    top: float = 100.0,
    panels: Mapping[str, str] = SCORES,
    ticks: Sequence[float] = (),
) -> Markup:
    """The panels beside each other as an SVG element, with one legend below; ``title`` is what a screen reader says.

    The other arguments are those of :func:`drawn`.
    """
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": title}):
        figure = drawn(curves, norm, top, panels, ticks)
        stream = io.StringIO()
        with warnings.catch_warnings():
            # The browser has its own fonts; matplotlib's only measure the legend.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None})
    return _inline(stream.getvalue(), title)


def drawn(
    curves: Sequence[Curve],
    norm: str,
    top: float = 100.0,
    panels: Mapping[str, str] = SCORES,
    ticks: Sequence[float] = (),
) -> Figure:
    """The same as matplotlib's figure, in the style that is set.

    Args:
        curves: at least one.
        norm: Linf radii are shown in /255, others in image units.
        top: upper end of all scales, in percent.
        panels: their labels by the names that the curves have points of.
        ticks: growing radii above 0; by default those of the points.
    """
    ticks = ticks or sorted({eps for one in curves for points in one.points.values() for eps, *_ in points if eps > 0})
    figure = Figure(figsize=(11.5, 4.1), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (name, label) in zip(axes, panels.items(), strict=True):
        for curve in curves:
            _draw_curve(axis, curve, name, unit(norm))
        axis.set_ylabel(label)
        axis.set_ylim(0, top)
        _radius_axis(axis, ticks, norm)
        axis.grid(True, color=_INK, alpha=0.13, linewidth=0.7)
    # A label that starts with an underscore would be left out of the legend.
    names = [f" {name}" if name.startswith("_") else name for name in (_plain(curve.label) for curve in curves)]
    columns = math.ceil(len(names) / math.ceil(len(names) / 6))
    handles = axes[0].get_lines()
    figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False, handlelength=2.6)
    return figure


def _draw_curve(axis: Axes, curve: Curve, panel: str, scale: int) -> None:
    points = [(scale * eps, value, interval) for eps, value, interval in curve.points[panel]]
    axis.plot([x for x, *_ in points], [value for _, value, _ in points], clip_on=False, **curve.style)
    if banded := [(x, *interval) for x, _, interval in points if interval]:
        axis.fill_between(*zip(*banded, strict=True), color=curve.style["color"], alpha=0.12, linewidth=0)


def _radius_axis(axis: Axes, radii: Sequence[float], norm: str) -> None:
    places = [unit(norm) * eps for eps in radii]
    label = "eps, in 1/255" if norm == "Linf" else f"{_plain(norm)} radius, images in [0, 1]"
    if places and places[-1] > 8 * places[0]:
        # Published grids double the radius each time; on a linear axis the small ones would lie on each other.
        axis.set_xscale("function", functions=(lambda x: abs(x) ** 0.5, np.square))
        label += " (square-root scale)"
    axis.set_xticks([0, *places], ["0", *(f"{place:.3g}" for place in places)])
    axis.set_xticks([], minor=True)
    axis.set_xlim(0, places[-1] if places else 1)
    axis.set_xlabel(label)


def upper_end(runs: Sequence[Run]) -> float:
    """A round number above every score and interval of the runs, so that all their figures share one scale."""
    values = [record[metric] for run in runs for record in run.records for metric in SCORES]
    highest = max((value for value in values if value is not None), default=100.0)
    return max(10.0, min(100.0, 10.0 * math.ceil((highest + 2) / 10)))


def _plain(text: str, limit: int = 40) -> str:
    """One line without control characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}\N{HORIZONTAL ELLIPSIS}"


def _inline(svg: str, title: str) -> Markup:
    """Keep the ``<svg>`` element alone: no XML head, no metadata, no fixed size, the page's colour for ink."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.S)
    for size in ("width", "height"):
        svg = re.sub(rf'<svg ([^>]*?){size}="[^"]*"', r"<svg \1", svg, count=1)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(_plain(title, 200))}" ', 1)
    return Markup(svg.replace(_INK, "currentColor"))  # noqa: S704  (matplotlib escapes the labels)
