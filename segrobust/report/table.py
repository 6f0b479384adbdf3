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

_RADII_BESIDE = 5
_GAP = 2


def print_table(summaries: Mapping[str, Sequence[Mapping[str, Any]]], console: Console) -> None:
    """Print the records of each run (``summarise``) by its name; more radii than fit go in further tables below."""
    for number, (name, records) in enumerate(summaries.items()):
        clean = next((record for record in records if record["attack"] == CLEAN), None)
        title = Text("\n" * bool(number) + str(name), style="bold")
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
    width = max(map(len, [*cells.values(), *(format_eps(eps, norm) for eps in radii)])) + _GAP
    longest = max(map(len, [*names, norm])) + _GAP
    name_width = max(14, min(longest, console.width - width * min(_RADII_BESIDE, len(radii))))
    fitting = max(1, (console.width - name_width) // width)
    for start in range(0, len(radii), fitting):
        shown = radii[start : start + fitting]
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
        table.add_column(Text(norm), max_width=name_width - _GAP, overflow="ellipsis", no_wrap=True)
        for eps in shown:
            table.add_column(Text(format_eps(eps, norm)), justify="right", no_wrap=True)
        for name in names:
            label = Text(name.replace("_", " ") if name == WORST_CASE else name)
            row = [Text(cells.get((name, eps), "-")) for eps in shown]
            table.add_row(label, *row, style="bold" if name == WORST_CASE else None)
        console.print(table)


def _print_distances(records: Sequence[Mapping[str, Any]], console: Console) -> None:
    for record in records:
        distance, norm = record["median_distance"], record["norm"]
        median = "not found for half of the images"
        if distance is not None:
            median = f"median distance {format_eps(distance, norm)}"
        console.print(Text(f"  {record['attack']} ({norm}): {median}, found {record['found']:.2f} %"))


def cell(record: Mapping[str, Any]) -> str:
    """``91.50 / 53.40``: aAcc and mIoU."""
    return " / ".join("-" if record[name] is None else f"{record[name]:.2f}" for name in ("aAcc", "mIoU"))
