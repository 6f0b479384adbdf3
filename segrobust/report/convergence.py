"""Convergence: the share of wrong pixels of the best image so far against backward passes, an attack per line."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from markupsafe import Markup
from matplotlib.axes import Axes

from segrobust.analysis.summary import Record
from segrobust.core.units import format_eps
from segrobust.report.curves import panels_svg, styles
from segrobust.report.runs import Run
from segrobust.report.texts import with_radius

PANELS = 3  # the largest radii: at small ones there is less to see


def convergence_figures(runs: Sequence[Run], norm: str) -> list[tuple[str, Markup]]:
    """A title and an SVG element per run that has attacks with ``convergence`` under a norm."""
    style_of = styles(list(dict.fromkeys(name for run in runs for name in run.all_names(norm))))
    figures = []
    for run in runs:
        known = [record for record in run.attacked(norm) if len(_points(record)) > 1]
        radii = sorted({record["eps"] for record in known if record["eps"] is not None})[-PANELS:]
        panels = {eps: f"{norm} {format_eps(eps, norm)}" for eps in radii}
        if panels:
            title = f"{run.label}: wrong pixels against backward passes"
            draw_panel = partial(_draw, titles=panels, records=known, style_of=style_of)
            figures.append((run.label, panels_svg(title, panels, draw_panel)))
    return figures


def still_falling(record: Record, share: float = 0.2) -> float | None:
    """Points of error that the last ``share`` of an attack's passes added; None where that is not known."""
    points = _points(record)
    if len(points) < 2:
        return None
    before = [error for passes, error in points if passes <= (1 - share) * points[-1][0]]
    return points[-1][1] - before[-1] if before else None


def last_gains(run: Run) -> list[tuple[str, float]]:
    """By attack and radius what the last fifth of its passes added, in points."""
    gains = [(with_radius(record), still_falling(record)) for norm in run.norms for record in run.attacked(norm)]
    return [(name, gain) for name, gain in gains if gain is not None]


def _points(record: Record) -> list[list[float]]:
    return [point for point in record.get("convergence", ()) if point]


def _draw(axis: Axes, eps: float, titles: dict, records: Sequence[Record], style_of: dict) -> list[str]:
    """Draw one radius; returns the names of its attacks."""
    here = [record for record in records if record["eps"] == eps]
    for record in here:
        points = _points(record)
        style = style_of[record["name"]] | {"markevery": max(1, len(points) // 6)}
        axis.plot([x for x, _ in points], [y for _, y in points], **style)
    axis.set_title(titles[eps], fontsize=10)
    axis.set_xlabel("backward passes per image")
    axis.set_ylabel("wrong pixels (%)")
    axis.set_xlim(left=0)
    axis.margins(y=0.08)
    return [record["name"] for record in here]
