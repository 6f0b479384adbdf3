"""The run folder: an identity, conditions and images that may grow, append-only rows, and what is derived from them.

Kill it at any moment and open it again: what was appended is there, what was being appended is cut off. Rows of another
identity are refused. Layout: ``run.json`` (identity and date, versions, ...), ``conditions.json``, ``images.json``,
``rows/rank-<r>.jsonl``, ``rows/timing-<r>.jsonl`` and derived files.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from segrobust.analysis.conditions import complete
from segrobust.core.errors import UserError
from segrobust.core.files import AppendFile, clear_io_errors, only_process, read_lines, replace_file
from segrobust.core.rows import Condition, Row
from segrobust.runs.differences import continued
from segrobust.runs.images import RunImages
from segrobust.runs.rows import RowWriter, read_rows

FORMAT = 2  # 1 had rows by attack, norm and radius
_DERIVED = (
    "summary.json", "checks.json", "report.html", "target.png", "target-colours.png", "images/grid.json",
    "images/*.png", "adversarial/*/*.npy", "conditions.json", "images.json",
)  # fmt: skip


class RunFolder:
    """One evaluation on disk."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._rows = self.path / "rows"
        self._held: set[Path] = set()

    @contextlib.contextmanager
    def held(self, rank: int = 0) -> Iterator[None]:
        """Keep the folder for one process of a run: rank 0 for the whole run, the others for what they write.

        May be nested. UserError: another process has it, or a folder that cannot be written.
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
            goes_on, changed = self._continued(identity, fresh, about or {}, accept_different)
            if not goes_on:
                if fresh or (self.path / "run.json").exists():
                    self._discard()
                changed = {"format": FORMAT, "identity": identity, "about": about or {}}
            known, order = self.images().grown(images, self.path)
            together = {one.id: one for one in (*conditions, *self.conditions())}
            self.write_json("images.json", known.content())
            self.write_json("conditions.json", [one.description() for one in sorted(together.values(), key=_order)])
            if changed:
                self.write_json("run.json", changed)
        return order

    def planned(
        self,
        identity: dict[str, Any],
        images: Sequence[Mapping[str, Any]],
        fresh: bool = False,
        about: dict[str, Any] | None = None,
        accept_different: Sequence[str] = (),
    ) -> tuple[PlannedFolder, list[int]]:
        """What ``open`` would leave, and what it would return and raise; nothing is written, nothing locked."""
        identity = json.loads(json.dumps(identity, allow_nan=False))
        goes_on, _ = self._continued(identity, fresh, about or {}, accept_different)
        known = self.images() if goes_on else RunImages()
        known, order = known.grown(images, self.path)
        return PlannedFolder(self.path, known, goes_on), order

    def _continued(
        self, identity: dict[str, Any], fresh: bool, about: dict[str, Any], accept_different: Sequence[str]
    ) -> tuple[bool, dict[str, Any] | None]:
        """Whether the run in the folder goes on under this identity, and what ``run.json`` is to hold where it does
        not stay as it is."""
        stored = None if fresh else self._stored()
        if stored and self._has_rows() and not len(self.images()):
            raise UserError(f"{self.path} has rows but no images.json; start anew with --fresh")
        if not stored or not self.has_results():
            return False, None
        return True, continued(stored, identity, accept_different, about, self.path)

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

    def identity(self) -> dict[str, Any]:
        """That of the run; empty where there is no run."""
        run = self.read_json("run.json") if (self.path / "run.json").is_file() else None
        identity = run.get("identity") if isinstance(run, dict) else None
        return identity if isinstance(identity, dict) else {}

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

    @contextlib.contextmanager
    def writer(self, rank: int = 0) -> Iterator[RowWriter]:
        """The append-only writer of one process, which holds its rank meanwhile."""
        with (
            self.held(rank),
            contextlib.closing(AppendFile(self._rows / f"rank-{rank}.jsonl")) as file,
            contextlib.closing(AppendFile(self._rows / f"timing-{rank}.jsonl")) as timing,
        ):
            yield RowWriter(file, timing, self.rows())

    def rows(self) -> list[Row]:
        """All complete rows of all processes, sorted; UserError: a damaged file, or a row that is there twice."""
        return read_rows(self._rows, self.conditions(), len(self.images()))

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
        """The content of one file of the folder; UserError: there is no such file, or it is not JSON."""
        path = self.path / name
        try:
            with clear_io_errors(f"read {path}", "is this the folder of a run?"):
                return json.loads(path.read_bytes())
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UserError(f"{path}: not valid JSON ({error})") from error


class PlannedFolder(RunFolder):
    """A run folder as a start would find it after opening it; to be read alone.

    images: of the run. goes_on: what is stored belongs to it.
    """

    def __init__(self, path: Path, images: RunImages, goes_on: bool) -> None:
        super().__init__(path)
        self._images, self.goes_on = images, goes_on

    def images(self) -> RunImages:
        return self._images

    def rows(self) -> list[Row]:
        return super().rows() if self.goes_on else []


def _order(condition: Condition) -> tuple:
    return (*condition.order, condition.candidate, condition.id)
