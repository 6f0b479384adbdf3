"""A row: the result of one image under one attack at one radius, in integers wherever a number can be counted."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict

from segrobust.core.errors import UserError

Key = tuple[str, str, float, int, str]


class _Required(TypedDict):
    image: int
    name: str
    attack: str
    norm: str | None
    eps: float | None
    height: int
    width: int
    classes: list[int]
    tp: list[int]
    fp: list[int]
    fn: list[int]
    distance: float
    found: bool
    forwards: int
    backwards: int


class Row(_Required, total=False):
    """The result of one image under one attack at one radius; class ids without any count are left out.

    The clean images and the result of a minimum-norm attack have no radius (``eps`` None). A minimum-norm attack's
    rows at radii come from the same search and carry its whole passes and seconds. Optional fields:

    candidate: not the attack's answer but another attacked image of the same call, kept under this name for the worst
        case; with the whole call's passes and seconds too.
    distance_8bit: minimum-norm result: its distance after rounding to 8 bits, inf (null in the file) where rounding
        loses the goal; no field where that was not measured.
    error_of_correct: minimum-norm result: share reached of the pixels that were not at the goal before the attack.
    at_target, target_pixels: every row of a targeted run: pixels predicted as their target, of those that have a
        label and a target.
    """

    candidate: str
    distance_8bit: float
    error_of_correct: float
    at_target: int
    target_pixels: int


_INFINITE = ("distance", "distance_8bit")


def row_key(row: Row | dict[str, Any]) -> Key:
    """What a row is about, in the order in which rows are sorted: attack, norm, radius (none first), image, candidate
    (the attack's answer first)."""
    eps = row["eps"]
    return row["attack"], row.get("norm") or "", -1.0 if eps is None else eps, row["image"], row.get("candidate", "")


def encode(row: Row) -> dict[str, Any]:
    """The row as a JSON object."""
    # JSON has no infinity: a distance at which nothing was found adversarial is written as null.
    return {field: None if field in _INFINITE and math.isinf(value) else value for field, value in row.items()}


def decode(record: dict[str, Any], path: Path) -> Row:
    """The row that ``encode`` made; UserError names the file ``path`` where a field is missing."""
    if missing := [field for field in _Required.__annotations__ if field not in record]:
        raise UserError(f"{path}: a row without {', '.join(missing)}; start anew with --fresh")
    if len({len(record[field]) for field in ("classes", "tp", "fp", "fn")}) != 1:
        raise UserError(f"{path}: image {record['image']} has counts of different lengths; start anew with --fresh")
    for field in _INFINITE:
        if field in record and record[field] is None:
            record[field] = math.inf
    return record  # type: ignore[return-value]


def title(key: Key) -> str:
    """``image 3 under CEPGD at eps 0.1``."""
    attack, _, eps, image, candidate = key
    at = f" at eps {eps:.6g}" if eps >= 0 else ""
    return f"image {image} under {attack}{at}" + (f", candidate {candidate!r}" if candidate else "")


def check_complete(rows: Iterable[Row], wanted: Iterable[Key], folder: Path) -> None:
    """Refuse rows that are not exactly the ``wanted`` ones.

    Raises:
        UserError: how many are missing or were never asked for, and the first of them.
    """
    found, wanted = {row_key(row) for row in rows}, set(wanted)
    if missing := sorted(wanted - found):
        raise UserError(
            f"{folder}: {len(missing)} of {len(wanted)} rows are missing, the first that of {title(missing[0])}; do "
            "all processes write to the same folder? run the command again to compute them"
        )
    if unknown := sorted(found - wanted):
        raise UserError(
            f"{folder}: {len(unknown)} rows do not belong to this run, the first that of {title(unknown[0])}; "
            "start anew with --fresh"
        )
