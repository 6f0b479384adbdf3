"""Minimum-norm attacks beside bounded ones: medians, and the share of images not broken within a radius."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from segrobust.analysis.summary import WORST_CASE
from segrobust.report.curves import WORST_STYLE, nth_style, radius_axis, sketch
from segrobust.report.runs import Run

LABEL = "images not broken (%)"


@dataclass(frozen=True)
class Holdouts:
    """One curve of the percent of images not broken within eps; ``exact`` where every image's distance is known.

    points: ``(eps, percent)`` by growing eps; of an exact curve, it stays at a percent until the next point.
    """

    label: str
    points: list[tuple[float, float]]
    style: dict[str, Any]
    exact: bool


def holdout_lines(run: Run, norm: str, names: Sequence[str], end: float) -> list[Holdouts]:
    """The curves of all attacks of a run under one norm, up to the radius ``end``.

    A bounded attack is known at its radii alone, a minimum-norm attack everywhere, by the distances of its images.
    """
    numbers = {name: number for number, name in enumerate(name for name in names if name != WORST_CASE)}
    exact = {record["attack"]: record["distances"] for record in run.distances(norm)}
    at_zero = [] if run.clean is None or run.clean["broken"] is None else [(0.0, 100 - run.clean["broken"])]
    lines = []
    for name in names:
        at_radii = [(one["eps"], 100 - one["broken"]) for one in run.at_radius(norm, name) if one["broken"] is not None]
        style = WORST_STYLE if name == WORST_CASE else nth_style(numbers[name])
        if name in exact:
            lines.append(Holdouts(name, survival(exact[name], end), {**style, "marker": ""}, True))
        elif at_radii:
            lines.append(Holdouts(name.replace("_", " "), at_zero + at_radii, style, False))
    return [line for line in lines if line.points]


def survival(distances: Sequence[float | None], end: float) -> list[tuple[float, float]]:
    """``(eps, percent)`` of the images farther than eps, from 0 to ``end``; null distances are never reached."""
    count = len(distances)
    if not count:
        return []
    reached = sorted(distance for distance in distances if distance is not None and distance <= end)
    steps = [(distance, 100 * (count - number) / count) for number, distance in enumerate(reached, start=1)]
    return [(0.0, 100.0), *steps, (end, 100 * (count - len(reached)) / count)]


def holdout_figures(runs: Sequence[Run], norm: str) -> list[tuple[str, str]]:
    """A title and an SVG element per run that has a minimum-norm attack under ``norm``, or any image broken."""
    names = list(dict.fromkeys(name for run in runs for name in run.all_names(norm)))
    radii = sorted({one["eps"] for run in runs for one in run.records if one["norm"] == norm and one["eps"]})
    far = [max(found, default=0.0) for run in runs for one in run.distances(norm) if (found := _upper(one))]
    end = max([*radii, *far], default=0.0)
    shown = [run for run in runs if run.distances(norm) or any(one["broken"] for one in run.of_norm(norm))]
    return [(run.label, _draw(holdout_lines(run, norm, names, end), run, norm, radii, end)) for run in shown if end > 0]


def _upper(record: dict[str, Any]) -> list[float]:
    """The median and the quartiles where they are finite: so far the figure should reach."""
    return [value for value in (record["median_distance"], *record["quantiles"].values()) if value is not None]


def _draw(lines: Sequence[Holdouts], run: Run, norm: str, radii: Sequence[float], end: float) -> str:
    scale = 255 if norm == "Linf" else 1

    def paint(axes: Sequence[Any]) -> None:
        (axis,) = axes
        for line in lines:
            places, percents = zip(*line.points, strict=True)
            drawstyle = "steps-post" if line.exact else "default"
            axis.plot([scale * eps for eps in places], percents, drawstyle=drawstyle, clip_on=False, **line.style)
        axis.set_ylabel(LABEL)
        axis.set_ylim(0, 102)
        radius_axis(axis, radii, norm, end)

    title = f"{run.label}: share of images not broken within eps, {norm}"
    return sketch(paint, [line.label for line in lines], title, panels=1)


def format_distance(distance: float | None, norm: str | None) -> str:
    """``0.83/255`` under Linf and image units elsewhere; an infinity sign for a distance that was not reached."""
    if distance is None:
        return "\N{INFINITY}"
    return f"{255 * distance:.3g}/255" if norm == "Linf" else f"{distance:.4g}"


def median_cell(record: dict[str, Any]) -> tuple[str, str]:
    """The median distance of a record and its interval, as text; no interval where none could be computed."""
    norm, median, bounds = record["norm"], record["median_distance"], record["ci"].get("median_distance")
    text = "not found" if median is None else format_distance(median, norm)
    if bounds is None:
        return text, ""
    low, high = (format_distance(bound, norm) for bound in bounds)
    return text, f"{low if bounds[1] is None else low.removesuffix('/255')}\N{EN DASH}{high}"


def median_8bit(record: dict[str, Any]) -> str:
    """The median distance after rounding to 8 bits; a dash where that was not measured."""
    if "median_distance_8bit" not in record:
        return "-"
    median = record["median_distance_8bit"]
    return "lost" if median is None else format_distance(median, record["norm"])
