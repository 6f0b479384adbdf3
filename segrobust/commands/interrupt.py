"""Ctrl-C ends a command with one line, from one of its processes, and no traceback from any."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

STATUS = 130
PATIENCE = 10.0  # seconds that an interrupted process of several gets to end by itself
# what torchrun, srun and mpirun tell each process: its place, and of how many; a Slurm job may have more tasks than the
# step that a shell in it is
_PLACES = (
    ("RANK", ("WORLD_SIZE",)),
    ("SLURM_PROCID", ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")),
    ("OMPI_COMM_WORLD_RANK", ("OMPI_COMM_WORLD_SIZE",)),
)


class Interrupts:
    """Turns the first SIGINT into KeyboardInterrupt and remembers it: others' errors may come of it.

    A launcher passes Ctrl-C on and stops its processes once more, in the middle of their last words: there, further
    ones are ignored. A process on its own ends at once on the second.

    Args:
        advice: how to go on, where the interrupted command itself does not say.
    """

    def __init__(self, advice: str) -> None:
        self.advice = advice
        self.came = False
        self.reported = threading.Event()
        self.rank = _rank()

    def __enter__(self) -> Interrupts:
        ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if ours and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._first)
            if self.rank is not None:
                self._watch()
        return self

    def __exit__(self, *_: object) -> None:
        if signal.getsignal(signal.SIGINT) == self._first:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if self.rank is not None:
                signal.set_wakeup_fd(-1)

    def _first(self, number: int, frame: Any) -> None:
        self.came = True
        signal.signal(signal.SIGINT, signal.SIG_DFL if self.rank is None else signal.SIG_IGN)
        raise KeyboardInterrupt

    def _watch(self) -> None:
        """See to the end of a process that waits for another, outside Python, where no KeyboardInterrupt reaches it."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

        def watch() -> None:
            while os.read(reading, 1) != bytes([signal.SIGINT]):
                pass
            if not self.reported.wait(PATIENCE):
                self.tell(self.advice)
                os._exit(STATUS)

        threading.Thread(target=watch, daemon=True).start()

    def tell(self, advice: str, error: BaseException | None = None) -> int:
        """Print the one line, unless another process of the run does; the exit status.

        ``error.reported`` says whether one does; where nobody has asked (``core.processes``), the first process tells.
        """
        self.reported.set()
        if not getattr(error, "reported", bool(self.rank)):
            print(f"segrobust: interrupted; {advice}", file=sys.stderr, flush=True)
        return STATUS


def _rank() -> int | None:
    """This process's place among several of a launcher; None for a single one, however it was started."""
    for place, sizes in _PLACES:
        rank, size = os.environ.get(place), next((os.environ[name] for name in sizes if name in os.environ), "1")
        if rank is not None and int(size) > 1:
            return int(rank)
    return None
