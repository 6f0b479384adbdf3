"""The run folder: an identity, conditions and images that may grow, append-only rows, and what is derived from them.

    folder = RunFolder("work_dirs/mine")
    with folder.held(rank=0):                                       # no other run gets in before the end of this one
        order = folder.open({"weights_sha256": "..."}, conditions, entries_of(source))
        with folder.writer(rank=0) as writer:
            writer.append(rows_of_one_batch, seconds_per_row)       # on disk when this returns
        folder.write_json("summary.json", summarise(folder.complete_rows(), num_classes=11))

Kill it at any moment and open it again: what was appended is there, what was being appended is cut off. Rows of another
identity are refused. Layout: ``run.json`` (identity and date, versions, ...), ``conditions.json``, ``images.json``,
``rows/rank-<r>.jsonl``, ``rows/timing-<r>.jsonl`` and derived files.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from segrobust.analysis.conditions import complete
from segrobust.core.errors import UserError
from segrobust.core.files import AppendFile, clear_io_errors, only_process, read_lines, replace_file
from segrobust.core.rows import Condition, Row, decode, encode
from segrobust.runs.differences import continued
from segrobust.runs.images import RunImages

FORMAT = 2  # 1 had rows by attack, norm and radius
_DERIVED = (
    "summary.json", "checks.json", "report.html", "target.png", "target-colours.png", "images/grid.json",
    "images/*.png", "adversarial/*/*.npy", "conditions.json", "images.json",
)  # fmt: skip
_LOG = logging.getLogger(__name__)


class RunFolder:
    """One evaluation on disk."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._rows = self.path / "rows"
        self._held: set[Path] = set()

    @contextlib.contextmanager
    def held(self, rank: int = 0) -> Iterator[None]:
        """Keep the folder for one process of a run: rank 0 for the whole run, the others for what they write.

        May be nested. The system gives back what a killed process held.

        Raises:
            UserError: another process has it, or a folder that cannot be written.
        """
        with clear_io_errors(f"create {self._rows}", "choose a --work-dir that can be written"):
            self._rows.mkdir(parents=True, exist_ok=True)
        lock = self._rows / f".lock-{rank}"
        if lock in self._held:  # a second handle would take the lock away from the first when it is closed
            yield
            return
        with only_process(lock):
            self._held.add(lock)
            try:
                yield
            finally:
                self._held.remove(lock)

    def open(
        self,
        identity: dict[str, Any],
        conditions: Sequence[Condition],
        images: Sequence[Mapping[str, Any]],
        fresh: bool = False,
        about: dict[str, Any] | None = None,
        accept_different: Sequence[str] = (),
    ) -> list[int]:
        """Create the folder, or go on with the run in it; with several processes, in the main one alone.

        ``identity`` is everything that decides rows whatever their condition and image. It must be the same on every
        start, but for what ``accept_different`` names, ``"CODE"`` or ``"VERSIONS"``, which ``run.json`` then tells of.
        ``conditions`` and ``images`` (their entries) are added to those of the run. ``about`` (date, versions, command
        line) is kept from the first start; only its versions are compared. ``fresh`` discards the rows and the derived
        files, and nothing else that lies in the folder; so does any start after one that failed before its first row.

        Returns:
            For each image of the run, its place in ``images``.

        Raises:
            UserError: another identity, rows without identity, an image of the run that is not in ``images``, or a
                folder that cannot be written.
        """
        identity = json.loads(json.dumps(identity, allow_nan=False))
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.held(0))
            # a process of an earlier run may have outlived its main one, and go on writing
            for lock in sorted({*self._rows.glob(".lock-*")} - self._held):
                stack.enter_context(only_process(lock))
            stored = None if fresh else self._stored()
            if stored and self.has_results():
                changed = continued(stored, identity, accept_different, about or {}, self.path)
            else:
                if stored or fresh:
                    self._discard()
                changed = {"format": FORMAT, "identity": identity, "about": about or {}}
            known, order = self.images().grown(images, self.path)
            together = {one.id: one for one in (*conditions, *self.conditions())}
            self.write_json("images.json", known.content())
            self.write_json("conditions.json", [one.description() for one in sorted(together.values(), key=_order)])
            if changed:
                self.write_json("run.json", changed)
        return order

    def conditions(self) -> list[Condition]:
        """Those of the run, sorted; none where there is no run."""
        path = self.path / "conditions.json"
        content = self.read_json(path.name) if path.exists() else []
        if not isinstance(content, list) or not all(isinstance(one, dict) for one in content):
            raise UserError(f"{path}: expected a list of conditions, as segrobust writes it; start anew with --fresh")
        return [Condition.from_description(one, path) for one in content]

    def images(self) -> RunImages:
        """Those of the run; none where there is no run."""
        path = self.path / "images.json"
        return RunImages.from_content(self.read_json(path.name), path) if path.exists() else RunImages()

    def has_results(self) -> bool:
        """Whether there is a row or, where somebody removed these, what was derived from them."""
        return self._has_rows() or (self.path / "summary.json").exists()

    def _has_rows(self) -> bool:
        return any(read_lines(path)[0] for path in self._rows.glob("rank-*.jsonl"))

    def _stored(self) -> dict[str, Any] | None:
        if not (self.path / "run.json").exists():
            if self._has_rows():
                raise UserError(f"{self.path} has rows but no run.json; start anew with --fresh")
            return None
        stored = self.read_json("run.json")
        if not isinstance(stored, dict) or stored.get("format") != FORMAT:
            raise UserError(f"{self.path}/run.json: not written by this version of segrobust; start anew with --fresh")
        return stored

    def _discard(self) -> None:
        # Rows go first and run.json is replaced last: a kill in between leaves the old run with fewer rows.
        with clear_io_errors(f"empty {self.path}", "check the permissions of the run folder"):
            for pattern in ("rows/*.jsonl", *_DERIVED):
                for file in self.path.glob(pattern):
                    file.unlink(missing_ok=True)

    def writer(self, rank: int = 0) -> RowWriter:
        """The append-only writer of one process."""
        return RowWriter(self, rank)

    def rows(self) -> list[Row]:
        """All complete rows of all processes, sorted.

        Raises:
            UserError: two rows for the same image and condition, or a damaged file.
        """
        found: dict[tuple[str, int], tuple[Row, Path]] = {}
        conditions = {one.id: one for one in self.conditions()}
        for path in sorted(self._rows.glob("rank-*.jsonl")):
            for record in read_lines(path)[0]:
                row = decode(record, conditions, path)
                if row.key in found:
                    first, other = found[row.key]
                    fields = ", ".join(_differing(first, row))
                    how = f"they disagree on {fields}" if fields else "the same"
                    raise UserError(
                        f"{self._rows} has image {row.image} under {row.condition.title} twice, in {other.name} and in "
                        f"{path.name} ({how}); start anew with --fresh"
                    )
                found[row.key] = row, path
        return sorted((row for row, _ in found.values()), key=lambda row: row.order)

    def complete_rows(self) -> list[Row]:
        """The rows of the conditions that have one for every image of the run, from which results are made."""
        return complete(self.rows(), len(self.images()))

    def timings(self) -> list[dict[str, Any]]:
        """Cost per row, ``{condition, image, seconds, peak_bytes}``, kept apart since it differs between runs.

        A row may have two, where its batch was computed, killed before it was stored, and computed again.
        """
        paths = sorted(self._rows.glob("timing-*.jsonl"))
        return [record for path in paths for record in read_lines(path)[0]]

    def write_json(self, name: str, content: Any) -> Path:
        """Replace one derived file (``summary.json``, ``images/grid.json``) as a whole or not at all."""
        path = self.path / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"expected a name below the run folder, got {name!r}")
        with clear_io_errors(f"create {path.parent}", "check the permissions of the run folder"):
            path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps(content, indent=1, allow_nan=False).encode() + b"\n")
        return path

    def read_json(self, name: str) -> Any:
        """The content of one file of the folder.

        Raises:
            UserError: there is no such file, or it is not JSON.
        """
        path = self.path / name
        try:
            with clear_io_errors(f"read {path}", "is this the folder of a run?"):
                return json.loads(path.read_bytes())
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UserError(f"{path}: not valid JSON ({error})") from error


