"""Convergence: the share of wrong pixels of the best image so far against backward passes, an attack per line."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.axes import Axes

from segrobust.analysis.summary import Record
from segrobust.core.units import format_eps
from segrobust.report.curves import drawn, styles
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
        panels = [[r for r in known if r["eps"] == eps] for eps in (radii or [None])]
        if known:
            title = f"{run.label}: wrong pixels against backward passes, {norm}"
            figures.append((run.label, drawn(title, len(panels), lambda axes, p=panels: _draw(axes, p, norm, style_of))))
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


def _draw(axes: Sequence[Axes], panels: Sequence[Sequence[Record]], norm: str, style_of: dict) -> list[str]:
    """Draw one radius per panel; returns the labels of the lines in the first one's legend, all names there."""
    names = list(dict.fromkeys(record["name"] for records in panels for record in records))
    for axis, records in zip(axes, panels, strict=True):
        by_name = {record["name"]: _points(record) for record in records}
        for name in names:
            points = by_name.get(name, [])
            style = style_of[name] | {"markevery": max(1, len(points) // 6)}
            axis.plot([x for x, _ in points], [y for _, y in points], **style)
        eps = records[0]["eps"]
        axis.set_title("" if eps is None else f"{norm} {format_eps(eps, norm)}", fontsize=10)
        axis.set_xlabel("backward passes per image")
        axis.set_xlim(left=0)
        axis.margins(y=0.08)
    axes[0].set_ylabel("wrong pixels (%)")
    return names
