"""``segrobust benchmark``: models under studies, each an ordinary evaluation in a folder of its own, and one table.

One process starts once and goes through all cells; several spread every cell by its batches, as in an evaluation. What
is there already is taken, and what failed is told at the end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from accelerate.utils.memory import clear_device_cache
from rich.console import Console

from segrobust.analysis.worst_case import WORST_CASE
from segrobust.attacks.base import AttackContractError
from segrobust.attacks.gradient import ModelError
from segrobust.commands.benchmark_cells import Cell
from segrobust.commands.benchmark_end import finish
from segrobust.commands.benchmark_file import BenchmarkFile
from segrobust.commands.benchmark_state import FILE, BenchmarkState
from segrobust.commands.dry_run import DryRun, print_dry_runs
from segrobust.commands.evaluate import evaluate_inputs
from segrobust.commands.results import Results
from segrobust.core.agree import agree, is_of_all
from segrobust.core.errors import RunFailed, UserError
from segrobust.core.units import format_eps
from segrobust.report.table import cell as scores
from segrobust.runs.folder import RunFolder

PLAIN = {"markup": False, "highlight": False, "soft_wrap": True}


def benchmark_command(file: BenchmarkFile, cells: Sequence[Cell], work_dir: Path) -> None:
    """Go through the cells and write the table.

    Raises:
        UserError: what cannot be written or read, or more processes than devices.
        RunFailed: a cell failed, or its results are not trustworthy; the others are done.
    """
    main = int(os.environ.get("RANK", "0")) == 0
    console, state = Console(quiet=not main), BenchmarkState(file, work_dir)
    failed, doubtful = [], []
    for number, cell in enumerate(cells, start=1):
        console.print(f"cell {number} of {len(cells)}: {cell}", style="bold", **PLAIN)
        began, rows = time.monotonic(), _rows(cell)
        found = _evaluated(cell)
        error = found if isinstance(found, str) else None
        state.put(cell.model.name, cell.study.name, error)
        agree(lambda: main and state.write())
        if error is not None:
            failed.append(str(cell))
            console.print(f"failed: {error}", style="red", **PLAIN)
            continue
        taken = rows > 0 and rows == _rows(cell)
        console.print(f"{'taken' if taken else 'done'} in {time.monotonic() - began:.0f} s: {_said(found)}", **PLAIN)
        if found.trust and found.trust.failed:
            doubtful.append(str(cell))
    agree(lambda: main and finish(file, state, console))
    _tell(failed, doubtful, len(cells), work_dir)


def benchmark_dry_run(cells: Sequence[Cell]) -> None:
    """What every cell has still to do, and what all will take; nothing is written.

    Raises:
        RunFailed: a cell could not be looked at.
    """
    main = int(os.environ.get("RANK", "0")) == 0
    console, found = Console(quiet=not main), {}
    for number, cell in enumerate(cells, start=1):
        console.print(f"cell {number} of {len(cells)}: {cell}", style="bold", **PLAIN)
        found[str(cell)] = _evaluated(cell)
    print_dry_runs(found, console, int(os.environ.get("WORLD_SIZE", "1")))
    _tell([name for name, one in found.items() if isinstance(one, str)], [], len(cells), None)


def _evaluated(cell: Cell) -> Results | DryRun | str:
    """What the evaluation gives, or what it failed with in every process; another error ends them all."""
    try:
        return evaluate_inputs(cell.inputs, cell.network, cell.settings, quiet=True)
    except (UserError, ModelError, AttackContractError) as error:
        if not is_of_all(error):
            raise
        return " ".join(str(error).split())
    finally:  # the next cell has another model
        clear_device_cache(garbage_collection=True)


def _rows(cell: Cell) -> int:
    """How many rows are in the cell's folder, before or after its run; 0 where they cannot be read or are discarded."""
    folder = RunFolder(cell.inputs.work_dir)
    try:
        return 0 if cell.settings.fresh or not folder.has_results() else len(folder.rows())
    except UserError:  # the evaluation says what is wrong
        return 0


def _said(found: Results) -> str:
    """Clean scores, those of the worst case at the largest radius, and the trust level."""
    clean = next((f"clean {scores(one)}" for one in found if one["study"] == "clean"), "")
    worst = max((one for one in found if one["study"] == WORST_CASE), key=lambda one: one["eps"], default=None)
    least = worst and f"worst case {format_eps(worst['eps'], worst['norm'])} {scores(worst)}"
    trust = f"trust: {found.trust.level}" if found.trust else "not checked"
    return ", ".join(filter(None, (clean, least, trust)))


def _tell(failed: Sequence[str], doubtful: Sequence[str], cells: int, work_dir: Path | None) -> None:
    """RunFailed with what is to be looked at, where there is something."""
    reasons = []
    if failed:
        where = f" and in {work_dir / FILE}" if work_dir else ""
        reasons.append(
            f"{len(failed)} of {cells} cells failed: {', '.join(failed)}; the reasons are above{where}; run the same "
            "command again to try them again"
        )
    if doubtful:
        reasons.append(f"results that are not trustworthy: {', '.join(doubtful)}; see report.html in their folders")
    if reasons:
        raise RunFailed("; ".join(reasons))
