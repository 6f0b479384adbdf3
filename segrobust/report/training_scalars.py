"""The numbers of a training as mmengine left them: a folder per start with ``vis_data/scalars.json``, JSON lines.

A training that was resumed has several starts. They are put together in the order of iterations: what a later start
logged replaces what an earlier one had logged from there on, which was lost with the process. Where it went on from,
its log tells; without that, its first line counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from segrobust.core.files import clear_io_errors
from segrobust.report.training_config import config_of
from segrobust.report.training_text import opening

SCALARS = "vis_data/scalars.json"
LARGEST = 1e39  # above all finite numbers of float32: what is beyond is damaged, and sums of it overflow


class Line(NamedTuple):
    """What was logged after an iteration; ``step`` is the epoch where validations are logged by epoch."""

    iteration: int
    validation: bool
    values: dict[str, float]
    step: int


@dataclass(frozen=True)
class Start:
    """One start of a training. lines: those that no later start replaced.

    damaged: lines that cannot be read, beside a last one that a kill cut off. until: the iteration from which on a
    later start replaces it.
    """

    folder: Path
    lines: list[Line]
    damaged: int = 0
    until: float = math.inf


def starts_of(folder: Path) -> list[Start]:
    """The starts of a training that logged numbers, in order; UserError: a file that cannot be read."""
    starts: list[Start] = []
    until = math.inf
    read = {path: _read(path) for path in sorted(folder.glob(f"*/{SCALARS}"), reverse=True)}
    trained = {path for path, (lines, _, resumed) in read.items() if _trained(lines, resumed)}
    for path, (lines, damaged, resumed) in read.items():
        if not lines or (trained and path not in trained):  # which validated a checkpoint, and replaced nothing
            continue
        starts.append(Start(path.parents[1], [line for line in lines if line.iteration < until], damaged, until))
        until = min(until, lines[0].iteration, math.inf if resumed is None else resumed + 1)
    return starts[::-1]


def _trained(lines: Sequence[Line], resumed: int | None) -> bool:
    """Whether a start did more than validate; one that was killed early may have logged a validation alone."""
    logged = any(not line.validation for line in lines)
    return logged or (resumed is not None and any(line.iteration > resumed for line in lines))


def joined(starts: Sequence[Start]) -> list[Line]:
    """All that was logged, by iteration."""
    return [line for start in starts for line in start.lines]


def _read(path: Path) -> tuple[list[Line], int, int | None]:
    """Lines, how many are damaged, and the iterations that were done before, where they are told."""
    with clear_io_errors(f"read {path}", "check the permissions of the training's folder"):
        texts = path.read_text(encoding="utf-8", errors="replace").split("\n")
    resumed, epoch = opening(path.parents[1], config_of(path.parents[2], path.parents[1]))
    lines: list[Line] = []
    damaged, trained = 0, 0
    for text in texts[:-1]:
        line = _line(text, trained, epoch)
        if line is None:
            damaged += bool(text.strip())
        else:
            trained = line.iteration
            lines.append(line)
    return lines, damaged, resumed


def _line(text: str, trained: int, epoch: int | None) -> Line | None:
    """A line of the file, after so many iterations that were logged, with so many in an epoch.

    A validation that is logged by epoch belongs to the epoch's last iteration, which may not have been logged; where
    an epoch's length is not told, to the last one logged.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not _is_count(found.get("step")):
        return None
    values = {name: value for name, value in found.items() if _is_number(value) and name not in ("step", "iter")}
    validation, step = "lr" not in values and "loss" not in values, found["step"]
    iteration = max(step, trained)
    if validation and step < trained and epoch and trained <= step * epoch < trained + epoch:
        iteration = step * epoch
    return Line(iteration, validation, values, step)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _is_number(value: Any) -> bool:
    if type(value) is float:
        return not LARGEST <= abs(value) < math.inf
    return type(value) is int and abs(value) < 2**53
