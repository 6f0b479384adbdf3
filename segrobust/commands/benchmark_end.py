"""What stands at the end of a benchmark: the table, ``benchmark.md``, a report that compares, published results."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from segrobust.analysis.golden import as_measured, compare, read_golden
from segrobust.analysis.summary import Record
from segrobust.commands.benchmark_file import BenchmarkFile
from segrobust.commands.benchmark_state import FAILED, BenchmarkState
from segrobust.core.errors import UserError
from segrobust.core.files import replace_file
from segrobust.report import build_report
from segrobust.report.benchmark_table import (
    BenchmarkTable,
    as_markdown,
    benchmark_tables,
    escaped,
    print_benchmark,
)
from segrobust.report.golden_table import golden_lines
from segrobust.report.runs import load_runs
from segrobust.runs.folder import RunFolder

READING = (
    "aAcc / mIoU in %, with 95 % intervals over images; of attacks the worst case within the radius, with the lowest "
    "mIoU that was found; minimum norm: median change that turns 99 % of the pixels; corrupted: mean over types and "
    "severities; passes: forwards and backwards of single images; hours: of one process, without the checks"
)
APART = "these models were measured on other data than those above, with which they cannot be compared"


def finish(file: BenchmarkFile, state: BenchmarkState, console: Console) -> None:
    """Print and write the tables over all finished cells, those of earlier starts too.

    Raises:
        UserError: a run folder that is damaged, or a file that cannot be written.
    """
    runs = state.done()
    tables = benchmark_tables(runs)
    page = [f"# {escaped(file.name)}"]
    for number, table in enumerate(tables):
        said = [*([APART] if number else []), "; ".join(table.data), _ranking(table)]
        for text in filter(None, said):
            console.print(text, markup=False, highlight=False, soft_wrap=True)
        print_benchmark(table, console)
        page += ["", *(f"{escaped(text)}.\n" for text in filter(None, said)), *as_markdown(table)]
    if tables:
        console.print(READING, style="dim", highlight=False)
        page += ["", f"{READING}."]
    for model, study, status, error in state.others():
        if status == FAILED:
            page += ["", f"Failed: {escaped(f'{model} / {study}: {error}')}"]
        else:
            page += ["", f"Not run yet: {model} / {study}"]
    page += _beside_published(file, runs, console)
    replace_file(state.work_dir / "benchmark.md", ("\n".join(page) + "\n").encode())
    console.print(f"table: {state.work_dir / 'benchmark.md'}", markup=False, highlight=False, soft_wrap=True)
    if tables:
        _compare(tables[0], runs, state.work_dir, console)


def _ranking(table: BenchmarkTable) -> str:
    if not table.ranked_by:
        return "not ranked: the models have no worst case in common" if len(table.lines) > 1 else ""
    return f"ranked by the worst-case mIoU: {table.ranked_by}"


def _compare(table: BenchmarkTable, runs: Sequence[tuple[str, str, Path]], work_dir: Path, console: Console) -> None:
    """One report over the models of the first table, under the study that ranks them."""
    models = [line[1] for line in table.lines]
    folders = {model: folder for model, study, folder in runs if study == table.ranked_study}
    try:
        report = build_report([folders[model] for model in models if model in folders], work_dir / "report.html")
    except UserError as error:
        console.print(f"no report that compares: {error}", style="yellow", markup=False, soft_wrap=True)
        return
    console.print(f"report: {report}", markup=False, highlight=False, soft_wrap=True)


def _beside_published(file: BenchmarkFile, runs: Sequence[tuple[str, str, Path]], console: Console) -> list[str]:
    """The published results that the file names beside ours, as lines of Markdown."""
    if file.golden is None:
        return []
    records: dict[str, list[Record]] = defaultdict(list)
    for model, _, folder in runs:
        run = load_runs([folder])[0]
        records[model] += as_measured(run.records, run.facts, RunFolder(folder).conditions())
    lines = golden_lines(compare(read_golden(file.golden), dict(records)))
    console.print("\n".join(lines), markup=False, highlight=False)
    return ["", *lines]
