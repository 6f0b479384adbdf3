"""Progress of long work: a bar with remaining time on a terminal, a line at once and then now and then elsewhere."""

from __future__ import annotations

import sys
import time
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

EVERY = 20.0  # seconds between two lines where there is no terminal


class ImageProgress:
    """Names what is running now with its images, and tells the time left by passes: an attack of 300 steps weighs more
    than a clean image.

    work: passes to do in all. unit: what is counted. every: seconds between two lines where there is no terminal.
    """

    def __init__(self, work: int, show: bool = True, unit: str = "images", every: float = EVERY) -> None:
        self._work, self._worked, self._unit, self._every = work, 0, unit, every
        self._what, self._total, self._done, self._resumed = "", 0, 0, 0
        self._show = show and work > 0
        self._console = Console(stderr=True)
        self._started = self._began = self._last_line = time.monotonic()
        self._bar = None
        if self._show and self._console.is_terminal:
            columns = ("{task.description}", BarColumn(), TextColumn("{task.fields[counted]}"))
            above = sys.stdout.isatty()  # what is printed goes above the bar; in a file it stays where it belongs
            self._bar = Progress(*columns, console=self._console, redirect_stdout=above)
            self._task = self._bar.add_task("", total=work, counted="")

    def __enter__(self) -> ImageProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """``what`` is running from now on, on ``total`` images of which some were ``done`` before; told at once."""
        self._what, self._total, self._done, self._resumed = what, total, done, done
        self._began = time.monotonic()
        self._tell(True)

    def running(self, what: str) -> None:
        """Another name for what is running now."""
        self._what = what
        self._tell(self._is_time())

    def advance(self, count: int, work: int) -> None:
        """So many more are done, with ``work`` passes."""
        self._done += count
        self._worked += work
        self._tell(self._is_time() or self._worked == self._work)

    def _is_time(self) -> bool:
        return time.monotonic() - self._last_line > self._every

    def _tell(self, in_a_line: bool) -> None:
        if not self._show:
            return
        if self._bar:
            self._bar.update(self._task, completed=self._worked, description=self._what, counted=self._counted())
        elif in_a_line:
            self._last_line = time.monotonic()
            print(f"{self._what}: {self._counted()}", file=sys.stderr, flush=True)

    def _counted(self) -> str:
        now, counted = time.monotonic(), f"{self._done}/{self._total} {self._unit}"
        if not self._worked:
            return counted
        if self._done > self._resumed:
            counted += f", {self._rate(self._done - self._resumed, now - self._began)}"
        left = (self._work - self._worked) * (now - self._started) / self._worked
        return f"{counted}, {timedelta(seconds=round(left))} left"

    def _rate(self, done: int, seconds: float) -> str:
        return f"{done / max(seconds, 1e-9):.2f} {self._unit}/s"


class IterationProgress(ImageProgress):
    """The same of a training, where every iteration is as much work, and takes seconds.

    left: iterations to do.
    """

    def __init__(self, left: int, show: bool = True) -> None:
        super().__init__(left, show, "iterations", every=60.0)

    def iterated(self, course: str) -> None:
        """One more is done; ``course`` is what there is to say of the training now."""
        self._what = course
        self.advance(1, 1)

    def _rate(self, done: int, seconds: float) -> str:
        return f"{seconds / done:.2f} s/it"
