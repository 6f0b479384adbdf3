"""The records of ``summary.json``, checked: numbers where numbers belong, and nothing that is not shown."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from segrobust.analysis.summary import Record
from segrobust.core.errors import UserError

_TEXT, _NUMBER = "a text", "a number"
_INTERVAL, _OPEN = "a lower and an upper bound", "a lower and an upper bound or null"
_PAIR = "passes and an error"
_LOST = {"aAcc": _NUMBER, "mIoU": _NUMBER}
_ALWAYS = {
    **dict.fromkeys(("study", "name", "norm", "surrogate"), _TEXT),
    **dict.fromkeys(("eps", "severity", "images", "aAcc", "mAcc", "mIoU"), _NUMBER),
    **dict.fromkeys(("forwards", "backwards", "seconds", "broken"), _NUMBER),
    "iou": [_NUMBER],
    "ci": {**dict.fromkeys(("aAcc", "mAcc", "mIoU", "mIoU_greedy"), _INTERVAL), "median_distance": _OPEN},
}
_SOMETIMES = {
    **dict.fromkeys(("median_distance", "found", "apsr", "apsr_correct"), _NUMBER),
    **dict.fromkeys(("median_distance_8bit", "found_8bit"), _NUMBER),
    **dict.fromkeys(("judged", "kept"), _NUMBER),
    **dict.fromkeys(("mIoU_greedy", "mIoU_per_image", "mIoU_gap"), _NUMBER),
    **dict.fromkeys(("images_per_second", "peak_bytes", "types"), _NUMBER),
    **dict.fromkeys(("mIoU_images", "mIoU_without_background"), _NUMBER),
    "distances": [_NUMBER],
    "quantiles": {"25": _NUMBER, "75": _NUMBER},
    "degradation": {"points": _LOST, "relative": _LOST},
    "regions": [{"within": _NUMBER, "right": _NUMBER, "pixels": _NUMBER}],
    "sizes": [{"upto": _NUMBER, "right": _NUMBER, "pixels": _NUMBER}],
    "convergence": [_PAIR],
}


def checked_records(content: Any, path: Path) -> list[Record]:
    """The records in the content of the run folder ``path``; UserError: what is no number, and where."""
    if not isinstance(content, list) or not content:
        raise UserError(f"{path}/summary.json: expected a list of records, as segrobust writes it")
    return [_record(record, f"{path}/summary.json, record {i}") for i, record in enumerate(content, start=1)]


def _record(record: Any, where: str) -> Record:
    if not isinstance(record, dict) or not all(isinstance(record.get(name), str) for name in ("study", "name")):
        raise UserError(f"{where}: expected the name of a study and of what it did")
    kinds = _ALWAYS | {name: kind for name, kind in _SOMETIMES.items() if name in record}
    return {name: _checked(record.get(name), kind, f"{where}, {name}") for name, kind in kinds.items()}


def _checked(value: Any, kind: Any, where: str) -> Any:
    """A value of that kind, or null; of a table the known fields, null where they are missing."""
    if isinstance(kind, dict | list):
        value = type(kind)() if value is None else value
        if not isinstance(value, type(kind)):
            raise UserError(f"{where}: expected {'a table' if isinstance(kind, dict) else 'a list'}, got {value!r}")
        if isinstance(kind, list):
            return [_checked(one, kind[0], where) for one in value]
        known = [name for name in kind if name in value or name not in _SOMETIMES]
        return {name: _checked(value.get(name), kind[name], where) for name in known}
    if value is None:
        return None
    if kind == _TEXT:
        return str(value)
    if kind == _NUMBER:
        fits = type(value) in (int, float) and math.isfinite(value)
    else:
        fits = isinstance(value, list) and len(value) == 2 and (kind == _OPEN or None not in value)
    if not fits:
        raise UserError(f"{where}: expected {kind}, got {value!r}")
    return value if kind == _NUMBER else [_checked(bound, _NUMBER, where) for bound in value]
