"""The table of a benchmark: models by what is left of them clean, under attack, at least change and when corrupted.

    tables = benchmark_tables([("ours", "standard", Path("work_dirs/x/ours/standard")), ...])
    "\n".join(as_markdown(tables[0]))

Models that were measured on different data never stand in one table.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from segrobust.analysis.corruption import MEAN
from segrobust.analysis.summary import Record
from segrobust.analysis.worst_case import WORST_CASE
from segrobust.checks.verdicts import INCOMPLETE, NOT_TRUSTWORTHY, VERIFIED, WITH_WARNINGS
from segrobust.core.rows import CORRUPTION
from segrobust.core.units import format_eps
from segrobust.report.lines import searches
from segrobust.report.runs import Run, load_runs
from segrobust.report.texts import count, interval, median_cell, percent, printable, with_norm

CLEAN_TITLE, UNCHECKED, NOTHING = "clean", "not checked", "-"
WORST_FIRST = (NOT_TRUSTWORTHY, INCOMPLETE, UNCHECKED, WITH_WARNINGS, VERIFIED)
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|#~&!$])")


class Column(NamedTuple):
    """What one cell per model is of: a kind of record under a study; ``eps`` of a worst case, ``name`` of an attack."""

    kind: str
    study: str = ""
    norm: str = ""
    eps: float = 0.0
    name: str = ""

    def title(self, studies: int) -> str:
        """With the study in front where several have such a column."""
        median = f"{with_norm(self.name, self.norm)}, median"
        text = {WORST_CASE: f"worst case {self.radius}", "median": median, MEAN: "corrupted"}[self.kind]
        return f"{self.study}: {text}" if studies > 1 else text

    @property
    def radius(self) -> str:
        return format_eps(self.eps, self.norm) + (f" ({self.norm})" if self.norm != "Linf" else "")


@dataclass
class Contender:
    """A model's runs by study."""

    name: str
    runs: dict[str, Run] = field(default_factory=dict)

    def data(self) -> dict[str, tuple[str, ...]]:
        """By study what its images are, and how they are loaded."""
        names = ("images", "data_fingerprint", "data_recipe", "measured_at")
        return {study: tuple(run.facts.get(name, "") for name in names) for study, run in self.runs.items()}

    def cells(self) -> dict[Column, Record]:
        """The records that the table shows."""
        found: dict[Column, Record] = {}
        for study, run in self.runs.items():
            for record in run.records:
                norm = record["norm"] or ""
                if record["study"] == WORST_CASE:
                    found[Column(WORST_CASE, study, norm, record["eps"])] = record
                elif "median_distance" in record:
                    found[Column("median", study, norm, name=record["name"])] = record
                elif (record["study"], record["name"], record["severity"]) == (CORRUPTION, MEAN, None):
                    found[Column(MEAN, study)] = record
        return found

    def trust(self) -> str:
        """The lowest level of its runs."""
        levels = [run.trust.level if run.trust else UNCHECKED for run in self.runs.values()]
        return min(levels, key=WORST_FIRST.index)

    def cost(self) -> tuple[float, float]:
        """Forwards and backwards of single images, and hours of one process, over all runs; without the checks."""
        made = [record for run in self.runs.values() for record in searches(run.records)]
        passes = sum(one["images"] * ((one["forwards"] or 0) + (one["backwards"] or 0)) for one in made)
        return passes, sum(one["seconds"] or 0 for one in made) / 3600


@dataclass(frozen=True)
class BenchmarkTable:
    """Texts: ``lines`` start with rank and model; a second line within a cell is an interval. data: of each study.

    ranked_by: the worst case that decides; empty where models have none in common.
    """

    titles: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    data: tuple[str, ...]
    ranked_by: str
    ranked_study: str


def benchmark_tables(cells: Iterable[tuple[str, str, Path]]) -> list[BenchmarkTable]:
    """One table for all models that were measured on the same data, in the order in which models come.

    Args:
        cells: model, study and folder of every finished run.

    Raises:
        UserError: a folder that is not a finished run, or that is damaged.
    """
    contenders: dict[str, Contender] = {}
    for model, study, folder in cells:
        contenders.setdefault(model, Contender(model)).runs[study] = load_runs([folder])[0]
    groups: list[list[Contender]] = []
    for one in contenders.values():
        for group in groups:
            if all(_same_data(one, other) for other in group):
                group.append(one)
                break
        else:
            groups.append([one])
    return [_table(group) for group in groups]


def as_markdown(table: BenchmarkTable) -> list[str]:
    """A table in Markdown, as lines; an interval stands in brackets."""
    rows = [[escaped(text).replace("\n", "<br>") for text in line] for line in (table.titles, *table.lines)]
    bars = [f"| {' | '.join(row)} |" for row in rows]
    return [bars[0], "|" + "---|" * 2 + "---:|" * (len(table.titles) - 2), *bars[1:]]


