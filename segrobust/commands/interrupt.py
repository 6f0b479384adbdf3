"""Ctrl-C ends a command with one line, from one of its processes, and no traceback from any."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

STATUS = 130
_RANKS = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK")  # what torchrun, srun and mpirun tell each process


class Interrupts:
    """Turns the first SIGINT into KeyboardInterrupt and remembers it: others' errors may come of it.

    A launcher passes Ctrl-C on and stops its processes once more, in the middle of their last words: there, further
    ones are ignored (torchrun kills after 30 s). A process on its own ends at once on the second.
    """

    def __enter__(self) -> Interrupts:
        self.came = False
        self.rank = next((int(os.environ[name]) for name in _RANKS if name in os.environ), None)
        self.before = signal.getsignal(signal.SIGINT)
        if self.before is signal.default_int_handler and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._first)
        return self

    def _first(self, number: int, frame: Any) -> None:
        self.came = True
        signal.signal(signal.SIGINT, signal.SIG_DFL if self.rank is None else signal.SIG_IGN)
        raise KeyboardInterrupt

    def __exit__(self, *_: object) -> None:
        if signal.getsignal(signal.SIGINT) == self._first:
            signal.signal(signal.SIGINT, self.before)

    def tell(self, advice: str) -> int:
        """Print the one line, on the first process; the exit status."""
        if not self.rank:
            print(f"segrobust: interrupted; {advice}", file=sys.stderr)
        return STATUS
