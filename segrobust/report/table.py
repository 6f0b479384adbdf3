"""The tables at the end of an evaluation, per run: aAcc / mIoU by attack and radius, distances, cost, trust checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from segrobust.analysis.summary import Record
from segrobust.analysis.worst_case import WORST_CASE
from segrobust.checks.verdicts import FAIL, PASS, SKIPPED, WARN
from segrobust.core.rows import ATTACK, CLEAN
from segrobust.core.units import format_eps
from segrobust.report.lines import CostLine, below_clean, cost_lines, mean_lines, ring_table, universal_lines
from segrobust.report.texts import judged, median_8bit, median_cell, percent, shown_name, with_norm
from segrobust.report.trust import Trust

_TARGETED = {"apsr": "at target", "kept": "kept"}
_RADII_BESIDE = 5
_SPACE = 2
_STYLES = {PASS: "green", SKIPPED: "dim", WARN: "yellow", FAIL: "bold red"}


def print_table(
    summaries: Mapping[str, Sequence[Record]], console: Console, trust: Mapping[str, Trust | None] | None = None
) -> None:
    """Print the records of each run (``summarise``) by its name; more radii than fit go in further tables below.

    Args:
        trust: by the same names; stands above the numbers, None for a run without checks.
    """
    for number, (name, records) in enumerate(summaries.items()):
        clean = next((record for record in records if record["study"] == CLEAN), None)
        title = Text("\n" * bool(number) + str(name), style="bold")
        if clean:
            parts = " / ".join(("aAcc", "mIoU", *(title for name, title in _TARGETED.items() if name in clean)))
            title.append(
                f": clean {cell(clean)} on {clean['images']} images{judged(clean)} ({parts} in %)", style="not bold"
            )
        console.print(title)
        if trust and name in trust:
            said = trust[name].sentence if trust[name] else "unknown, no checks were made"
            console.print(Text(f"trust: {said}", style="bold"))
        bounded = [one for one in records if one["study"] in (ATTACK, WORST_CASE) and one["eps"] is not None]
        for norm in {record["norm"]: None for record in bounded}:
            _print_norm([record for record in bounded if record["norm"] == norm], str(norm), console)
        _print_distances([record for record in records if "median_distance" in record], console)
        _print_corruptions(records, console)
        _print_universal(records, console)
        _print_costs(cost_lines(records), console)


def _print_norm(records: Sequence[Record], norm: str, console: Console) -> None:
    radii = sorted({record["eps"] for record in records})
    cells = {(record["name"], record["eps"]): cell(record) for record in records}
    worst = [record for record in records if record["study"] == WORST_CASE]
    greedy = {record["eps"]: percent(record["mIoU_greedy"]) for record in worst if record.get("mIoU_gap")}
    names = list({record["name"]: None for record in records})
    width = max(map(len, [*cells.values(), *(format_eps(eps, norm) for eps in radii)])) + _SPACE
    longest = max(map(len, [*names, norm])) + _SPACE
    name_width = max(14, min(longest, console.width - width * min(_RADII_BESIDE, len(radii))))
    fitting = max(1, (console.width - name_width) // width)
    for start in range(0, len(radii), fitting):
        shown = radii[start : start + fitting]
        table = _plain_table()
        whole = any("@" in name for name in names)  # an ellipsis must not hide that an attack saw another model
        overflow = "fold" if whole else "ellipsis"
        table.add_column(Text(norm), max_width=name_width - _SPACE, overflow=overflow, no_wrap=not whole)
        for eps in shown:
            table.add_column(Text(format_eps(eps, norm)), justify="right", no_wrap=True)
        for name in names:
            label = Text(shown_name(name))
            row = [Text(cells.get((name, eps), "-")) for eps in shown]
            table.add_row(label, *row, style="bold" if name == WORST_CASE else None)
        if any(eps in greedy for eps in shown):
            row = [Text(greedy.get(eps, "")) for eps in shown]
            table.add_row(Text("greedy mIoU"), *row, style="bold")
        console.print(table)


def _print_distances(records: Sequence[Record], console: Console) -> None:
    """Minimum-norm results: median with 95 % interval over images, failures counting as infinitely far."""
    kept = any("kept" in record for record in records)
    titles = ("minimum norm", "median", "95 %", "found %", "apsr %", "of correct", *["kept %"] * kept, "8 bits")
    lines = []
    for record in records:
        shares = [percent(record.get(name)) for name in ("found", "apsr", "apsr_correct", *["kept"] * kept)]
        name = with_norm(record["name"], record["norm"])
        lines.append((name, *median_cell(record), *shares, median_8bit(record)))
    _print_lines(titles, lines, console)


def _print_corruptions(records: Sequence[Record], console: Console) -> None:
    """Means over the types at each severity, and over all."""
    titles = ("corruptions", "types", "aAcc / mIoU", "below clean", "% of clean lost")
    lines = []
    for title, record in mean_lines(records):
        below = " / ".join(below_clean(record, name) for name in ("aAcc", "mIoU"))
        relative = record.get("degradation", {}).get("relative", {})
        lost = " / ".join(percent(relative.get(name)) for name in ("aAcc", "mIoU"))
        lines.append((title, str(record["types"]), cell(record), below, lost))
    _print_lines(titles, lines, console)


def _print_universal(records: Sequence[Record], console: Console) -> None:
    """Scores under one change for all images, and of patches how much is right in each ring around them."""
    lines = universal_lines(records)
    scores = [(name, cell(record), f"{more['aAcc']} / {more['mIoU']}") for name, record, more in lines]
    _print_lines(("universal", "aAcc / mIoU", "against clean"), scores, console)
    rings, patches = ring_table(records)
    shares = [(name, *map(percent, rights)) for name, rights in patches]
    _print_lines(("% right from the patch's edge", *rings), shares, console)


def _print_costs(lines: Sequence[CostLine], console: Console) -> None:
    """Passes per image, and what was measured; no memory where none was."""
    memory = any(line.memory != "-" for line in lines)
    titles = ("cost", "forward + backward", "images/s", *(["peak memory"] if memory else []))
    cells = [(with_norm(line.name, line.norm), line.passes, line.rate, line.memory)[: len(titles)] for line in lines]
    _print_lines(titles, cells, console)


def _print_lines(titles: Sequence[str], lines: Sequence[Sequence[str]], console: Console) -> None:
    """A table of texts, the first column to the left; nothing without lines."""
    if not lines:
        return
    table = _plain_table()
    for number, title in enumerate(titles):
        table.add_column(Text(title), justify="right" if number else "left", overflow="fold")
    for line in lines:
        table.add_row(*map(Text, line))
    console.print(table)


def print_checks(trust: Trust, console: Console) -> None:
    """Every check with its evidence and, where something is wrong, what to do; several that were skipped for one reason
    stand below, by name."""
    table = _plain_table()
    for title, more in (("trust check", {}), ("verdict", {}), ("evidence", {"ratio": 1})):
        table.add_column(title, overflow="fold", **more)
    skipped: dict[str, list[str]] = {}
    for check in trust.checks:
        if check["verdict"] == SKIPPED:
            skipped.setdefault(check["evidence"], []).append(check["name"])
    for check in trust.checks:
        if len(skipped.get(check["evidence"], ())) > 1:
            continue
        style = _STYLES.get(check["verdict"], "")
        evidence = Text(check["evidence"], style="dim" if check["verdict"] == SKIPPED else "")
        if check["remedy"]:
            evidence.append(f"\n-> {check['remedy']}", style=style)
        table.add_row(Text(check["name"]), Text(check["verdict"], style=style), evidence)
    console.print(table)
    for reason, names in skipped.items():
        if len(names) > 1:
            console.print(Text(f"{reason}: {', '.join(names)}", style="dim"))
    console.print(Text(f"trust: {trust.level}: {trust.doubt or trust.counts}", style="bold"), soft_wrap=True)


def _plain_table() -> Table:
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _SPACE - 1, 0, 0))


def cell(record: Record) -> str:
    """``91.50 / 53.40``: aAcc and mIoU; in a targeted run also the percent of pixels at their target, and of the others
    that of the kept ones."""
    names = ("aAcc", "mIoU", *(name for name in _TARGETED if name in record))
    return " / ".join(percent(record[name]) for name in names)
