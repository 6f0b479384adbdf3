"""The records of ``summary.json``, checked: numbers where numbers belong, and nothing that is not shown."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from segrobust.analysis.summary import Record
from segrobust.core.errors import UserError

_NUMBERS = ("eps", "severity", "images", "aAcc", "mAcc", "mIoU", "forwards", "backwards", "seconds", "broken")
_READINGS = ("mIoU_greedy", "mIoU_per_image", "mIoU_gap")
_COST = ("images_per_second", "peak_bytes")
_DISTANCES = ("median_distance", "found", "apsr", "apsr_correct", "median_distance_8bit", "found_8bit")
_OPTIONAL = (*_DISTANCES, *_READINGS, *_COST, "types")
_REGION = ("within", "right", "pixels")


def checked_records(content: Any, path: Path) -> list[Record]:
    """The records in the content of the run folder ``path``; UserError: what is no number, and where."""
    if not isinstance(content, list) or not content:
        raise UserError(f"{path}/summary.json: expected a list of records, as segrobust writes it")
    return [_record(record, f"{path}/summary.json, record {i}") for i, record in enumerate(content, start=1)]


def _record(record: Any, where: str) -> Record:
    named = isinstance(record, dict) and all(isinstance(record.get(name), str) for name in ("study", "name"))
    if not named:
        raise UserError(f"{where}: expected the name of a study and of what it did")
    checked: Record = {"study": record["study"], "name": record["name"]}
    checked |= {name: None if (text := record.get(name)) is None else str(text) for name in ("norm", "surrogate")}
    for name in (*_NUMBERS, *(key for key in _OPTIONAL if key in record)):
        checked[name] = _number(record.get(name), f"{where}, {name}")
    iou = record.get("iou") or []
    intervals = record.get("ci") or {}
    if not isinstance(iou, list) or not isinstance(intervals, dict):
        raise UserError(f"{where}: expected iou as a list and ci as a table")
    checked["iou"] = [_number(value, f"{where}, iou") for value in iou]
    names = ("aAcc", "mAcc", "mIoU", *(["mIoU_greedy"] if "mIoU_greedy" in checked else []))
    checked["ci"] = {name: _interval(intervals.get(name), f"{where}, ci") for name in names}
    parts = {"median_distance": _distances, "degradation": _degradation, "regions": _regions}
    for name, part in parts.items():
        checked |= part(record, where) if name in record else {}
    return checked


def _distances(record: Record, where: str) -> Record:
    """What only the result of a minimum-norm attack has; its interval may be open, a distance null."""
    distances, quantiles = record.get("distances") or [], record.get("quantiles") or {}
    if not isinstance(distances, list) or not isinstance(quantiles, dict):
        raise UserError(f"{where}: expected distances as a list and quantiles as a table")
    intervals = record.get("ci") or {}
    names = ("aAcc", "mAcc", "mIoU", "median_distance")
    return {
        "distances": [_number(value, f"{where}, distances") for value in distances],
        "quantiles": {str(name): _number(value, f"{where}, quantiles") for name, value in quantiles.items()},
        "ci": {name: _interval(intervals.get(name), f"{where}, ci", name == names[-1]) for name in names},
    }


def _degradation(record: Record, where: str) -> Record:
    lost = record["degradation"]
    if not isinstance(lost, dict) or not all(isinstance(lost.get(unit), dict) for unit in ("points", "relative")):
        raise UserError(f"{where}: expected degradation in points and relative")
    return {
        "degradation": {
            unit: {name: _number(lost[unit].get(name), f"{where}, degradation") for name in ("aAcc", "mIoU")}
            for unit in ("points", "relative")
        }
    }


def _regions(record: Record, where: str) -> Record:
    if not isinstance(record["regions"], list) or not all(isinstance(region, dict) for region in record["regions"]):
        raise UserError(f"{where}: expected regions as a list of tables")
    return {
        "regions": [
            {name: _number(region.get(name), f"{where}, regions") for name in _REGION} for region in record["regions"]
        ]
    }


def _interval(value: Any, where: str, may_be_open: bool = False) -> tuple[float, float] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or (None in value and not may_be_open):
        raise UserError(f"{where}: expected a lower and an upper bound, got {value!r}")
    return _number(value[0], where), _number(value[1], where)


def _number(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UserError(f"{where}: expected a number, got {value!r}")
    return value
