"""Score against radius as inline SVG: one line per attack (or per run) with its 95 % band, the clean value at eps 0.

Text and axes are drawn in the page's own colour (``currentColor``), so that a figure reads on white and on black.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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
# as far apart as may be for every kind of colour vision, with a contrast of 3 against the light and the dark page
COLOURS = ("#2299CC", "#CC7700", "#6655CC", "#CC0033", "#BB8888", "#BB1188", "#9900FF")
_LEGEND_WIDTH, _LEGEND_LINE = 66, 8  # of a panel and of a line and its marker before a label, in letters
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 2, 1.5, 2)))
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10.5,
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
    marker = _MARKERS[(number + number // len(COLOURS)) % len(_MARKERS)]
    return {"color": COLOURS[number % len(COLOURS)], "marker": marker, "linewidth": 1.6, "markersize": 5}


def draw(
    curves: Sequence[Curve],
    norm: str,
    title: str,
    top: float = 100.0,
    panels: Mapping[str, str] = SCORES,
    ticks: Sequence[float] = (),
) -> Markup:
    """Score against radius, an SVG element per panel.

    Args:
        curves: at least one.
        norm: Linf radii are shown in /255, others in image units.
        title: what a screen reader says before the panel's label.
        top: upper end of all scales, in percent.
        panels: their labels by the names that the curves have points of.
        ticks: growing radii above 0; by default those of the points.
    """
    ticks = ticks or sorted({eps for one in curves for points in one.points.values() for eps, *_ in points if eps > 0})

    draw_panel = partial(_score_panel, curves=curves, labels=panels, norm=norm, top=top, ticks=ticks)
    return panels_svg(title, panels, draw_panel)


def _score_panel(
    axis: Axes, panel: str, curves: Sequence[Curve], labels: Mapping[str, str], norm: str, top: float, ticks: Sequence
) -> list[str]:
    for curve in curves:
        _draw_curve(axis, curve, panel, unit(norm))
    axis.set_ylabel(labels[panel])
    axis.set_ylim(0, top)
    _radius_axis(axis, ticks, norm)
    return [curve.label for curve in curves]


def panels_svg(title: str, panels: Mapping[Any, str], draw_panel: Callable[[Axes, Any], list[str]]) -> Markup:
    """An SVG element per panel, each with its legend below: they stand beside each other, or on a phone below.

    Args:
        title: what a screen reader says before the panel's label.
        draw_panel: draws the panel of a name and returns the labels of its lines.
    """
    return Markup("\n").join(_panel(f"{title}: {label}", name, draw_panel) for name, label in panels.items())


def _panel(title: str, name: Any, draw_panel: Callable[[Axes, Any], list[str]]) -> Markup:
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(layout="constrained")
        axis = figure.subplots()
        rows = _finish(figure, axis, draw_panel(axis, name))
        figure.set_size_inches(5.75, 3.7 + 0.2 * rows)
        stream = io.StringIO()
        with warnings.catch_warnings():
            # The browser has its own fonts; matplotlib's only measure the legend.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None})
    return _inline(stream.getvalue(), title)


def _finish(figure: Figure, axis: Axes, labels: Sequence[str]) -> int:
    """Add a grid and, below, the legend; returns its number of rows."""
    axis.grid(True, color=_INK, alpha=0.13, linewidth=0.7)
    # A label that starts with an underscore would be left out of the legend.
    names = [f" {name}" if name.startswith("_") else name for name in map(plain, labels)]
    columns = max(1, min(len(names), _LEGEND_WIDTH // (max(map(len, names)) + _LEGEND_LINE)))
    place = {"loc": "outside lower center", "ncols": columns, "frameon": False, "handlelength": 2.6}
    figure.legend(axis.get_lines(), names, **place)
    return math.ceil(len(names) / columns)


def drawn(
    curves: Sequence[Curve],
    norm: str,
    top: float = 100.0,
    panels: Mapping[str, str] = SCORES,
    ticks: Sequence[float] = (),
) -> Figure:
    """The panels of :func:`draw` beside each other, as matplotlib's figure in the style that is set."""
    ticks = ticks or sorted({eps for one in curves for points in one.points.values() for eps, *_ in points if eps > 0})
    figure = Figure(figsize=(11.5, 4.1), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, name in zip(axes, panels, strict=True):
        labels = _score_panel(axis, name, curves, panels, norm, top, ticks)
        axis.grid(True, color=_INK, alpha=0.13, linewidth=0.7)
    _finish(figure, axes[0], labels)
    return figure


def _draw_curve(axis: Axes, curve: Curve, panel: str, scale: int) -> None:
    points = [(scale * eps, value, interval) for eps, value, interval in curve.points[panel]]
    axis.plot([x for x, *_ in points], [value for _, value, _ in points], clip_on=False, **curve.style)
    if banded := [(x, *interval) for x, _, interval in points if interval]:
        axis.fill_between(*zip(*banded, strict=True), color=curve.style["color"], alpha=0.12, linewidth=0)


def _radius_axis(axis: Axes, radii: Sequence[float], norm: str) -> None:
    places = [unit(norm) * eps for eps in radii]
    label = "eps, in 1/255" if norm == "Linf" else f"{plain(norm)} radius, images in [0, 1]"
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


def plain(text: str, limit: int = 40) -> str:
    """One line without control characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}\N{HORIZONTAL ELLIPSIS}"


def _inline(svg: str, title: str) -> Markup:
    """Keep the ``<svg>`` element alone: no XML head, no metadata, no fixed size, the page's colour for ink."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.S)
    for size in ("width", "height"):
        svg = re.sub(rf'<svg ([^>]*?){size}="[^"]*"', r"<svg \1", svg, count=1)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(plain(title, 200))}" ', 1)
    return Markup(svg.replace(_INK, "currentColor"))  # noqa: S704  (matplotlib escapes the labels)
