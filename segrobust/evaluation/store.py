"""The run folder: an identity, append-only rows of integers, and what is derived from them.

    folder = RunFolder("work_dirs/mine").open({"checkpoint_sha256": "...", "attacks": {...}})
    with folder.writer(rank=0) as writer:
        writer.append(rows_of_one_batch, seconds_per_row)       # on disk when this returns
    folder.write_json("summary.json", summarise(folder.rows(), num_classes=11))

Kill it at any moment and open it again: what was appended is there, what was being appended is cut off. A folder of
another identity is refused. Layout: ``run.json``, ``rows/rank-<r>.jsonl``, ``rows/timing-<r>.jsonl`` and derived files.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segrobust.errors import UserError
from segrobust.evaluation.durable import AppendFile, clear_io_errors, only_process, read_lines, replace_file
from segrobust.evaluation.rows import Key, Row, decode, encode, row_key, title

FORMAT = 1
_DERIVED = (
    "summary.json", "checks.json", "report.html", "target.png", "target-colours.png", "images/grid.json",
    "images/*.png", "adversarial/*/*.npy",
)  # fmt: skip
_LOG = logging.getLogger(__name__)


class RunFolder:
    """One evaluation on disk."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._rows = self.path / "rows"

    def open(self, identity: dict[str, Any], fresh: bool = False, about: dict[str, Any] | None = None) -> RunFolder:
        """Create the folder, or go on with the run in it; with several processes, in the main one alone.

        ``identity`` is everything the rows depend on and must be the same on every start. ``about`` (date, host
        versions, command line) is kept from the first start and not compared. ``fresh`` discards the rows and the
        derived files, and nothing else that lies in the folder.

        Raises:
            UserError: another identity, rows without identity, or a folder that cannot be written.
        """
        with clear_io_errors(f"create {self._rows}", "choose a --work-dir that can be written"):
            self._rows.mkdir(parents=True, exist_ok=True)
        identity = json.loads(json.dumps(identity, allow_nan=False))
        with contextlib.ExitStack() as stack:
            # a process of an earlier run may have outlived its main one, and go on writing
            for lock in sorted({self._rows / ".lock-0", *self._rows.glob(".lock-*")}):
                stack.enter_context(only_process(lock))
            if fresh:
                self._discard()
            elif self._continues(identity):
                return self
            run = {"format": FORMAT, "identity": identity, "about": about or {}}
            self.write_json("run.json", run)
        return self

    def _continues(self, identity: dict[str, Any]) -> bool:
        if not (self.path / "run.json").exists():
            if any(self._rows.glob("*.jsonl")):
                raise UserError(f"{self.path} has rows but no run.json; start anew with --fresh")
            return False
        stored = self.read_json("run.json")
        if not isinstance(stored, dict) or stored.get("format") != FORMAT:
            raise UserError(f"{self.path}/run.json: not written by this version of segrobust; start anew with --fresh")
        if lines := differences(stored["identity"], identity):
            more = f"; and {len(lines) - 6} more" if len(lines) > 6 else ""
            raise UserError(
                f"{self.path} holds another run: {'; '.join(lines[:6])}{more}; "
                "use another --work-dir, or --fresh to discard the stored run"
            )
        return True

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
            UserError: two rows for the same image, attack and radius, or a damaged file.
        """
        found: dict[Key, tuple[Row, Path]] = {}
        for path in sorted(self._rows.glob("rank-*.jsonl")):
            for record in read_lines(path)[0]:
                row = decode(record, path)
                if (key := row_key(row)) in found:
                    first, other = found[key]
                    fields = ", ".join(field for field in first | row if first.get(field) != row.get(field))
                    raise UserError(
                        f"{self._rows} has {title(key)} twice, in {other.name} and in {path.name} "
                        f"({f'they disagree on {fields}' if fields else 'the same'}); start anew with --fresh"
                    )
                found[key] = row, path
        return [found[key][0] for key in sorted(found)]

    def timings(self) -> list[dict[str, Any]]:
        """Cost per row, ``{attack, norm, eps, image, seconds, peak_bytes}``, kept apart since it differs between runs.

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


class RowWriter:
    """Appends the rows of one process, batch by batch; only one process may hold a rank of a folder."""

    def __init__(self, folder: RunFolder, rank: int) -> None:
        rows = folder.path / "rows"
        with contextlib.ExitStack() as stack:
            stack.enter_context(only_process(rows / f".lock-{rank}"))
            self._file = AppendFile(rows / f"rank-{rank}.jsonl")
            stack.callback(self._file.close)
            self._timing = AppendFile(rows / f"timing-{rank}.jsonl")
            stack.callback(self._timing.close)
            self._stored = {row_key(row): row for row in folder.rows()}
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
            names = [{field: rows[index][field] for field in ("attack", "norm", "eps", "image")} for index in new]
            memory = {} if peak_bytes is None else {"peak_bytes": peak_bytes}
            costs = [{**key, "seconds": round(seconds[n], 6), **memory} for key, n in zip(names, new, strict=True)]
            self._timing.append(costs, durable=False)
        self._file.append([encode(rows[index]) for index in new])

    def _known(self, row: Row) -> bool:
        stored = self._stored.get(row_key(row))
        if stored is not None and stored != row:
            _LOG.warning(
                "image %s under %s at eps %s: computed again with another result; the stored one is kept. "
                "This device does not compute the same numbers twice.",
                row["image"], row["attack"], row["eps"],
            )  # fmt: skip
        return stored is not None

    def close(self) -> None:
        self._resources.close()

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def differences(stored: Any, wanted: Any, name: str = "") -> list[str]:
    """One phrase per differing field of two identities, such as ``attacks.CEPGD.steps is 100 there and 300 here``."""
    if isinstance(stored, dict) and isinstance(wanted, dict):
        keys = [*stored, *(key for key in wanted if key not in stored)]
        parts = (differences(stored.get(k), wanted.get(k), f"{name}.{k}" if name else k) for k in keys)
        return [line for part in parts for line in part]
    if stored == wanted and isinstance(stored, bool) == isinstance(wanted, bool):
        return []
    return [f"{name or 'identity'} is {_short(stored)} there and {_short(wanted)} here"]


def _short(value: Any) -> str:
    text = "absent" if value is None else json.dumps(value)
    return text if len(text) <= 72 else f"{text[:50]}...{text[-19:]}"
