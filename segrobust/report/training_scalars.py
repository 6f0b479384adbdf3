"""The numbers of a training as mmengine left them: a folder per start with ``vis_data/scalars.json``, JSON lines.

A training that was resumed has several starts. They are put together in the order of iterations: what a later start
logged replaces what an earlier one had logged from there on, which was lost with the process.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from segrobust.core.files import clear_io_errors

SCALARS = "vis_data/scalars.json"


class Line(NamedTuple):
    """What was logged after an iteration; ``step`` is the epoch where validations are logged by epoch."""

    iteration: int
    validation: bool
    values: dict[str, float]
    step: int


@dataclass(frozen=True)
class Start:
    """One start of a training. damaged: lines that cannot be read, beside a last one that a kill cut off.

    until: the iteration from which on a later start replaces it.
    """

    folder: Path
    lines: list[Line]
    damaged: int = 0
    until: float = math.inf


def starts_of(folder: Path) -> list[Start]:
    """The starts of a training that something is left of, in order; UserError: a file that cannot be read."""
    starts: list[Start] = []
    for path in sorted(folder.glob(f"*/{SCALARS}"), reverse=True):
        lines, damaged = _read(path)
        until = starts[-1].lines[0].iteration if starts else math.inf
        if lines := [line for line in lines if line.iteration < until]:
            starts.append(Start(path.parents[1], lines, damaged, until))
    return starts[::-1]


def joined(starts: Sequence[Start]) -> list[Line]:
    """All that was logged, by iteration."""
    return [line for start in starts for line in start.lines]


def _read(path: Path) -> tuple[list[Line], int]:
    with clear_io_errors(f"read {path}", "check the permissions of the training's folder"):
        texts = path.read_text(encoding="utf-8", errors="replace").split("\n")
    lines: list[Line] = []
    damaged, trained = 0, 0
    for text in texts[:-1]:
        line = _line(text, trained)
        if line is None:
            damaged += bool(text.strip())
        else:
            trained = line.iteration
            lines.append(line)
    return lines, damaged


def _line(text: str, trained: int) -> Line | None:
    """A line of the file; a validation that is logged by epoch belongs to the last iteration logged before it."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not _is_count(found.get("step")):
        return None
    values = {name: value for name, value in found.items() if _is_number(value) and name not in ("step", "iter")}
    validation = "lr" not in values and "loss" not in values
    return Line(max(found["step"], trained), validation, values, found["step"])


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 2**53)
