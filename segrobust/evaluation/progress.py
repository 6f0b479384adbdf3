"""Progress of long work: a bar with images/s and remaining time on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

EVERY = 20.0  # seconds between two lines where there is no terminal


class ImageProgress:
    """Counts images; resumed ones are ``done`` from the start and do not enter the speed."""

    def __init__(self, total: int, done: int = 0, show: bool = True) -> None:
        self.total, self.done, self._resumed = total, done, done
        self._show = show and total > done
        self._console = Console(stderr=True)
        self._started = self._last_line = time.monotonic()
        self._bar = None
        if self._show and self._console.is_terminal:
            columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
            self._bar = Progress(*columns, TimeRemainingColumn(), console=self._console)
            self._task = self._bar.add_task("", total=total, completed=done, speed="")

    def __enter__(self) -> ImageProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, images: int, what: str) -> None:
        """``images`` more are done; ``what`` names the attack and radius at work."""
        self.done += images
        if not self._show:
            return
        now = time.monotonic()
        speed = (self.done - self._resumed) / max(now - self._started, 1e-9)
        text = f"{speed:.2f} images/s"
        if self._bar:
            self._bar.update(self._task, completed=self.done, description=what, speed=text)
        elif now - self._last_line > EVERY or self.done == self.total:
            self._last_line = now
            left = timedelta(seconds=round((self.total - self.done) / max(speed, 1e-9)))
            print(f"{what}: {self.done}/{self.total} images, {text}, {left} left", file=sys.stderr, flush=True)
