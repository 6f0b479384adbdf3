"""Survival curves: the share of images not broken within a radius, by minimum-norm attacks and bounded ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from segrobust.analysis.summary import Record
from segrobust.report.curves import radius_axis, sketch, styles
from segrobust.report.runs import Run
from segrobust.report.texts import shown_name, unit

LABEL = "images not broken (%)"


@dataclass(frozen=True)
class SurvivalCurve:
    """Percent of the images not broken within eps; ``exact`` where every image's distance is known.

    points: ``(eps, percent)`` by growing eps; of an exact curve, it stays at a percent until the next point.
    """

    label: str
    points: list[tuple[float, float]]
    style: dict[str, Any]
    exact: bool


def survival_curves(run: Run, norm: str, names: Sequence[str], end: float) -> list[SurvivalCurve]:
    """The curves of all attacks of a run under one norm, up to the radius ``end``.

    A bounded attack is known at its radii alone, a minimum-norm attack everywhere, by the distances of its images.
    """
    style = styles(names)
    exact = {record["name"]: record["distances"] for record in run.distances(norm)}
    at_zero = [] if run.clean is None or run.clean["broken"] is None else [(0.0, 100 - run.clean["broken"])]
    curves = []
    for name in names:
        at_radii = [(one["eps"], 100 - one["broken"]) for one in run.at_radius(norm, name) if one["broken"] is not None]
        if name in exact:
            curves.append(SurvivalCurve(name, survival(exact[name], end), {**style[name], "marker": ""}, True))
        elif at_radii:
            curves.append(SurvivalCurve(shown_name(name), at_zero + at_radii, style[name], False))
    return [curve for curve in curves if curve.points]


def survival(distances: Sequence[float | None], end: float) -> list[tuple[float, float]]:
    """``(eps, percent)`` of the images farther than eps, from 0 to ``end``; null distances are never reached."""
    count = len(distances)
    if not count:
        return []
    reached = sorted(distance for distance in distances if distance is not None and distance <= end)
    steps = [(distance, 100 * (count - number) / count) for number, distance in enumerate(reached, start=1)]
    return [(0.0, 100.0), *steps, (end, 100 * (count - len(reached)) / count)]


def survival_figures(runs: Sequence[Run], norm: str) -> list[tuple[str, str]]:
    """A title and an SVG element per run that has a minimum-norm attack under ``norm``, or any image broken."""
    names = list(dict.fromkeys(name for run in runs for name in run.all_names(norm)))
    radii = sorted({one["eps"] for run in runs for one in run.attacked(norm) if one["eps"]})
    far = [max(found, default=0.0) for run in runs for one in run.distances(norm) if (found := _upper(one))]
    end = max([*radii, *far], default=0.0)
    drawn = [run for run in runs if run.distances(norm) or any(one["broken"] for one in run.attacked(norm))]
    return [(run.label, _draw(survival_curves(run, norm, names, end), run, norm, radii, end)) for run in drawn if end]


def _upper(record: Record) -> list[float]:
    """The median and the quartiles where they are finite: so far the figure should reach."""
    return [value for value in (record["median_distance"], *record["quantiles"].values()) if value is not None]


def _draw(curves: Sequence[SurvivalCurve], run: Run, norm: str, radii: Sequence[float], end: float) -> str:
    scale = unit(norm)

    def paint(axes: Sequence[Any]) -> None:
        (axis,) = axes
        for curve in curves:
            places, percents = zip(*curve.points, strict=True)
            drawstyle = "steps-post" if curve.exact else "default"
            axis.plot([scale * eps for eps in places], percents, drawstyle=drawstyle, clip_on=False, **curve.style)
        axis.set_ylabel(LABEL)
        axis.set_ylim(0, 102)
        radius_axis(axis, radii, norm, end)

    title = f"{run.label}: share of images not broken within eps, {norm}"
    return sketch(paint, [curve.label for curve in curves], title, panels=1)
