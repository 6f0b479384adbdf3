"""The tables at the end of an evaluation, per run: aAcc / mIoU by attack and radius, distances, cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from segrobust.analysis.summary import CLEAN, WORST_CASE
from segrobust.core.units import format_eps
from segrobust.report.cost import CostLine, cost_lines
from segrobust.report.distances import median_8bit, median_cell
from segrobust.report.trust import Trust

_RADII_BESIDE = 5
_GAP = 2


def print_table(
    summaries: Mapping[str, Sequence[Mapping[str, Any]]],
    console: Console,
    trust: Mapping[str, Trust | None] | None = None,
) -> None:
    """Print the records of each run (``summarise``) by its name; more radii than fit go in further tables below.

    Args:
        trust: by the same names; stands above the numbers, None for a run without checks.
    """
    for number, (name, records) in enumerate(summaries.items()):
        clean = next((record for record in records if record["attack"] == CLEAN), None)
        title = Text("\n" * bool(number) + str(name), style="bold")
        if clean:
            parts = "aAcc / mIoU / at target" if "apsr" in clean else "aAcc / mIoU"
            title.append(f": clean {cell(clean)} on {clean['images']} images ({parts} in %)", style="not bold")
        console.print(title)
        if trust is not None and name in trust:
            said = trust[name].sentence if trust[name] else "unknown, no checks were made"
            console.print(Text(f"trust: {said}", style="bold"))
        bounded = [record for record in records if record["eps"] is not None]
        for norm in {record["norm"]: None for record in bounded}:
            _print_norm([record for record in bounded if record["norm"] == norm], str(norm), console)
        _print_distances([record for record in records if "median_distance" in record], console)
        _print_costs(cost_lines(records), console)


def _print_norm(records: Sequence[Mapping[str, Any]], norm: str, console: Console) -> None:
    radii = sorted({record["eps"] for record in records})
    cells = {(record["attack"], record["eps"]): cell(record) for record in records}
    worst = [record for record in records if record["attack"] == WORST_CASE]
    greedy = {record["eps"]: _percent(record["mIoU_greedy"]) for record in worst if record.get("mIoU_gap")}
    names = list({record["attack"]: None for record in records})
    width = max(map(len, [*cells.values(), *(format_eps(eps, norm) for eps in radii)])) + _GAP
    longest = max(map(len, [*names, norm])) + _GAP
    name_width = max(14, min(longest, console.width - width * min(_RADII_BESIDE, len(radii))))
    fitting = max(1, (console.width - name_width) // width)
    for start in range(0, len(radii), fitting):
        shown = radii[start : start + fitting]
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
        whole = any("@" in name for name in names)  # an ellipsis must not hide that an attack saw another model
        overflow = "fold" if whole else "ellipsis"
        table.add_column(Text(norm), max_width=name_width - _GAP, overflow=overflow, no_wrap=not whole)
        for eps in shown:
            table.add_column(Text(format_eps(eps, norm)), justify="right", no_wrap=True)
        for name in names:
            label = Text(name.replace("_", " ") if name == WORST_CASE else name)
            row = [Text(cells.get((name, eps), "-")) for eps in shown]
            table.add_row(label, *row, style="bold" if name == WORST_CASE else None)
        if any(eps in greedy for eps in shown):
            row = [Text(greedy.get(eps, "")) for eps in shown]
            table.add_row(Text("greedy mIoU"), *row, style="bold")
        console.print(table)


def _print_distances(records: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Minimum-norm results: median with 95 % interval over images, failures counting as infinitely far."""
    if not records:
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
    titles = ("minimum norm", "median", "95 %", "found %", "apsr %", "of correct", "8 bits")
    for number, title in enumerate(titles):
        table.add_column(Text(title), justify="right" if number else "left", overflow="fold")
    for record in records:
        shares = [_percent(record.get(name)) for name in ("found", "apsr", "apsr_correct")]
        cells = (f"{record['attack']} ({record['norm']})", *median_cell(record), *shares, median_8bit(record))
        table.add_row(*(Text(text) for text in cells))
    console.print(table)


def _print_costs(lines: Sequence[CostLine], console: Console) -> None:
    """Passes per image, and what was measured; no memory where none was."""
    if not lines:
        return
    memory = any(line.memory != "-" for line in lines)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
    for number, title in enumerate(("cost", "forward + backward", "images/s", *(["peak memory"] if memory else []))):
        table.add_column(Text(title), justify="right" if number else "left", overflow="fold")
    for line in lines:
        name = f"{line.attack} ({line.norm})" if line.norm else line.attack
        cells = (name, line.passes, line.rate, *([line.memory] if memory else []))
        table.add_row(*(Text(text) for text in cells))
    console.print(table)


def cell(record: Mapping[str, Any]) -> str:
    """``91.50 / 53.40``: aAcc and mIoU; in a targeted run also the percent of pixels at their target."""
    names = ("aAcc", "mIoU", *(("apsr",) if "apsr" in record else ()))
    return " / ".join(_percent(record[name]) for name in names)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
