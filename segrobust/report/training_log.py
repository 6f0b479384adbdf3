"""What only the text log of a training tells: when it ran, what robust validations took, and its warnings."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from segrobust.report.runs import shorten_paths
from segrobust.report.training_scalars import Start
from segrobust.report.training_text import iteration_of, log_lines

_TOOK = re.compile(r"validation under .{1,200} took (\d+(?:\.\d+)?) s$")
_ENDS = ("training diverged", "training stopped")
_EVENTS = ("catastrophic overfitting", "robust overfitting", *_ENDS)
_ITERATION = re.compile(r"in iteration (\d{1,15})\b")
_SKIPPED = re.compile(r"robust validation skipped after (\d{1,15}) iterations")


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
        _add(log, start)
    return log


def _add(log: Log, start: Start) -> None:
    first = last = None
    reached = 0
    until = start.until if start.lines else 0
    for time, text in log_lines(start.folder):
        first, last = first or time, time
        reached = iteration_of(text) or reached
        if took := _TOOK.match(text):
            log.validating += float(took[1])
        if skipped := _SKIPPED.match(text):
            log.skipped += int(skipped[1]) < until
        if text.startswith(_EVENTS):
            found = _ITERATION.search(text)
            # a start that a later one went on from did not end the training
            if (int(found[1]) if found else reached) < until and not (text.startswith(_ENDS) and until < math.inf):
                log.events.append((int(found[1]) if found else None, shorten_paths(text)))
    if first is not None:
        log.seconds = (log.seconds or 0.0) + (last - first).total_seconds()
