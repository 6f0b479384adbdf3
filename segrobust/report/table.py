"""The table at the end of an evaluation: one block per run, one line per attack, aAcc / mIoU per radius."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from segrobust.evaluation.summary import CLEAN, WORST_CASE
from segrobust.units import format_eps

_NAME_WIDTH = 19
_CELL_WIDTH = 15


def print_table(summaries: Mapping[str, Sequence[Mapping[str, Any]]], console: Console) -> None:
    """Print the records of each run (``summarise``) by its name; more radii than fit go in further tables below."""
    for name, records in summaries.items():
        clean = next((record for record in records if record["attack"] == CLEAN), None)
        title = Text(str(name), style="bold")
        if clean:
            title.append(f": clean {cell(clean)} on {clean['images']} images (aAcc / mIoU in %)", style="not bold")
        console.print(title)
        bounded = [record for record in records if record["eps"] is not None]
        for norm in {record["norm"]: None for record in bounded}:
            _print_norm([record for record in bounded if record["norm"] == norm], str(norm), console)
        _print_distances([record for record in records if "median_distance" in record], console)


def _print_norm(records: Sequence[Mapping[str, Any]], norm: str, console: Console) -> None:
    radii = sorted({record["eps"] for record in records})
    cells = {(record["attack"], record["eps"]): cell(record) for record in records}
    names = list({record["attack"]: None for record in records})
    fitting = max(1, (console.width - _NAME_WIDTH) // _CELL_WIDTH)
    for start in range(0, len(radii), fitting):
        shown = radii[start : start + fitting]
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(Text(norm), max_width=_NAME_WIDTH - 2, overflow="ellipsis", no_wrap=True)
        for eps in shown:
            table.add_column(Text(format_eps(eps)), justify="right", no_wrap=True)
        for name in names:
            label = Text(name.replace("_", " ") if name == WORST_CASE else name)
            row = [Text(cells.get((name, eps), "-")) for eps in shown]
            table.add_row(label, *row, style="bold" if name == WORST_CASE else None)
        console.print(table)


def _print_distances(records: Sequence[Mapping[str, Any]], console: Console) -> None:
    for record in records:
        distance = record["median_distance"]
        median = "not found for half of the images" if distance is None else f"median distance {format_eps(distance)}"
        console.print(Text(f"  {record['attack']} ({record['norm']}): {median}, found {record['found']:.2f} %"))


def cell(record: Mapping[str, Any]) -> str:
    """``91.50 / 53.40``: aAcc and mIoU."""
    return " / ".join("-" if record[name] is None else f"{record[name]:.2f}" for name in ("aAcc", "mIoU"))
