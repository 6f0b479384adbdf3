"""Survival curves: the share of images not broken within a radius, by minimum-norm attacks and bounded ones."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from segrobust.analysis.summary import Record
from segrobust.report.curves import Curve, draw, styles
from segrobust.report.runs import Run
from segrobust.report.texts import shown_name

PANEL = {"survival": "images not broken (%)"}


def survival_curves(run: Run, norm: str, names: Sequence[str], end: float) -> list[Curve]:
    """The curves of all attacks of a run under one norm, up to the radius ``end``.

    A bounded attack is known at its radii alone, a minimum-norm attack everywhere, in steps at the distances of its
    images.
    """
    exact = {record["name"]: record.get("distances", ()) for record in run.distances(norm)}
    curves, style_of = [], styles(names)
    for name in names:
        at_radii = [(one["eps"], one["broken"]) for one in run.at_radius(norm, name) if one["broken"] is not None]
        points, style = [], style_of[name]
        if name in exact:
            points, style = survival(exact[name], end), style | {"marker": "", "drawstyle": "steps-post"}
        elif at_radii:
            at_zero = [(0.0, run.clean["broken"])] if run.clean and run.clean["broken"] is not None else []
            points = [(eps, 100 - broken) for eps, broken in at_zero + at_radii]
        if points:
            curves.append(Curve(shown_name(name), {"survival": [(*point, None) for point in points]}, style))
    return curves


def survival(distances: Sequence[float | None], end: float) -> list[tuple[float, float]]:
    """``(eps, percent)`` of the images farther than eps, from 0 to ``end``; null distances are never reached."""
    count = len(distances)
    if not count:
        return []
    reached = sorted(distance for distance in distances if distance is not None and distance <= end)
    steps = [(distance, 100 * (count - number) / count) for number, distance in enumerate(reached, start=1)]
    return [(0.0, 100.0), *steps, (end, 100 * (count - len(reached)) / count)]


def survival_figures(runs: Sequence[Run], norm: str) -> list[tuple[str, Markup]]:
    """A title and an SVG element per run that has a minimum-norm attack under ``norm``, or any image broken."""
    names = list(dict.fromkeys(name for run in runs for name in run.all_names(norm)))
    radii = {one["eps"] for run in runs for one in run.attacked(norm) if one["eps"]}
    far = [value for run in runs for one in run.distances(norm) for value in _quartiles(one) if value is not None]
    end = max([*radii, *far], default=0.0)
    figures = []
    for run in runs if end else ():
        shown = run.distances(norm) or any(one["broken"] for one in run.attacked(norm))
        if shown and (curves := survival_curves(run, norm, names, end)):
            title = f"{run.label}: share of images not broken within eps, {norm}"
            figures.append((run.label, draw(curves, norm, title, 102, PANEL, sorted({*radii, end}))))
    return figures


def _quartiles(record: Record) -> list[float | None]:
    """The median and the quartiles: as far as they are finite the figure should reach."""
    return [record["median_distance"], *record.get("quantiles", {}).values()]
