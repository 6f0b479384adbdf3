"""Conditions and rows: what was done to an image before the model answered, and what was counted afterwards.

condition = Condition("attack", "TsallisPGD", norm="Linf", eps=4 / 255, fields={"steps": 100})
row = Row(image=3, condition=condition, counts={"classes": [0], "tp": [9], "fp": [1], "fn": [1]}, extra={})

A row holds integers wherever a number can be counted. Every metric, interval, worst case and table is computed from
rows and conditions, without a GPU and without torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from segrobust.core.errors import UserError
from segrobust.core.units import FOUND_SHARE, format_eps

CLEAN, ATTACK, CORRUPTION, UNIVERSAL = "clean", "attack", "corruption", "universal"  # names of studies
INPUT, ORIGINAL = METRIC_SIZES = ("input", "original")  # pixels are counted as attacked, or as files have them
SIZE_BOUNDS = 32**2, 96**2  # pixels of a small and of a medium component at most, as in COCO
_TYPES = {
    "study": str, "name": str, "norm": str, "eps": (int, float), "severity": int, "surrogate": str, "candidate": str,
    "control": bool, "fields": dict,
}  # fmt: skip
_ROW = {"image": int, "condition": str, "counts": dict, "extra": dict}
_DESCRIBED = tuple(name for name in _TYPES if name != "fields")
_INFINITE = ("distance", "distance_8bit")


@dataclass(frozen=True, eq=False)
class Condition:
    """One cell of a result table; two are equal where everything but their names is.

    study: ``"clean"``, ``"attack"``, ``"corruption"``, ``"universal"``, ...
    name: the attack's or corruption's, as tables show it.
    norm, eps: threat model and radius in image units; no ``eps``: the result of a minimum-norm attack.
    severity: of a corruption, 1 to 5.
    surrogate: the model that was attacked in place of the measured one.
    candidate: not the study's answer but another image of the same call, kept under this name for the worst case.
    control: does not try to break anything, such as noise.
    fields: all other settings that decide the rows, as JSON values.
    """

    study: str
    name: str
    norm: str | None = None
    eps: float | None = None
    severity: int | None = None
    surrogate: str | None = None
    candidate: str = ""
    control: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def id(self) -> str:
        """A short word and a digest: the key of this condition in rows."""
        decides = [getattr(self, name) for name in _DESCRIBED if name != "name"] + [dict(self.fields)]
        try:
            digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
        except TypeError as error:
            raise UserError(f"{self.title}: a condition holds what JSON can: {error}") from error
        return f"{self.study}-{digest[:12]}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Condition) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def order(self) -> tuple:
        """Sorts by study (clean first), name, norm, radius (none first) and severity; leaves candidates to the rows."""
        eps, severity = (-1.0 if number is None else number for number in (self.eps, self.severity))
        return self.study != CLEAN, self.study, self.name, self.norm or "", eps, severity

    @property
    def title(self) -> str:
        """``TsallisPGD 4/255``, ``fog severity 3``."""
        radius = "" if self.eps is None else f" {format_eps(self.eps, self.norm)}"
        return f"{self.name}{radius}" + (f" severity {self.severity}" if self.severity else "")

    @property
    def folder(self) -> str:
        """The title as the name of the folder that its attacked images are kept in."""
        return self.title.translate(str.maketrans("/ :", "-_-"))

    def description(self) -> dict[str, Any]:
        """As a JSON object; what is not set is left out."""
        values = {name: getattr(self, name) for name in _DESCRIBED}
        given = {name: value for name, value in values.items() if value or type(value) is float}  # a radius may be 0
        return {"id": self.id, **given, **({"fields": dict(self.fields)} if self.fields else {})}

    @classmethod
    def from_description(cls, content: Mapping[str, Any], path: Path) -> Condition:
        """What :meth:`description` made; UserError names the file ``path`` where it was not."""
        known = {name: content[name] for name in _TYPES if name in content}
        if not isinstance(known.get("study"), str) or not isinstance(known.get("name"), str):
            raise UserError(f"{path}: a condition without study or name; start anew with --fresh")
        for name, value in known.items():
            if not isinstance(value, _TYPES[name]) or (name == "eps" and not math.isfinite(value)):
                raise UserError(f"{path}: a condition with {name} {value!r}; start anew with --fresh")
        condition = cls(**known)
        if content.get("id") != condition.id:
            raise UserError(f"{path}: the condition {condition.title} was edited; start anew with --fresh")
        return condition


@dataclass(frozen=True)
class Row:
    """The result of one image under one condition.

    image: its place in the run's list of images.
    counts: of the task; of segmentation ``classes`` (ids with any count) and their ``tp``, ``fp`` and ``fn``.
    extra: what the study adds:
        forwards, backwards: passes spent on the image. Rows of one call (a minimum-norm search and its radii, an
            ensemble and its candidates) carry those of the whole call.
        distance: norm of the change, in image units; inf (null in the file) where nothing was found.
        found: of a minimum-norm result, the attack's own verified answer; elsewhere it follows from the counts.
        distance_8bit: of a minimum-norm result, after rounding to 8 bits, inf where that loses the goal.
        error_of_correct: of a minimum-norm result, share reached of the pixels that were not at the goal before.
        regions: ``[[right, counted], ...]`` pixels per region of the image that the study tells apart.
        sizes: of clean and attacked images, ``[[right, counted], ...]`` pixels in labelled components of at most
            ``SIZE_BOUNDS`` pixels, and in larger ones.
        trace: of an attack by gradients, ``[[backwards, error], ...]``: share of the pixels at the goal, by the
            attack's own count, at its best points within the radius after so many passes.
        at_target, target_pixels: of a targeted run, pixels predicted as their target, of those that have a label and
            a target.
        kept, rest_pixels: where these are to keep the clean prediction, pixels without a target that do, of those that
            have a label.
    """

    image: int
    condition: Condition
    counts: Mapping[str, list[int]]
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, int]:
        """What no two rows of a run share."""
        return self.condition.id, self.image

    @property
    def order(self) -> tuple:
        """Sorts by condition, image and candidate (the study's answer first)."""
        return (*self.condition.order, self.image, self.condition.candidate)

    @property
    def found(self) -> bool:
        """Whether the attack reached its goal, on at least 99 % of the pixels that count."""
        if "found" in self.extra:
            return self.extra["found"]
        reached, judged = self.goal_counts
        return judged > 0 and reached >= FOUND_SHARE * judged

    @property
    def goal_counts(self) -> tuple[int, int]:
        """Pixels at the goal (wrong or, in a targeted run, at their target), and pixels that count."""
        if "target_pixels" in self.extra:
            return self.extra["at_target"], self.extra["target_pixels"]
        return sum(self.counts["fn"]), sum(self.counts["fn"]) + sum(self.counts["tp"])


def encode(row: Row) -> dict[str, Any]:
    """The row as a JSON object, ``{image, condition, counts, extra}``."""
    # JSON has no infinity: a distance at which nothing was found adversarial is written as null.
    extra = {name: None if name in _INFINITE and math.isinf(value) else value for name, value in row.extra.items()}
    return {"image": row.image, "condition": row.condition.id, "counts": dict(row.counts), "extra": extra}


def decode(record: Mapping[str, Any], conditions: Mapping[str, Condition], images: int, path: Path) -> Row:
    """The row that :func:`encode` made, in a run of so many images; UserError names the file ``path`` where something
    is missing or of another run."""
    if missing := [name for name, kind in _ROW.items() if not isinstance(record.get(name), kind)]:
        raise UserError(f"{path}: a row without {', '.join(missing)}; start anew with --fresh")
    condition = conditions.get(record["condition"])
    if condition is None:
        raise UserError(f"{path}: a row of an unknown condition {record['condition']!r}; start anew with --fresh")
    if not 0 <= record["image"] < images:
        raise UserError(f"{path}: a row of image {record['image']} in a run of {images}; start anew with --fresh")
    if len({len(counts) for counts in record["counts"].values()}) > 1:
        raise UserError(f"{path}: image {record['image']} has counts of different lengths; start anew with --fresh")
    extra = {
        name: math.inf if name in _INFINITE and value is None else value for name, value in record["extra"].items()
    }
    return Row(record["image"], condition, record["counts"], extra)


def check_complete(rows: Iterable[Row], conditions: Iterable[Condition], images: int, folder: Path) -> None:
    """Refuse rows that lack one of the conditions on any of the images; UserError: how many, and the first."""
    found = {row.key for row in rows}
    wanted = [(condition, image) for condition in conditions for image in range(images)]
    missing = [(condition, image) for condition, image in wanted if (condition.id, image) not in found]
    if missing:
        condition, image = missing[0]
        raise UserError(
            f"{folder}: {len(missing)} of {len(wanted)} rows are missing, the first that of image {image} under "
            f"{condition.title}; do all processes write to the same folder? run the command again to compute them"
        )
