"""Rows by condition, and which conditions are complete: a run may have grown, or have been killed while it did."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence

from segrobust.core.rows import Condition, Row

_LOG = logging.getLogger(__name__)


def by_condition(rows: Sequence[Row]) -> dict[Condition, list[Row]]:
    """The rows of each condition, sorted by :attr:`Row.order`."""
    groups: dict[Condition, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.order):
        groups[row.condition].append(row)
    return dict(groups)


def complete(rows: Sequence[Row], images: int | None = None) -> list[Row]:
    """The rows of the conditions that have one for every image; a warning names the others.

    Args:
        images: how many the run has; by default those with any row.
    """
    groups = by_condition(rows)
    images = len({row.image for row in rows}) if images is None else images
    partial = {condition: len(members) for condition, members in groups.items() if len(members) < images}
    if partial:
        named = dict.fromkeys(f"{one.title} ({count} of {images} images)" for one, count in partial.items())
        _LOG.warning("not in the results, as rows are missing: %s; run the command again", ", ".join(named))
    return [row for condition, members in groups.items() if condition not in partial for row in members]