def print_benchmark(table: BenchmarkTable, console: Console) -> None:
    """The table on a terminal, in parts of as many columns as fit."""
    widths = [max(len(part) for line in (table.titles, *table.lines) for part in line[n].split("\n")) + 2
              for n in range(len(table.titles))]  # fmt: skip
    left, at = sum(widths[:2]), 2
    while at < len(widths):
        end, room = at + 1, console.width - left - widths[at]
        while end < len(widths) and widths[end] <= room:
            room, end = room - widths[end], end + 1
        part = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        for number in (0, 1, *range(at, end)):
            part.add_column(Text(table.titles[number]), justify="left" if number < 2 else "right", overflow="fold")
        for line in table.lines:
            part.add_row(*(Text(line[number]) for number in (0, 1, *range(at, end))))
        console.print(part)
        at = end


def _same_data(one: Contender, other: Contender) -> bool:
    mine, its = one.data(), other.data()
    common = mine.keys() & its.keys()
    return all(mine[study] == its[study] for study in common) and bool(common or {*mine.values()} & {*its.values()})


def _table(group: Sequence[Contender]) -> BenchmarkTable:
    found = {one.name: one.cells() for one in group}
    columns = sorted({column for cells in found.values() for column in cells}, key=_place(group))
    kinds = Counter(column._replace(study="") for column in columns)
    deciding = _deciding(list(found.values()))
    scores = {name: _lowest(cells, deciding) for name, cells in found.items()}
    order = sorted(group, key=lambda one: -1.0 if scores[one.name] is None else scores[one.name], reverse=True)
    ranks = {one.name: str(n) if scores[one.name] is not None else NOTHING for n, one in enumerate(order, start=1)}
    lines = [
        (ranks[one.name], one.name, _clean(one), *(_cell(column, found[one.name].get(column)) for column in columns),
         one.trust(), *_cost(one))
        for one in order
    ]  # fmt: skip
    titles = [column.title(kinds[column._replace(study="")]) for column in columns]
    where = [f"{one.study} at {one.radius}" for one in deciding]
    return BenchmarkTable(
        ("rank", "model", CLEAN_TITLE, *titles, "trust", "passes", "hours"),
        tuple(lines),
        _data(group),
        ", ".join(where) + (" (the lower one counts)" if len(where) > 1 else ""),
        deciding[0].study if deciding else next(iter(group[0].runs)),
    )


def _place(group: Sequence[Contender]):
    studies = list(dict.fromkeys(study for one in group for study in one.runs))
    kinds = (WORST_CASE, "median", MEAN)
    return lambda column: (kinds.index(column.kind), studies.index(column.study), *column[2:])


def _deciding(found: Sequence[dict[Column, Record]]) -> list[Column]:
    """The worst cases at the largest radius that all models with any have; of the usual norm, where there are more."""
    worst = [{one for one in cells if one.kind == WORST_CASE} for cells in found]
    common = set.intersection(*filter(None, worst)) if any(worst) else set()
    norms = {one.norm for one in common}
    norm = "Linf" if "Linf" in norms else min(norms, default="")
    largest = max((one.eps for one in common if one.norm == norm), default=None)
    return sorted(one for one in common if (one.norm, one.eps) == (norm, largest))


def _lowest(cells: dict[Column, Record], deciding: Sequence[Column]) -> float | None:
    scores = [cells[one]["mIoU_greedy"] for one in deciding if one in cells]
    return min((score for score in scores if score is not None), default=None)


def _clean(one: Contender) -> str:
    """The clean scores, of every study where their images differ."""
    texts = [f"{percent(r['aAcc'])} / {percent(r['mIoU'])}" for run in one.runs.values() if (r := run.clean)]
    return "\n".join(dict.fromkeys(texts)) or NOTHING


def _cell(column: Column, record: Record | None) -> str:
    if record is None:
        return NOTHING
    if column.kind == "median":
        return "\n".join(filter(None, (*median_cell(record), f"{percent(record['found'])} % found")))
    metric = "mIoU_greedy" if column.kind == WORST_CASE else "mIoU"
    scores = f"{percent(record['aAcc'])} / {percent(record.get(metric))}"
    bounds = [interval(record["ci"].get(name)) for name in ("aAcc", metric)]
    return f"{scores}\n{' / '.join(bounds)}" if all(bounds) else scores


def _cost(one: Contender) -> tuple[str, str]:
    passes, hours = one.cost()
    return count(round(passes)), f"{hours:.2f}"


def _data(group: Sequence[Contender]) -> tuple[str, ...]:
    """``standard: 32 images (data 1a2b3c4d5e6f)``, in one line where all studies have the same."""
    texts = {}
    for one in group:
        for study, (images, fingerprint, *_) in one.data().items():
            texts.setdefault(study, f"{images} images (data {fingerprint[:12]})")
    if len({*texts.values()}) == 1:
        return (next(iter(texts.values())),)
    return tuple(f"{study}: {text}" for study, text in texts.items())


def escaped(text: str) -> str:
    """Names as they are, whatever Markdown or a browser would make of them."""
    return _MARKDOWN.sub(r"\\\1", printable(text))
