"""Score against radius as inline SVG: one line per attack (or per run) with its 95 % band, the clean value at eps 0.

Text and axes are drawn in the page's own colour (``currentColor``), so that a figure reads on white and on black.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from segrobust.analysis.summary import Record
from segrobust.analysis.worst_case import WORST_CASE
from segrobust.report.runs import Run
from segrobust.report.texts import shown_name, unit

PANELS = {"mIoU": "mIoU (%)", "aAcc": "aAcc (%)"}
_INK = "#010203"  # stands for the page's text colour until the SVG is written
_COLOURS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#999999")  # Paul Tol, bright
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 2, 1.5, 2)))
_STYLE = {
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
class Line:
    """One curve: the clean record (if any) and the records by growing radius."""

    label: str
    records: Sequence[Record]
    clean: Record | None
    style: dict[str, Any] = field(default_factory=dict)

    def points(self, metric: str) -> list[tuple[float, float, tuple[float, float] | None]]:
        start = [(0.0, self.clean[metric], self.clean["ci"][metric])] if self.clean else []
        points = start + [(record["eps"], record[metric], record["ci"][metric]) for record in self.records]
        return [point for point in points if point[1] is not None]


def attack_lines(run: Run, norm: str, names: Sequence[str]) -> list[Line]:
    """One line per attack of a run; ``names`` are those of all runs, so that an attack keeps its colour."""
    style = styles(names)
    return [
        Line(shown_name(name), run.at_radius(norm, name), run.clean, style[name]) for name in run.attack_names(norm)
    ]


def run_lines(runs: Sequence[Run], norm: str) -> list[Line]:
    """The worst case of each run, to compare models; runs without one are left out."""
    return [
        Line(run.label, records, run.clean, {**_nth_style(i), "linestyle": _DASHES[i % len(_DASHES)], "linewidth": 2.2})
        for i, run in enumerate(runs)
        if (records := run.at_radius(norm, WORST_CASE))
    ]


def styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """How the attacks with these names are drawn, and the worst case."""
    attacks = [name for name in names if name != WORST_CASE]
    return {name: _nth_style(number) for number, name in enumerate(attacks)} | {WORST_CASE: _WORST_STYLE}


def _nth_style(number: int) -> dict[str, Any]:
    """Colour and marker of the attack or run with that number."""
    marker = _MARKERS[(number + number // len(_COLOURS)) % len(_MARKERS)]
    return {"color": _COLOURS[number % len(_COLOURS)], "marker": marker, "linewidth": 1.6, "markersize": 5}


def draw(lines: Sequence[Line], norm: str, title: str, top: float = 100.0) -> str:
    """mIoU and aAcc beside each other as an SVG element.

    Args:
        lines: at least one.
        norm: Linf radii are shown in /255, others in image units.
        title: what a screen reader says.
        top: upper end of both scales, in percent.
    """
    radii = sorted({record["eps"] for line in lines for record in line.records if record["eps"] > 0})

    def paint(axes: Sequence[Axes]) -> None:
        for axis, (metric, label) in zip(axes, PANELS.items(), strict=True):
            for line in lines:
                _draw_line(axis, line, metric, norm)
            axis.set_ylabel(label)
            axis.set_ylim(0, top)
            radius_axis(axis, radii, norm)

    return sketch(paint, [line.label for line in lines], title)


def sketch(
    paint: Callable[[Sequence[Axes]], None], labels: Sequence[str], title: str, panels: int = len(PANELS)
) -> str:
    """An SVG element of some panels with one legend below; ``paint`` draws one line per label in each of the panels."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=(11.5, 4.1), layout="constrained")
        axes = figure.subplots(1, panels, squeeze=False)[0]
        paint(axes)
        for axis in axes:
            axis.grid(True, color=_INK, alpha=0.13, linewidth=0.7)
        # A label that starts with an underscore would be left out of the legend.
        names = [f" {name}" if name.startswith("_") else name for name in map(_plain, labels)]
        columns = math.ceil(len(names) / math.ceil(len(names) / 6))
        handles = axes[0].get_lines()
        figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False, handlelength=2.6)
        stream = io.StringIO()
        with warnings.catch_warnings():
            # The browser has its own fonts; matplotlib's only measure the legend.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None})
    return _inline(stream.getvalue(), title)


def _draw_line(axis: Axes, line: Line, metric: str, norm: str) -> None:
    scale = unit(norm)
    points = line.points(metric)
    axis.plot([scale * eps for eps, *_ in points], [value for _, value, _ in points], clip_on=False, **line.style)
    banded = [(scale * eps, *interval) for eps, _, interval in points if interval]
    if banded:
        axis.fill_between(*zip(*banded, strict=True), color=line.style["color"], alpha=0.12, linewidth=0)


def radius_axis(axis: Axes, radii: Sequence[float], norm: str, end: float = 0.0) -> None:
    """Ticks at the growing, positive ``radii``, and at ``end`` (all in image units) if it lies beyond them."""
    scale = unit(norm)
    places = [scale * eps for eps in radii] + [scale * end] * (end > max(radii, default=0.0))
    label = "eps, in 1/255" if norm == "Linf" else f"{_plain(norm)} radius, images in [0, 1]"
    if places and places[-1] > 8 * places[0]:
        # Published grids double the radius each time; on a linear axis the small ones would lie on each other.
        axis.set_xscale("function", functions=(_root, _square))
        label += " (square-root scale)"
    axis.set_xticks([0, *places], ["0", *(f"{place:.3g}" for place in places)])
    axis.set_xticks([], minor=True)
    axis.set_xlim(0, places[-1] if places else 1)
    axis.set_xlabel(label)


def _root(values):
    return abs(values) ** 0.5


def _square(values):
    return values**2


def upper_end(runs: Sequence[Run]) -> float:
    """A round number above every score and interval of the runs, so that all their figures share one scale."""
    values = [run.clean[metric] for run in runs if run.clean for metric in PANELS]
    values += [record[metric] for run in runs for record in run.records for metric in PANELS]
    highest = max((value for value in values if value is not None), default=100.0)
    return max(10.0, min(100.0, 10.0 * math.ceil((highest + 2) / 10)))


def _plain(text: str, limit: int = 40) -> str:
    """One line without control characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}\N{HORIZONTAL ELLIPSIS}"


def _inline(svg: str, title: str) -> str:
    """Keep the ``<svg>`` element alone: no XML head, no metadata, no fixed size, the page's colour for ink."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.S)
    svg = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", svg, count=1)
    svg = re.sub(r'<svg ([^>]*?)height="[^"]*"', r"<svg \1", svg, count=1)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(_plain(title, 200))}" ', 1)
    return svg.replace(_INK, "currentColor")
