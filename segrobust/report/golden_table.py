"""Published results beside ours, as lines of Markdown for the terminal and for a benchmark's page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from segrobust.analysis.golden import (
    AGREES,
    BELOW,
    HIGHER,
    LOWER,
    NO_COUNTERPART,
    NOT_COMPARABLE,
    Comparison,
)
from segrobust.analysis.golden_file import GoldenCell

COMPARED = (AGREES, BELOW, HIGHER, LOWER)
HEAD = ("model", "attack", "metric", "published", "ours", "difference", "allowed", "verdict", "source")
RULES = (
    "Difference is ours minus the published number, in points. Two-sided numbers agree within what is allowed; of "
    "one-sided ones (at most) ours may be lower by any amount, as a stronger attack finds more. Published numbers are "
    "quoted: segrobust reproduced none of them."
)


def golden_lines(comparisons: Sequence[Comparison]) -> list[str]:
    """A heading, a table of what is compared, and below it what is not, and why; none without a comparison."""
    if not comparisons:
        return []
    compared = [one for one in comparisons if one.verdict in COMPARED]
    lines = ["## Beside published results", "", _summary(compared)]
    if compared:
        lines += ["", _line(HEAD), _line("---" for _ in HEAD), *(_line(_cells(one)) for one in compared)]
        lines += ["", RULES]
    lines += _contradictions(compared)
    lines += _listed("Not comparable", [one for one in comparisons if one.verdict == NOT_COMPARABLE])
    lines += _listed("Published, without a counterpart here", [o for o in comparisons if o.verdict == NO_COUNTERPART])
    return lines


def _summary(compared: Sequence[Comparison]) -> str:
    counts = Counter(one.verdict for one in compared)
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in COMPARED if counts[verdict])
    numbers = "number" if len(compared) == 1 else "numbers"
    return f"{len(compared)} published {numbers} compared{': ' if told else ''}{told}."


def _cells(one: Comparison) -> tuple[str, ...]:
    cell = one.cell
    published = f"at most {cell.value:g}" if cell.sided == "one" else f"{cell.value:g}"
    numbers = (f"{one.ours:.2f}", f"{one.difference:+.2f}", f"{one.allowed:.2f}")
    verdict = f"**{one.verdict}**" if one.verdict in (HIGHER, LOWER) else one.verdict
    told = "; ".join(filter(None, (one.reason, cell.needs and f"theirs in {cell.needs}, ours in one crop")))
    return (
        cell.model,
        _attack(cell),
        cell.metric,
        published,
        *numbers,
        f"{verdict}{told and f' ({told})'}",
        _source(cell),
    )


def _attack(cell: GoldenCell) -> str:
    """The column, and the radius where that does not name it."""
    radius = cell.eps_published
    return cell.column if not radius or radius in cell.column else f"{cell.column}, {radius}"


def _source(cell: GoldenCell) -> str:
    return f"{cell.source} [{cell.tag}]"


def _contradictions(compared: Sequence[Comparison]) -> list[str]:
    """What else is published for the same."""
    lines = []
    for one in compared:
        if one.contradicted_by:
            others = "; ".join(f"{cell.value:g} ({_source(cell)})" for cell in one.contradicted_by)
            name = f"{one.cell.model}, {_attack(one.cell)}, {one.cell.metric}"
            lines.append(f"- {_escaped(f'{name}: {one.cell.value:g} ({_source(one.cell)}), but {others}')}")
    return ["", "Publications contradict each other:", "", *lines] if lines else []


def _listed(title: str, these: Sequence[Comparison]) -> list[str]:
    """A line per model and reason, with how many numbers it is about."""
    if not these:
        return []
    counts = Counter((one.cell.model, one.reason) for one in these)
    lines = [f"- {_escaped(f'{model}: {reason} ({count})')}" for (model, reason), count in counts.items()]
    return ["", f"{title} ({len(these)}):", "", *lines]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text: str) -> str:
    """A model's name may hold what ends a cell, or a line."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