def _order(condition: Condition) -> tuple:
    return (*condition.order, condition.candidate, condition.id)


def _differing(first: Row, second: Row) -> list[str]:
    """Fields that two rows do not share; the passes of a search grow with its radii, and say nothing of its result."""
    one, other = ({**row.counts, **row.extra} for row in (first, second))
    return [name for name in one | other if one.get(name) != other.get(name) and name not in ("forwards", "backwards")]


class RowWriter:
    """Appends the rows of one process, batch by batch; only one process may hold a rank of a folder (``held``)."""

    def __init__(self, folder: RunFolder, rank: int) -> None:
        rows = folder.path / "rows"
        with contextlib.ExitStack() as stack:
            stack.enter_context(folder.held(rank))
            self._file = AppendFile(rows / f"rank-{rank}.jsonl")
            stack.callback(self._file.close)
            self._timing = AppendFile(rows / f"timing-{rank}.jsonl")
            stack.callback(self._timing.close)
            self._stored = {row.key: row for row in folder.rows()}
            self._resources = stack.pop_all()

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
            names = [{"condition": rows[index].condition.id, "image": rows[index].image} for index in new]
            memory = {} if peak_bytes is None else {"peak_bytes": peak_bytes}
            costs = [{**key, "seconds": round(seconds[n], 6), **memory} for key, n in zip(names, new, strict=True)]
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

    def close(self) -> None:
        self._resources.close()

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
