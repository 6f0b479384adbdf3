"""``--dry-run``: what an evaluation has still to do and what it will cost, without a row and without a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from accelerate.utils import broadcast_object_list
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from segrobust.checks.context import Context, chosen_batches
from segrobust.checks.cost import passes_of_checks
from segrobust.checks.runner import checked_before
from segrobust.commands.pictures import GRID
from segrobust.runs.estimate import Estimate, Part, seconds_on
from segrobust.runs.executor import Executor
from segrobust.runs.settings import Settings
from segrobust.studies.attack import AttackStudy

PICTURES, SHOWN = 3, 2  # and of each, predictions before and after
PROCESSES = (1, 2, 4, 8)
GIB = 2**30


@dataclass(frozen=True)
class DryRun:
    """What a run has still to do.

    parts: its studies, the trust checks and the pictures. batch_size, device: with which it was timed.
    """

    parts: tuple[Part, ...]
    batch_size: int
    device: str

    @property
    def passes(self) -> int:
        """Forwards and backwards of single images."""
        return sum(part.passes for part in self.parts)

    @property
    def seconds(self) -> float:
        """On one process."""
        return seconds_on(self.parts, 1)

    @property
    def peak_bytes(self) -> int | None:
        """Of one process."""
        return max((part.peak_bytes for part in self.parts if part.peak_bytes is not None), default=None)

    def on(self, processes: int) -> float:
        """Seconds on so many processes, each with a device as fast as the one that was timed."""
        return seconds_on(self.parts, processes)

    def table(self) -> list[dict[str, Any]]:
        """One row per part."""
        columns = ("name", "images", "passes", "seconds", "peak_bytes")
        return [{name: getattr(part, name) for name in columns} for part in self.parts]


def dry_run(executor: Executor, settings: Settings, facts: dict[str, Any]) -> DryRun:
    """Time a few passes of every study on this process; the main one's numbers, on all of them.

    Args:
        executor: on a folder as the run would find it.
        facts: what the checks know besides, see :class:`segrobust.checks.context.Context`.
    """
    estimate = Estimate(executor)
    parts = [*estimate.parts(), *_afterwards(estimate, settings, facts)]
    found = DryRun(tuple(parts), executor.batch_size, str(executor.bench.device))
    return broadcast_object_list([found])[0]


def _afterwards(estimate: Estimate, settings: Settings, facts: dict[str, Any]) -> list[Part]:
    """Checks and pictures, which the main process makes alone, mostly of single images."""
    executor, todo = estimate.executor, {}
    attacks = [one for one in executor.studies if isinstance(one, AttackStudy) and not one.attack.control]
    attacks = [one for one in attacks if not one.attack.minimum_norm] or attacks
    longest = max(attacks or executor.studies, key=estimate.passes_of)
    images = len(executor.bench.source)
    if settings.checks and (estimate.missing or not checked_before(Context(executor, **facts))):
        checked = sum(map(len, chosen_batches(executor)))
        todo["trust checks"] = checked, passes_of_checks(executor)
    if settings.pictures and attacks and (estimate.missing or not (executor.folder.path / GRID).exists()):
        each = estimate.passes_of(longest) - len(longest.conditions) + SHOWN
        todo["pictures"] = min(PICTURES, images), min(PICTURES, images) * each
    each = estimate.alone(longest) if todo else 0.0
    return [Part(name, count, passes, passes * each) for name, (count, passes) in todo.items()]


def print_dry_run(found: DryRun, console: Console, processes: int = 1) -> None:
    """A line per part, the total, and what several processes take; ``processes``: of this start."""
    if not found.parts:
        console.print("dry run: nothing is missing, everything is computed already")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("dry run")
    for title in ("images", "passes", "time", "memory"):
        table.add_column(title, justify="right", no_wrap=True)
    for part in found.parts:
        table.add_row(Text(part.name), *_cells(part.images, part.passes, part.seconds, part.peak_bytes))
    table.add_section()
    table.add_row("in all, one process", *_cells("", found.passes, found.seconds, found.peak_bytes))
    console.print(table)
    each = "" if found.peak_bytes is None else f" and {_memory(found.peak_bytes)} each"
    for count in sorted({*PROCESSES, processes} - {1}):
        yours = ", as started" if count == processes else ""
        console.print(f"{count} processes{yours}: {_time(found.on(count))}{each}", highlight=False)
    about = (
        f"passes are forwards and backwards of single images, at most; timed on {found.device} with batches of "
        f"{found.batch_size}; nothing was computed or written"
    )
    console.print(about, highlight=False, soft_wrap=True)


def print_dry_runs(found: Mapping[str, DryRun | str], console: Console, processes: int = 1) -> None:
    """A line per run by its name, or why there is none, the total, and what several processes take."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("dry run", overflow="fold")
    for title in ("passes", "time", "memory"):
        table.add_column(title, justify="right", no_wrap=True)
    known = {name: one for name, one in found.items() if isinstance(one, DryRun)}
    for name, one in known.items():
        table.add_row(Text(name), *_cells("", one.passes, one.seconds, one.peak_bytes)[1:])
    table.add_section()
    passes, peaks = sum(one.passes for one in known.values()), [one.peak_bytes or 0 for one in known.values()]
    seconds = sum(one.seconds for one in known.values())
    table.add_row("in all, one process", *_cells("", passes, seconds, max(peaks, default=0) or None)[1:])
    console.print(table)
    for name, reason in found.items():
        if isinstance(reason, str):
            console.print(f"{name}: cannot be run: {reason}", style="red", markup=False, soft_wrap=True)
    for count in sorted({*PROCESSES, processes} - {1}):
        yours = ", as started" if count == processes else ""
        console.print(
            f"{count} processes{yours}: {_time(sum(one.on(count) for one in known.values()))}", highlight=False
        )
    about = "passes are forwards and backwards of single images, at most; nothing was computed or written"
    console.print(about, highlight=False, soft_wrap=True)


def _cells(images: Any, passes: int, seconds: float, peak: int | None) -> list[str]:
    return [str(images or ""), str(passes), _time(seconds), "" if peak is None else _memory(peak)]


def _time(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _memory(count: int) -> str:
    return f"{count / GIB:.1f} GiB"
