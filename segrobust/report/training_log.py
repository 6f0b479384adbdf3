"""What only the text log of a training tells: when it ran, what robust validations took, and its warnings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from segrobust.core.files import clear_io_errors
from segrobust.report.runs import shorten_paths
from segrobust.report.training_scalars import Start

_LINE = re.compile(r"(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) - \S+ - \w+ - (.*)")
_TOOK = re.compile(r"validation under .{1,200} took (\d+(?:\.\d+)?) s$")
_EVENTS = ("catastrophic overfitting", "robust overfitting", "training diverged", "training stopped")
_ITERATION = re.compile(r"in iteration (\d{1,15})\b")
_SKIPPED = "robust validation skipped"


@dataclass
class Log:
    """seconds: from the first to the last line of each start, and of its robust validations; None: there is no log.

    events: iteration, if known, and text of what the guards told. skipped: robust validations left out for their time.
    """

    seconds: float | None = None
    validating: float = 0.0
    events: list[tuple[int | None, str]] = field(default_factory=list)
    skipped: int = 0


def read_log(starts: Sequence[Start]) -> Log:
    """The logs of all starts together; what a later start replaced is not told, but its time was spent."""
    log = Log()
    for start in starts:
        path = start.folder / f"{start.folder.name}.log"
        if path.is_file():
            _add(log, path, start.until)
    return log


def _add(log: Log, path: Path, until: float) -> None:
    first = last = None
    for time, text in _lines(path):
        first, last = first or time, time
        if took := _TOOK.match(text):
            log.validating += float(took[1])
        log.skipped += text.startswith(_SKIPPED)
        if text.startswith(_EVENTS):
            found = _ITERATION.search(text)
            if not found or int(found[1]) < until:
                log.events.append((int(found[1]) if found else None, shorten_paths(text)))
    if first is not None:
        log.seconds = (log.seconds or 0.0) + (last - first).total_seconds()


def _lines(path: Path) -> Iterator[tuple[datetime, str]]:
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
