"""The rows of a run on disk: read from the files of all processes, appended to that of one."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from segrobust.core.errors import UserError
from segrobust.core.files import AppendFile, read_lines
from segrobust.core.rows import Condition, Row, decode, encode

_LOG = logging.getLogger(__name__)


def read_rows(folder: Path, conditions: Iterable[Condition], images: int) -> list[Row]:
    """All complete rows in the files of a folder, sorted; of a run of so many images.

    Raises:
        UserError: two rows for the same image and condition, or a damaged file.
    """
    found: dict[tuple[str, int], tuple[Row, Path]] = {}
    known = {one.id: one for one in conditions}
    for path in sorted(folder.glob("rank-*.jsonl")):
        for record in read_lines(path)[0]:
            row = decode(record, known, images, path)
            if row.key in found:
                first, other = found[row.key]
                fields = ", ".join(_differing(first, row))
                how = f"they disagree on {fields}" if fields else "the same"
                raise UserError(
                    f"{folder} has image {row.image} under {row.condition.title} twice, in {other.name} and in "
                    f"{path.name} ({how}); start anew with --fresh"
                )
            found[row.key] = row, path
    return sorted((row for row, _ in found.values()), key=lambda row: row.order)


def _differing(first: Row, second: Row) -> list[str]:
    """Fields that two rows do not share; the passes of a search grow with its radii, and say nothing of its result."""
    one, other = ({**row.counts, **row.extra} for row in (first, second))
    return [name for name in one | other if one.get(name) != other.get(name) and name not in ("forwards", "backwards")]


class RowWriter:
    """Appends the rows of one process, batch by batch."""

    def __init__(self, file: AppendFile, timing: AppendFile, stored: Iterable[Row]) -> None:
        self._file, self._timing = file, timing
        self._stored = {row.key: row for row in stored}

    def append(
        self, rows: Sequence[Row], seconds: Sequence[float] | None = None, peak_bytes: int | None = None
    ) -> None:
        """Store the rows of one batch, and if given what they cost; durable when this returns.

        ``seconds``: of each row; ``peak_bytes``: device memory of the batch at its highest, where that is known.

        A row that was already there when the writer was opened (a kill can leave part of a batch) is not stored twice.

        Raises:
            UserError: full disk or failing device; everything stored before stays.
        """
        new = [index for index, row in enumerate(rows) if not self._known(row)]
        if seconds is not None:  # before the rows: a kill between the two leaves no row without its cost
            memory = {} if peak_bytes is None else {"peak_bytes": peak_bytes}
            keys = [{"condition": rows[n].condition.id, "image": rows[n].image} for n in new]
            costs = [{**key, "seconds": round(seconds[n], 6), **memory} for key, n in zip(keys, new, strict=True)]
            self._timing.append(costs, durable=False)
        self._file.append([encode(rows[index]) for index in new])

    def _known(self, row: Row) -> bool:
        stored = self._stored.get(row.key)
        if stored is not None and _differing(stored, row):
            _LOG.warning(
                "image %s under %s: computed again with another result; the stored one is kept. "
                "This device does not compute the same numbers twice.",
                row.image, row.condition.title,
            )  # fmt: skip
        return stored is not None
