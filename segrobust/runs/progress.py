"""Progress of long work: a bar with images/s and remaining time on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

EVERY = 20.0  # seconds between two lines where there is no terminal


class ImageProgress:
    """Counts images, and the passes they take: an attack of 300 steps weighs more than a clean image.

    Resumed images are ``done`` from the start; ``work`` is the number of passes still to do.
    """

    def __init__(self, total: int, done: int, work: int, show: bool = True) -> None:
        self._work = work
        self._worked = 0
        self.total, self.done, self._resumed = total, done, done
        self._show = show and total > done
        self._console = Console(stderr=True)
        self._started = self._last_line = time.monotonic()
        self._bar = None
        if self._show and self._console.is_terminal:
            columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task("", total=total, completed=done, speed="")

    def __enter__(self) -> ImageProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, images: int, work: int, what: str) -> None:
        """``images`` more are done with ``work`` passes; ``what`` names the attack and radius."""
        self.done += images
        self._worked += work
        if not self._show:
            return
        now = time.monotonic()
        speed = (self.done - self._resumed) / max(now - self._started, 1e-9)
        left = (self._work - self._worked) * (now - self._started) / max(self._worked, 1)
        text = f"{speed:.2f} images/s, {timedelta(seconds=round(left))} left"
        if self._bar:
            self._bar.update(self._task, completed=self.done, description=what, speed=text)
        elif now - self._last_line > EVERY or self.done == self.total:
            self._last_line = now
            print(f"{what}: {self.done}/{self.total} images, {text}", file=sys.stderr, flush=True)
