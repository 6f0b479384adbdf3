"""The columns of exported tables: name, unit and meaning stand once, for files, documentation and tests alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from segrobust.analysis.metrics import dense_counts, finite, pooled
from segrobust.analysis.summary import Record, per_image_accuracy
from segrobust.core.rows import SIZE_BOUNDS, Row
from segrobust.core.units import format_eps
from segrobust.report.runs import Run
from segrobust.report.texts import count, format_distance, percent, shown_name

PERCENT, UNITS, PIXELS, PASSES = "%", "image units", "pixels", "per image"
SIZES = ("small", "medium", "large")

Value = Any  # a text, a number or None


@dataclass(frozen=True)
class Column:
    """One column, in the order of a file.

    value: from a run and a record or row of it; None where there is none.
    title: in tables for papers, which leave out a column without one.
    text: a value there, from it and the norm.
    better: 1 where more is better for the model, -1 where less is, 0 where neither.
    """

    name: str
    unit: str
    meaning: str
    value: Callable[[Run, Any], Value]
    title: str = ""
    text: Callable[[Value, str | None], str] = lambda value, norm: str(value)
    better: int = 0


def _percent(value: float, norm: str | None) -> str:
    return percent(value)


def _count(value: float, norm: str | None) -> str:
    return count(value)


def _distance(value: float, norm: str | None) -> str:
    return format_distance(None if math.isinf(value) else value, norm)


def _fact(name: str, meaning: str, *facts: str, title: str = "") -> Column:
    return Column(name, "", meaning, lambda run, _: next((run.facts[f] for f in facts if f in run.facts), None), title)


def _field(name: str, unit: str, meaning: str, **more: Any) -> Column:
    return Column(name, unit, meaning, lambda _, record: record.get(name), **more)


def _bound(name: str, unit: str, end: int) -> Column:
    what = f"{('lower', 'upper')[end]} end of the 95 % interval of `{name}` over images"
    return Column(f"{name}_{('low', 'high')[end]}", unit, what, lambda _, record: _end(record, name, end))


def _end(record: Record, name: str, end: int) -> Value:
    bounds = (record.get("ci") or {}).get(name)
    if bounds is None:
        return None
    return math.inf if bounds[end] is None else bounds[end]


def _score(name: str, meaning: str, title: str = "") -> list[Column]:
    score = _field(name, PERCENT, meaning, title=title, text=_percent, better=1 if title else 0)
    return [score, *(_bound(name, PERCENT, end) for end in (0, 1))]


def _far(name: str, meaning: str, of: Callable[[Record], Value] | None = None, **more: Any) -> Column:
    """A distance of a minimum-norm attack: inf where a record has it as null."""

    def value(run: Run, record: Record) -> Value:
        found = of(record) if of else record.get(name)
        return math.inf if found is None and ("quantiles" if of else name) in record else found

    return Column(name, UNITS, meaning, value, text=_distance, **more)


def _right(place: int) -> Column:
    of = (*(f"of at most {bound} pixels" for bound in SIZE_BOUNDS), f"of more than {SIZE_BOUNDS[-1]} pixels")[place]
    if 0 < place < len(SIZE_BOUNDS):
        of = f"of more than {SIZE_BOUNDS[place - 1]} and at most {SIZE_BOUNDS[place]} pixels"
    what = f"pixels that are right, of those in labelled components {of}"
    return Column(f"right_{SIZES[place]}", PERCENT, what, lambda _, record: _of_size(record, place))


def _of_size(record: Record, place: int) -> Value:
    sizes = record.get("sizes")
    return sizes[place]["right"] if sizes else None


def _lost(name: str) -> Column:
    what = f"corruptions: clean `{name}` minus `{name}`"
    return Column(f"{name}_lost", "points", what, lambda _, r: (r.get("degradation") or {}).get("points", {}).get(name))


_EPS = {"title": "radius", "text": lambda value, norm: format_eps(value, norm)}
DESCRIBED = (
    _field("study", "", "what was done to the images: clean, attack, corruption, universal, or the worst_case of all"),
    _field("name", "", "the attack or corruption", title="attack", text=lambda value, _: shown_name(value)),
    _field("norm", "", "norm of the threat model: Linf, L2 or L1", title="norm"),
    _field("eps", UNITS, "radius; images are in [0, 1], so that 4/255 is 0.0157; none: no bound", **_EPS),
    _field("severity", "", "of a corruption, 1 to 5; none: the mean over all", title="severity"),
    _field("surrogate", "", "the model that was attacked in place of this one", title="attacked"),
)
RECORDS = (
    Column("run", "", "folder of the run, as short as tells it from the others", lambda run, _: run.label, "run"),
    _fact("model", "the model", "model"),
    _fact("checkpoint_sha256", "digest of its file of weights or, without one, of the weights", "checkpoint_sha256",
          "weights_sha256"),
    _fact("data", "the data set's type or name", "dataset", title="data"),
    _fact("protocol", "how images and labels were prepared, where that has a name", "protocol", title="protocol"),
    _fact("measured_at", "the size at which pixels are compared", "measured_at"),
    _fact("target", "what targeted attacks are to make of the pixels", "target.spec"),
    _fact("data_fingerprint", "digest of all images: equal where two runs measured the same ones", "data_fingerprint"),
    *DESCRIBED,
    _field("images", "", "how many were measured", text=_count),
    *_score("aAcc", "pixels that are right, of all labelled ones", "aAcc"),
    *_score("mAcc", "the same per class, mean over the classes with ground truth"),
    *_score("mIoU", "intersection over union from the pooled counts, mean over the classes with ground truth", "mIoU"),
    *_score("mIoU_greedy", "worst cases and ensembles: the lowest pooled mIoU that a search over all attacked images "
            "of each image found", "greedy mIoU"),
    _field("mIoU_per_image", PERCENT, "the same, pooled over each image at its own lowest mIoU"),
    _field("mIoU_gap", "points", "`mIoU` minus `mIoU_greedy`"),
    _field("mIoU_images", PERCENT, "mean over images of their own mIoU, of each over the classes in its labels"),
    _field("mIoU_without_background", PERCENT, "`mIoU` without the class called background, where there is one"),
    *(_right(place) for place in range(len(SIZES))),
    _field("broken", PERCENT, "images on which some radius up to this one put 99 % of the pixels at the goal",
           title="broken", text=_percent, better=-1),
    _far("median_distance", "minimum-norm attacks: median norm of the change over images, inf where an image "
         "is not broken", title="median distance", better=1),
    *(_bound("median_distance", UNITS, end) for end in (0, 1)),
    *(_far(f"distance_{share}", f"{share} % of the images are broken by less",
           lambda record, share=share: (record.get("quantiles") or {}).get(share)) for share in ("25", "75")),
    _far("median_distance_8bit", "`median_distance` after rounding to 8 bits, inf where that loses the goal"),
    _field("found", PERCENT, "images that a minimum-norm attack broke", title="found", text=_percent, better=-1),
    _field("found_8bit", PERCENT, "the same after rounding to 8 bits"),
    _field("apsr", PERCENT, "pixels at the goal: at their target or, of minimum-norm attacks, wrong", title="at goal",
           text=_percent, better=-1),
    _field("apsr_correct", PERCENT, "the same of the pixels that were not at the goal before, mean over images"),
    _field("kept", PERCENT, "targeted: pixels without a target that keep the clean prediction"),
    _field("judged", "", "targeted: images with a pixel that has a target"),
    _lost("aAcc"),
    _lost("mIoU"),
    _field("types", "", "corruptions: how many types this is the mean of"),
    _field("forwards", PASSES, "forward passes, mean over images", text=_count),
    _field("backwards", PASSES, "backward passes, mean over images", text=_count),
    _field("seconds", "s", "sum over all images and processes"),
    _field("images_per_second", "1/s", "of one process"),
    _field("peak_bytes", "bytes", "most GPU memory of any batch; none on a CPU"),
    Column("trust", "", "what the trust checks found", lambda run, _: run.trust.level if run.trust else None),
)  # fmt: skip


def _of_condition(column: Column) -> Column:
    return Column(column.name, column.unit, column.meaning, lambda _, row: getattr(row.condition, column.name))


def _extra(name: str, unit: str, meaning: str) -> Column:
    return Column(name, unit, meaning, lambda _, row: row.extra.get(name))


def _size(place: int, part: int) -> Column:
    name = f"{('right', 'pixels')[part]}_{SIZES[place]}"
    what = ("right pixels", "labelled pixels")[part] + f" in {SIZES[place]} labelled components"
    return Column(name, PIXELS, what, lambda _, row: row.extra["sizes"][place][part] if "sizes" in row.extra else None)


def _own_miou(run: Run, row: Row) -> Value:
    classes = max([len(run.class_names), *(one + 1 for one in row.counts["classes"])])
    return finite(float(pooled(*(field[0] for field in dense_counts([row], classes))).mIoU))


IMAGES = (
    RECORDS[0],
    Column("image", "", "its place in the run", lambda _, row: row.image),
    Column("file", "", "its name in the data", lambda run, row: run.images[row.image][0]),
    *map(_of_condition, DESCRIBED),
    Column("candidate", "", "not the attack's answer but another image that it returned, under this name; empty: the "
           "answer", lambda _, row: row.condition.candidate or None),
    Column("control", "", "1 where nothing tries to break the image, such as noise; else 0",
           lambda _, row: int(row.condition.control)),
    Column("aAcc", PERCENT, "pixels that are right, of the labelled ones; empty without any",
           lambda _, row: finite(float(per_image_accuracy([row])[0]))),
    Column("mIoU", PERCENT, "of this image alone, over the classes in its labels", _own_miou),
    Column("right", PIXELS, "labelled pixels that are right", lambda _, row: sum(row.counts["tp"])),
    Column("pixels", PIXELS, "labelled pixels", lambda _, row: sum(row.counts["tp"]) + sum(row.counts["fn"])),
    *(_size(place, part) for place in range(len(SIZES)) for part in (0, 1)),
    Column("found", "", "1 where at least 99 % of the pixels that count are at the goal, or a minimum-norm attack says "
           "that it reached its own; else 0", lambda _, row: int(row.found)),
    _extra("distance", UNITS, "norm of the change; inf where nothing was found"),
    _extra("distance_8bit", UNITS, "minimum-norm attacks: after rounding to 8 bits, inf where that loses the goal"),
    _extra("error_of_correct", "share", "minimum-norm attacks: at the goal, of the pixels that were not before"),
    _extra("at_target", PIXELS, "targeted: at their target"),
    _extra("target_pixels", PIXELS, "targeted: with a label and a target"),
    _extra("kept", PIXELS, "targeted: without a target and as the clean prediction"),
    _extra("rest_pixels", PIXELS, "targeted: with a label and without a target"),
    _extra("forwards", PASSES, "forward passes of the whole call"),
    _extra("backwards", PASSES, "backward passes of the whole call"),
)  # fmt: skip


def described(columns: Sequence[Column]) -> str:
    """The columns as a Markdown table, for the documentation."""
    lines = ["| column | unit | meaning |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| `{one.name}` | {one.unit} | {one.meaning} |" for one in columns)]) + "\n"
