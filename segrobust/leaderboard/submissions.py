"""What others send to lower an entry: attacked images that were re-measured here, or rows, which count for nothing yet.

``submissions/<entry>/<number>/submission.json`` says what it is; ``measured.jsonl`` has what was counted here, and
``images/<place>.npy`` the images where they are small; of rows, ``run`` is a run folder as of evidence.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from segrobust.core.errors import UserError
from segrobust.core.files import read_lines, replace_file
from segrobust.core.rows import ATTACK, Condition, Row
from segrobust.leaderboard.evidence import MOST_BYTES, Evidence, keep, read_evidence
from segrobust.leaderboard.files import digests_of, read_table, write_table
from segrobust.leaderboard.scores import on_images_of

IMAGES, ROWS = KINDS = ("images", "rows")
ABOUT, MEASURED = "submission.json", "measured.jsonl"


@dataclass(frozen=True)
class Measured:
    """One attacked image as it was measured here.

    sha256: of the clean image with its label, as runs name it. eps: the smallest radius of the entry that it keeps to.
    distance: from the clean image. counts: those of a row. pixels: ``[3, H, W]`` float32 in [0, 1].
    """

    sha256: str
    eps: float
    distance: float
    counts: Mapping[str, list[int]]
    pixels: np.ndarray


@dataclass(frozen=True)
class Submission:
    """One of an entry, in the order of their numbers."""

    folder: Path
    about: Mapping[str, Any]

    @property
    def number(self) -> int:
        return int(self.folder.name)

    @property
    def counted(self) -> bool:
        """Only what was measured here lowers a score."""
        return self.about["kind"] == IMAGES

    @cached_property
    def measured(self) -> list[dict[str, Any]]:
        return read_lines(self.folder / MEASURED)[0]

    @cached_property
    def run(self) -> Evidence:
        return read_evidence(self.folder / "evidence" / self.about["run"], self.about["run"])

    def rows_on(self, base: Evidence, norm: str) -> list[Row]:
        """Its rows, of those images that the run has too."""
        if not self.counted:
            return on_images_of(base, [self.run])[len(base.rows) :]
        name = f"submission {self.number}"
        return [
            Row(base.places[one["sha256"]], Condition(ATTACK, name, norm, one["eps"]), one["counts"],
                {"forwards": 0, "backwards": 0, "distance": one["distance"]})
            for one in self.measured
            if one["sha256"] in base.places
        ]  # fmt: skip

    def listed(self) -> dict[str, Any]:
        """For the entry."""
        shown = {name: self.about.get(name) for name in ("kind", "by", "date", "segrobust")}
        count = len(self.measured) if self.counted else len(self.run.run.images)
        return {"number": self.number, **shown, "counted": self.counted, "images": count,
                "attacked_images": self.about.get("attacked_images"), "files": digests_of(self.folder)}  # fmt: skip


def submissions_of(board: Path, entry: str) -> list[Submission]:
    folders = [one for one in (board / "submissions" / entry).glob("*") if one.name.isdigit()]
    return [Submission(one, _about(one)) for one in sorted(folders, key=lambda one: int(one.name))]


def _about(folder: Path) -> dict[str, Any]:
    about = read_table(folder / ABOUT)
    if about.get("kind") not in KINDS:
        raise UserError(f"{folder / ABOUT}: expected kind {' or '.join(KINDS)}, got {about.get('kind')!r}")
    return about


def store_images(board: Path, entry: str, measured: Sequence[Measured], about: Mapping[str, Any]) -> Submission:
    """Keep what was measured here, and the images where they are small; ``about``: by, date, segrobust."""
    folder = _next(board, entry)
    folder.mkdir(parents=True)
    files = {f"images/{place:06d}.npy": _npy(one.pixels) for place, one in enumerate(measured)}
    size = sum(map(len, files.values()))
    lines = [
        {"sha256": one.sha256, "eps": one.eps, "distance": one.distance, "counts": dict(one.counts), "file": name,
         "file_sha256": hashlib.sha256(data).hexdigest()}
        for one, (name, data) in zip(measured, files.items(), strict=True)
    ]  # fmt: skip
    for name, data in files.items() if size <= MOST_BYTES else ():
        (folder / "images").mkdir(exist_ok=True)
        replace_file(folder / name, data)
    replace_file(folder / MEASURED, "".join(f"{json.dumps(line, separators=(',', ':'))}\n" for line in lines).encode())
    kept = {"count": len(files), "bytes": size, "stored": size <= MOST_BYTES}
    write_table(folder / ABOUT, {"kind": IMAGES, **about, "attacked_images": kept})
    return Submission(folder, _about(folder))


def store_rows(board: Path, entry: str, run_dir: Path, about: Mapping[str, Any]) -> Submission:
    """Keep a run of another; it is shown, and lowers nothing."""
    folder = _next(board, entry)
    folder.mkdir(parents=True)
    write_table(folder / ABOUT, {"kind": ROWS, **about, "run": keep(run_dir, folder)})
    return Submission(folder, _about(folder))


def _next(board: Path, entry: str) -> Path:
    known = submissions_of(board, entry)
    return board / "submissions" / entry / str(known[-1].number + 1 if known else 1)


def _npy(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(pixels, dtype=np.float32))
    return buffer.getvalue()
