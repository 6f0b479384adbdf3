"""What a reader should know first of a run, in words: what survives at which radius, and what it cost to find out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from segrobust.analysis.summary import Record
from segrobust.analysis.worst_case import WORST_CASE
from segrobust.core.rows import ATTACK, CLEAN, UNIVERSAL
from segrobust.core.units import format_eps
from segrobust.report.lines import mean_lines, searches
from segrobust.report.runs import Run
from segrobust.report.texts import count, duration, format_distance, median_cell, with_norm, with_radius

IN_WORDS = {
    "Linf": "every channel of every pixel may change by at most eps, with images in [0, 1]",
    "L2": "the Euclidean length of the whole change is at most eps, with images in [0, 1]",
    "L1": "the absolute changes of all channels and pixels sum to at most eps, with images in [0, 1]",
}


class Said(NamedTuple):
    """A sentence: what was measured and, where it has scores, the record that holds them."""

    text: str
    record: Record | None = None


def verdict(run: Run) -> list[Said]:
    """The clean score, the worst case at the largest radius of each norm, and what else the run measured."""
    said = [Said(f"On {count(run.clean['images'])} clean images, with 95 % intervals", run.clean)] if run.clean else []
    controls = {condition.name for condition in run.conditions if condition.control}
    for norm in run.norms:
        if worst := run.at_radius(norm, WORST_CASE):
            attacks = [name for name in run.attack_names(norm) if name not in {WORST_CASE, *controls}]
            under = " and ".join(attacks) if len(attacks) < 3 else f"the worst of {len(attacks)} attacks on each image"
            said.append(Said(f"Within {norm} {format_eps(worst[-1]['eps'], norm)}, under {under}", worst[-1]))
    said += [Said(_median(record)) for norm in run.searched for record in run.distances(norm)]
    for title, record in mean_lines(run.records)[-1:]:
        said.append(Said(f"Under common corruptions, mean over {count(record['types'])} types, {title}", record))
    universal = [r for r in run.of_study(UNIVERSAL) if r["mIoU"] is not None and r["name"] not in controls]
    if universal:
        lowest = min(universal, key=lambda record: record["mIoU"])
        said.append(Said(f"Under one change for all images, {with_radius(lowest)}", lowest))
    return said


def _median(record: Record) -> str:
    name, median = with_norm(record["name"], record["norm"]), record["median_distance"]
    if median is None:
        return f"{name} does not break half of the images"
    bounds = median_cell(record)[1]
    interval = f" (95 % interval {bounds})" if bounds else ""
    return f"{name} breaks half of the images within {format_distance(median, record['norm'])}{interval}"


def threat_models(runs: Sequence[Run]) -> list[str]:
    """What the attacker may do, a sentence per norm, and what the attacker knows."""
    norms = dict.fromkeys(norm for run in runs for norm in [*run.norms, *run.searched])
    said = [f"{norm}: {IN_WORDS[norm]}." for norm in norms if norm in IN_WORDS]
    if said and not any(record["surrogate"] for run in runs for record in run.of_study(ATTACK)):
        said.append("The attacker knows the model, its weights and the labels.")
    return said


def cost(run: Run) -> str:
    """``23,232 passes over 16 images (11,800 forward, 11,432 backward), 0.4 hours on cpu``; empty without any.

    Every search counts once, whatever the number of its radii; seconds are a sum over processes.
    """
    counted = searches(run.records)
    forwards, backwards = (
        sum(round(record[name] * (record["images"] or 0)) for record in counted if record[name] is not None)
        for name in ("forwards", "backwards")
    )
    if not forwards + backwards:
        return ""
    seconds = sum(record["seconds"] for record in counted if record["seconds"] is not None)
    images = max(record["images"] or 0 for record in counted if record["study"] == CLEAN or not run.clean)
    time = f", {duration(seconds)}" if seconds else ""
    device = f" on {run.facts['device']}" if seconds and "device" in run.facts else ""
    split = f"{forwards:,} forward, {backwards:,} backward"
    return f"{forwards + backwards:,} passes over {count(images)} images ({split}){time}{device}"
