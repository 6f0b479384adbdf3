"""Several processes of one run end together: what fails in one of them ends all, and is told once.

    with together():        # every process, around all that it does
        ...

A process that fails says so in the store at which torchrun's processes meet; in each of the others a thread looks
there, and ends a process that waits for the failed one or is busy with an attack. A single process notices nothing.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from segrobust.core.errors import FailedElsewhere, RunFailed, UserError, first_line

MEETING = timedelta(minutes=10)  # for a process that never begins; once all have begun, they wait for days
LOOK = 0.2  # seconds between two looks at the store
GRACE = 2.0  # seconds for a process to end by itself, and then to let the others know
LEAVING = 30.0  # seconds, of a busy machine, for a process that knows that all is done to say so
_PLACE = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
MPI_COUNTS = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_uses = itertools.count()
_inside = threading.local()


@contextlib.contextmanager
def together() -> Iterator[None]:
    """A context or decorator within which an error of any process ends all of them, and which they leave together.

    Nested ones add nothing. The process whose error came first raises it. The others raise their own, marked as
    ``reported``, where they have one within ``GRACE`` seconds, or :class:`FailedElsewhere` in place of a broken
    connection; where neither comes they are ended, with the same exit status.

    Raises:
        UserError: a launcher started fewer processes than it was asked for, or not all of them came.
        RunFailed: another process ended without a word.
    """
    if getattr(_inside, "member", None):
        yield
        return
    refuse_missing_processes()
    if not all(os.environ.get(name) for name in _PLACE) or int(os.environ["WORLD_SIZE"]) < 2:
        yield
        return
    member = _inside.member = _Member()
    try:
        yield
        member.leave()
    except BaseException as error:
        with contextlib.suppress(KeyboardInterrupt):  # one more of these: this process is ending
            member.fail(error)
        raise
    finally:
        _inside.member = None
        member.left.set()


class Signal:
    """What any process of a ``together()`` can give and all of them see, such as that they may stop.

    Every process makes as many of them in the same order. Where there is no ``together()``, a process sees its own.
    """

    def __init__(self) -> None:
        self._given = False
        self._member: _Member | None = getattr(_inside, "member", None)
        self._name = f"signal-{next(self._member.signals)}" if self._member else ""

    def give(self) -> None:
        self._given = True
        if self._member:
            self._member.store.set(self._name, "given")

    def is_given(self) -> bool:
        return self._given or bool(self._member and self._member.store.check([self._name]))


def exchange(value: str) -> list[str]:
    """What every process of a ``together()`` gives here, by rank; where there is none, its own value alone.

    Every process calls it as often, in the same order; each waits for all.
    """
    member: _Member | None = getattr(_inside, "member", None)
    return member.exchange(value) if member else [value]


def refuse_missing_processes() -> None:
    """UserError where accelerate was asked for several processes and started this one alone, as it does for CPUs.

    It names a place to meet for several processes only, and to those that it does start it gives their number.
    """
    named = all(os.environ.get(name) for name in ("ACCELERATE_MIXED_PRECISION", "MASTER_ADDR", "MASTER_PORT"))
    if named and not any(os.environ.get(name) for name in ("WORLD_SIZE", *MPI_COUNTS)):
        raise UserError(
            "accelerate launch was asked for several processes and started one, as it does without GPUs; start them "
            "with torchrun --nproc_per_node N, or ask for --num_processes 1"
        )


class _Member:
    """One process's part in a ``together()``.

    In the store, which may live in the main process: ``failed``, the first error; ``seen``, how many other processes
    know of it; ``done``, how many have come to the end; ``gone``, how many of these need the store no more;
    ``signal-0`` and so on, every :class:`Signal` that was given; ``exchanged-0-1`` and so on, what process 1 gave in
    the first exchange.
    """

    def __init__(self) -> None:
        from torch.distributed import PrefixStore

        self.rank, self.world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.left, self.known = threading.Event(), threading.Event()
        self.first: dict[str, Any] = {}
        self.signals, self.exchanges = itertools.count(), itertools.count()
        self.store = PrefixStore(f"together-{next(_uses)}", _meeting_place())
        threading.Thread(target=self._watch, args=(self.store.clone(),), daemon=True, name="together").start()

    def exchange(self, value: str) -> list[str]:
        place = f"exchanged-{next(self.exchanges)}"
        self.store.set(f"{place}-{self.rank}", value)
        names = [f"{place}-{rank}" for rank in range(self.world)]
        self._wait(lambda: self.store.check(names))
        return [self.store.get(name).decode() for name in names]

    def leave(self) -> None:
        """Wait until all processes have come to the end, or raise what one of them failed with."""
        self.store.add("done", 1)
        self._wait(lambda: self._count("done") == self.world or self.known.is_set())
        if self.known.is_set():
            raise _elsewhere(self.first)
        self.left.set()
        self.store.add("gone", 1)
        if self.rank == 0:
            self._wait(lambda: self._count("gone") == self.world, LEAVING)

    def fail(self, error: BaseException) -> None:
        """Tell the others of an error, if it is the first one; else mark it as reported, or replace it."""
        symptom = _is_symptom(error)
        if symptom:
            self.known.wait(GRACE)
        try:
            other = self._other(error)
        except RuntimeError as lost:
            self.left.set()
            if symptom:
                raise RunFailed(_LOST.format("the main")) from lost
            return
        error.reported = bool(other)
        if other:
            self.known.wait(GRACE)
        self.left.set()
        self._outlast(self.store)
        if other:
            time.sleep(2 * LOOK)  # a launcher ends all when one ends: not before the first one has told its error
            if symptom:
                raise _elsewhere(other) from error
        elif symptom and "by peer" in str(error):
            raise RunFailed(_LOST.format("another")) from error

    def _other(self, error: BaseException) -> dict[str, Any] | None:
        """What another process failed with before; None where this is the first error of all."""
        if self.known.is_set():
            return self.first
        mine = json.dumps({"rank": self.rank, "status": _status(error), "text": str(error)})
        first = json.loads(self.store.compare_set("failed", "", mine))
        return first if first["rank"] != self.rank else None

    def _watch(self, store: Any) -> None:
        try:
            while not self.left.wait(LOOK):
                if store.check(["failed"]):
                    self._end(store)
                    return
        except RuntimeError:
            if not self.left.wait(GRACE):
                os.write(2, f"segrobust: {_LOST.format('the main')}\n".encode())
                os._exit(1)

    def _end(self, store: Any) -> None:
        self.first = json.loads(store.get("failed"))
        if self.first["rank"] != self.rank:
            store.add("seen", 1)
            self.known.set()
            if not self.left.wait(GRACE):
                self._outlast(store)
                os._exit(self.first["status"])

    def _outlast(self, store: Any) -> None:
        """The store may live in the main process: it stays until the others know."""
        if self.rank == 0:
            with contextlib.suppress(RuntimeError):
                self._wait(lambda: int(store.add("seen", 0)) >= self.world - 1, 2 * GRACE)

    def _count(self, name: str) -> int:
        return int(self.store.add(name, 0))

    def _wait(self, until: Callable[[], bool], seconds: float = float("inf")) -> None:
        end = time.monotonic() + seconds
        while not until() and time.monotonic() < end:
            time.sleep(LOOK / 4)


_LOST = "{} process of this run ended without a word; what it stored is kept: run the command again to go on"


@functools.cache
def _meeting_place() -> Any:
    """torch's store for the processes of this launch, one connection for all uses.

    Raises:
        UserError: not all processes came.
    """
    from torch.distributed import PrefixStore, rendezvous

    try:
        store, *_ = next(rendezvous("env://", timeout=MEETING))
    except (ValueError, RuntimeError) as error:
        count = os.environ["WORLD_SIZE"]
        raise UserError(f"the {count} processes of this run did not meet: {first_line(error)}") from error
    return PrefixStore(f"segrobust-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _is_symptom(error: BaseException) -> bool:
    """Whether it may only say that another process went away: what torch raises then has no class of its own."""
    from torch.distributed import DistError

    return type(error) is RuntimeError or isinstance(error, DistError | FailedElsewhere)


def _elsewhere(failed: dict[str, Any]) -> FailedElsewhere:
    return FailedElsewhere(f"process {failed['rank']} failed: {failed['text']}", failed["status"])


def _status(error: BaseException) -> int:
    """The exit status of a process that ends with this error."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    return 2 if isinstance(error, UserError) else 130 if isinstance(error, KeyboardInterrupt) else 1
