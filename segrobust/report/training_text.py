"""The text log of a start, line by line, and how far the training was where it began."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from segrobust.core.files import clear_io_errors
from segrobust.report.training_config import TrainingConfig

_LINE = re.compile(r"(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) - \S+ - \w+ - (.*)")
_RESUMED = re.compile(r"resumed epoch: \d{1,15}, iter: (\d{1,15})$")
_BY_ITERATION = re.compile(r"Iter\(train\) +\[ *(\d{1,15})/(\d{1,15})\]")
_BY_EPOCH = re.compile(r"Epoch\(train\) +\[ *(\d{1,15})\]\[ *(\d{1,15})/(\d{1,15})\]")


class Opening(NamedTuple):
    """What a log says up to its first line of numbers; None: it does not.

    resumed: iterations that were done before. epoch: iterations of one.
    """

    resumed: int | None = None
    epoch: int | None = None


def log_lines(start: Path) -> Iterator[tuple[datetime, str]]:
    """When each message of a start was logged, and its first line; none where there is no log."""
    path = start / f"{start.name}.log"
    if not path.is_file():
        return
    with (
        clear_io_errors(f"read {path}", "check the permissions of the training's folder"),
        path.open(encoding="utf-8", errors="replace") as file,
    ):
        for line in file:
            if found := _LINE.match(line):
                try:
                    time = datetime.strptime(found[1], "%Y/%m/%d %H:%M:%S")
                except ValueError:
                    continue
                yield time, found[2]


def opening(start: Path, config: TrainingConfig) -> Opening:
    """Where a start began. config: its own; it says how many epochs there are where iterations are logged alone."""
    resumed = None
    for _, text in log_lines(start):
        if found := _RESUMED.match(text):
            resumed = int(found[1])
        elif found := _BY_EPOCH.match(text):
            return Opening(resumed or 0, int(found[3]))
        elif found := _BY_ITERATION.match(text):
            epochs = config.at("train_cfg", "max_epochs")
            whole = type(epochs) is int and epochs > 0 and int(found[2]) % epochs == 0
            return Opening(resumed or 0, int(found[2]) // epochs if whole else None)
    return Opening(resumed)


def iteration_of(text: str) -> int | None:
    """The iteration after which a line of numbers was logged; None: it is another line."""
    if found := _BY_ITERATION.match(text):
        return int(found[1])
    if found := _BY_EPOCH.match(text):
        return (int(found[1]) - 1) * int(found[3]) + int(found[2])
    return None
