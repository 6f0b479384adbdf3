"""Tables of runs as files: CSV for programs, LaTeX and Markdown for papers, all from the columns in ``columns.py``.

sheet = records_sheet(load_runs([Path("work_dirs/standard"), Path("work_dirs/robust")]))
csv_text(sheet), latex_text(sheet), markdown_text(sheet)
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from segrobust.report.columns import IMAGES, RECORDS, Column, Value
from segrobust.report.runs import Run

_SAME = ("data_fingerprint", "protocol", "measured_at", "target.spec")  # else numbers say nothing of each other
_CONDITION = ("study", "name", "norm", "eps", "severity", "surrogate")
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "\N{INFINITY}": r"$\infty$", **{sign: f"\\{sign}" for sign in "&%$#_"},
}  # fmt: skip
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#|!&~])")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would compute


@dataclass(frozen=True)
class Sheet:
    """Lines of values in the order of the columns; of each line its norm, and the group in which the best is marked.

    caption: data and protocol in words. warning: why lines of several runs do not compare; empty where they do.
    """

    columns: tuple[Column, ...]
    lines: list[list[Value]]
    norms: list[str | None]
    groups: list[tuple]
    caption: str = ""
    warning: str = ""


def records_sheet(runs: Sequence[Run]) -> Sheet:
    """One line per record of each run."""
    lines, norms, groups = [], [], []
    for run in runs:
        for record in run.records:
            lines.append([column.value(run, record) for column in RECORDS])
            norms.append(record["norm"])
            groups.append((_data_of(run), *(record[name] for name in _CONDITION)))
    return Sheet(RECORDS, lines, norms, groups, caption(runs), different_data(runs))


def images_sheet(runs: Sequence[Run]) -> Sheet:
    """One line per image and condition of each run, candidates among them; UserError: damaged rows."""
    found = [(run, row) for run in runs for row in run.rows]
    lines = [[column.value(run, row) for column in IMAGES] for run, row in found]
    return Sheet(IMAGES, lines, [row.condition.norm for _, row in found], [()] * len(lines), "", different_data(runs))


def _data_of(run: Run) -> tuple[str, ...]:
    return tuple(run.facts.get(name, "") for name in _SAME)


def different_data(runs: Sequence[Run]) -> str:
    """Why numbers of the runs do not compare, and what each was measured on; empty where they do."""
    if len({_data_of(run) for run in runs}) < 2:
        return ""
    each = "; ".join(f"{run.label}: {_measured_on(run)}" for run in runs)
    return f"not measured on the same images in the same way, so numbers of these runs do not compare: {each}"


def _measured_on(run: Run) -> str:
    facts = run.facts
    said = [facts.get("dataset", "data without a name"), f"{len(run.images)} images"]
    said += [f"protocol {facts['protocol']}"] if "protocol" in facts else []
    said += [f"target {facts['target.spec']}"] if "target.spec" in facts else []
    return ", ".join([*said, f"digest {facts.get('data_fingerprint', 'unknown')[:8]}"])


def caption(runs: Sequence[Run]) -> str:
    """What the numbers are, on which data and under which protocol."""
    on = list(dict.fromkeys(_measured_on(run) for run in runs))
    where = "; ".join(dict.fromkeys(run.facts["eps_in"] for run in runs if "eps_in" in run.facts))
    parts = [f"Scores in percent on {' and on '.join(on)}", *([f"eps: {where}"] if where else [])]
    parts += [different_data(runs)] if different_data(runs) else []
    return ". ".join([*parts, "worst case: each image under the attack that leaves least of it right"]) + "."


def csv_text(sheet: Sheet) -> str:
    """All columns, numbers in full; empty where there is no value, ``inf`` for a distance that was not reached.

    A text that a spreadsheet would take for a formula gets an apostrophe before it.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([_plain(column.name) for column in sheet.columns])
    writer.writerows([[_plain(value) for value in line] for line in sheet.lines])
    return stream.getvalue()


def _plain(value: Value) -> Any:
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    return "" if value is None else value


def markdown_text(sheet: Sheet) -> str:
    """A table for a README, the best of several runs bold."""
    titles, lines = _shown(sheet, escaped_markdown, lambda text: f"**{text}**")
    rows = [titles, ["---", *["---:"] * (len(titles) - 1)], *lines]
    return "\n".join([*(f"| {' | '.join(row)} |" for row in rows), "", escaped_markdown(sheet.caption)]) + "\n"


def escaped_markdown(text: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    return _MARKDOWN.sub(r"\\\1", _printable(text))


def latex_text(sheet: Sheet) -> str:
    """A ``table`` with the lines of booktabs, the best of several runs bold."""
    titles, lines = _shown(sheet, latex_escaped, lambda text: f"\\textbf{{{text}}}")
    return (
        "\n".join(
            [
                "% needs \\usepackage{booktabs}",
                "\\begin{table}",
                "\\centering",
                f"\\caption{{{latex_escaped(sheet.caption)}}}",
                f"\\begin{{tabular}}{{l{'r' * (len(titles) - 1)}}}",
                "\\toprule",
                f"{' & '.join(titles)} \\\\",
                "\\midrule",
                *(f"{' & '.join(line)} \\\\" for line in lines),
                "\\bottomrule",
                "\\end{tabular}",
                "\\end{table}",
            ]
        )
        + "\n"
    )


def latex_escaped(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_LATEX.get(sign, sign) for sign in _printable(text))


def _printable(text: str) -> str:
    return "".join(sign if sign.isprintable() else " " for sign in text)


def _shown(
    sheet: Sheet, escaped: Callable[[str], str], bold: Callable[[str], str]
) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of the columns for papers that say anything; a column in which all lines agree is left out."""
    places = [place for place, column in enumerate(sheet.columns) if column.title and _says_something(sheet, place)]
    best = set(_best(sheet))
    lines = []
    for number, (line, norm) in enumerate(zip(sheet.lines, sheet.norms, strict=True)):
        cells = []
        for place in places:
            value = line[place]
            text = "" if value is None else escaped(sheet.columns[place].text(value, norm))
            cells.append(bold(text) if (number, place) in best else text)
        lines.append(cells)
    return [escaped(sheet.columns[place].title) for place in places], lines


def _says_something(sheet: Sheet, place: int) -> bool:
    values = {line[place] for line in sheet.lines}
    return len(values - {None}) > 1 or (bool(values - {None}) and sheet.columns[place].unit != "")


def _best(sheet: Sheet) -> Iterator[tuple[int, int]]:
    """Line and column of the best value of each group in which lines differ."""
    groups: dict[tuple, list[int]] = defaultdict(list)
    for number, group in enumerate(sheet.groups):
        groups[group].append(number)
    for place, column in enumerate(sheet.columns):
        for members in groups.values() if column.better else ():
            values = {number: column.better * sheet.lines[number][place] for number in members
                      if sheet.lines[number][place] is not None}  # fmt: skip
            highest = max(values.values(), default=math.nan)
            if len(set(values.values())) > 1:
                yield from ((number, place) for number, value in values.items() if value == highest)
