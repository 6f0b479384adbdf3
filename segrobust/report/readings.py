"""Clean and worst-case scores read in further ways: mIoU per image and without background, pixels by object size."""

from __future__ import annotations

from typing import NamedTuple

from segrobust.analysis.summary import Record
from segrobust.analysis.worst_case import WORST_CASE
from segrobust.core.units import format_eps
from segrobust.report.runs import Run
from segrobust.report.texts import percent

READINGS = {  # fields of records, and their columns
    "mIoU": "of the data set",
    "mIoU_images": "mean over images",
    "mIoU_without_background": "of the data set, without background",
}


class Reading(NamedTuple):
    """A table of texts: titles of its columns, and lines that begin with the condition."""

    titles: list[str]
    lines: list[list[str]]


def conditions_shown(run: Run) -> list[tuple[str, Record]]:
    """The clean images and the worst case at every radius, and what they are called."""
    worst = [record for norm in run.norms for record in run.at_radius(norm, WORST_CASE)]
    clean = [("clean", run.clean)] if run.clean else []
    return clean + [(f"worst case, {one['norm']} {format_eps(one['eps'], one['norm'])}", one) for one in worst]


def miou_readings(run: Run) -> Reading | None:
    """None where the records have no reading but that of the data set."""
    shown = conditions_shown(run)
    names = [name for name in READINGS if any(record.get(name) is not None for _, record in shown)]
    if len(names) < 2:
        return None
    lines = [[title, *(percent(record.get(name)) for name in names)] for title, record in shown]
    return Reading([READINGS[name] for name in names], lines)


def size_table(run: Run) -> Reading | None:
    """Percent of the pixels that are right, by the size of the labelled object they belong to; None without any."""
    shown = [(title, record["sizes"]) for title, record in conditions_shown(run) if record.get("sizes")]
    if not shown:
        return None
    bounds = list(dict.fromkeys(one["upto"] for _, sizes in shown for one in sizes))
    pixels = {one["upto"]: one["pixels"] for one in shown[0][1]}
    total = sum(count or 0 for count in pixels.values())
    titles = [_size_title(bound, bounds, pixels.get(bound), total) for bound in bounds]
    right = [(title, {one["upto"]: one["right"] for one in sizes}) for title, sizes in shown]
    return Reading(titles, [[title, *(percent(of.get(bound)) for bound in bounds)] for title, of in right])


def _size_title(bound: float | None, bounds: list[float | None], pixels: float | None, total: float) -> str:
    known = [one for one in bounds if one is not None]
    share = f" ({100 * pixels / total:.1f} % of the pixels)" if pixels is not None and total else ""
    side = max(known, default=0) if bound is None else bound
    return f"{'over' if bound is None else 'up to'} {side**0.5:.3g} x {side**0.5:.3g} px{share}"
