"""Differences between runs over the same images: far narrower intervals than those of each run alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from segrobust.analysis.metrics import finite
from segrobust.analysis.statistics import paired_difference
from segrobust.analysis.summary import per_image_accuracy
from segrobust.analysis.worst_case import WORST_CASE, lowest_accuracy
from segrobust.core.errors import UserError
from segrobust.core.rows import CLEAN, Row
from segrobust.report.runs import Run, shorten_paths

SHOWN = 5


@dataclass(frozen=True)
class Difference:
    """``norm`` and ``eps`` of a worst case (None: the clean images), ``scores`` as ``paired_difference`` gives them."""

    norm: str | None
    eps: float | None
    scores: dict[str, list[float | None]]


class ImageChange(NamedTuple):
    """aAcc of one image in both runs."""

    name: str
    first: float
    second: float


@dataclass(frozen=True)
class Pair:
    """``second`` minus ``first``, or ``reason``: why there is no such difference.

    changes: the images that gain and lose most aAcc, largest gain first, in the last of the differences.
    """

    first: str
    second: str
    differences: tuple[Difference, ...] = ()
    reason: str = ""
    changes: tuple[ImageChange, ...] = ()


def paired_runs(runs: Sequence[Run]) -> list[Pair]:
    """Every two of the runs, the later one minus the earlier one: clean, and the worst case at common radii.

    Raises:
        UserError: damaged rows.
    """
    return [_pair(*two) for two in itertools.combinations(runs, 2)]


def _pair(first: Run, second: Run) -> Pair:
    labels, classes = (first.label, second.label), first.num_classes
    if reason := _unpaired(first, second):
        return Pair(*labels, reason=reason)
    in_first = places(first.images, second.images)
    rows = first.rows, [replace(row, image=in_first[row.image]) for row in second.rows]
    radii = [{(r["norm"], r["eps"]) for r in run.of_study(WORST_CASE)} for run in (first, second)]
    differences = []
    for norm, eps in [(None, None), *sorted(radii[0] & radii[1])]:
        chosen = [_chosen(of_run, classes, norm, eps) for of_run in rows]
        try:
            scores = paired_difference(*chosen, classes)
        except UserError as error:
            return Pair(*labels, reason=str(error).removeprefix("not paired: "))
        differences.append(Difference(norm, eps, {name: [*map(finite, values)] for name, values in scores.items()}))
    return Pair(*labels, tuple(differences), changes=_changes([name for name, _ in first.images], *chosen))


def _changes(names: Sequence[str], first: Sequence[Row], second: Sequence[Row]) -> tuple[ImageChange, ...]:
    """Of the images with a label, at most ``SHOWN`` that gain and ``SHOWN`` that lose."""
    scores = [dict(zip((row.image for row in rows), per_image_accuracy(rows), strict=True)) for rows in (first, second)]
    changes = [ImageChange(shorten_paths(names[n]), float(old), float(scores[1][n])) for n, old in scores[0].items()]
    moved = [one for one in changes if one.second != one.first and math.isfinite(one.second - one.first)]
    moved.sort(key=lambda one: one.first - one.second)
    gains = [one for one in moved if one.second > one.first][:SHOWN]
    return tuple(gains + [one for one in moved if one.second < one.first][-SHOWN:])


def _unpaired(first: Run, second: Run) -> str:
    """Why two runs have no common images, as far as that shows without comparing their rows."""
    for run in (first, second):
        if not any(row.condition.study == CLEAN for row in run.rows):
            return f"no rows in the folder of {run.label}"
    if first.facts.get("data_recipe") != second.facts.get("data_recipe"):
        return "data that are loaded in another way"
    if sorted(first.images) != sorted(second.images):
        return f"{len(first.images)} and {len(second.images)} images that are not the same ones"
    return "" if first.num_classes == second.num_classes else "another number of classes"


def places(first: Sequence[tuple[str, str]], second: Sequence[tuple[str, str]]) -> list[int]:
    """For each image of the second list its place in the first, by name and digest; the same images in both."""
    sorted_places = (sorted(range(len(images)), key=images.__getitem__) for images in (second, first))
    return [place for _, place in sorted(zip(*sorted_places, strict=True))]


def _chosen(rows: list[Row], num_classes: int, norm: str | None, eps: float | None) -> list[Row]:
    if eps is None:
        return [row for row in rows if row.condition.study == CLEAN]
    return lowest_accuracy(rows, num_classes, norm, eps)


def as_data(pairs: Sequence[Pair], label: str) -> dict[str, Any]:
    """What the run ``label`` has more than earlier ones, as JSON values."""
    mine = [pair for pair in pairs if pair.second == label and not pair.reason]
    paired = [{"minus": pair.first, "differences": [asdict(one) for one in pair.differences]} for pair in mine]
    return {"paired": paired} if paired else {}


def bounds(values: Sequence[float | None]) -> str:
    """``-0.4 to +2.9``; empty where there is no interval."""
    return "" if None in values[1:] else f"{values[1]:+.1f} to {values[2]:+.1f}"
