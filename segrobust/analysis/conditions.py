"""Rows by condition, and which conditions are complete: a run may have grown, or have been killed while it did."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from segrobust.core.rows import Condition, Row


def by_condition(rows: Sequence[Row]) -> dict[Condition, list[Row]]:
    """The rows of each condition, sorted by :attr:`Row.order`."""
    groups: dict[Condition, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.order):
        groups[row.condition].append(row)
    return dict(groups)


def incomplete(rows: Sequence[Row], images: int) -> dict[Condition, int]:
    """The conditions that lack a row for some of the run's images, and how many rows they have."""
    counts = Counter(row.condition for row in rows)
    return {condition: count for condition, count in counts.items() if count < images}


def complete(rows: Sequence[Row], images: int) -> list[Row]:
    """The rows of the conditions that have one for each of the run's images: what results are made from."""
    partial = incomplete(rows, images)
    return [row for row in rows if row.condition not in partial]
