"""Runs as the leaderboard keeps them: small, without the names of machines and people, and with a digest per file.

What is kept is a run folder again, so that everything that reads one reads this too: ``run.json``, ``conditions.json``,
``images.json``, ``summary.json``, ``checks.json``, ``rows/rank-0.jsonl`` and, where attacked images were saved,
``adversarial.json`` with their digests and, where they are small, the images.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from segrobust.analysis.summary import Record, summarise
from segrobust.checks.basis import FILE as CHECKS
from segrobust.checks.basis import basis_of, digest_of, with_digest
from segrobust.core.errors import UserError
from segrobust.core.files import replace_file
from segrobust.core.rows import ATTACK, CLEAN, Condition, Row, check_complete, encode
from segrobust.leaderboard.files import digests_of, read_table, slug
from segrobust.report.runs import PRIVATE, Run, load_runs, shorten_paths
from segrobust.runs.folder import RunFolder

MOST_BYTES = 16 * 2**20  # of attacked images that are copied
POINTER = "adversarial.json"
_COSTS = ("seconds", "images_per_second", "peak_bytes")
_NEAR = 1e-3  # points by which a metric that is computed again may differ


@dataclass(frozen=True)
class Evidence:
    """One run that was added.

    name: of its folder, as entries call it.
    run: what a report shows of it. rows: all of them, complete.
    """

    name: str
    run: Run
    identity: Mapping[str, Any]
    about: Mapping[str, Any]
    rows: list[Row]

    @property
    def conditions(self) -> list[Condition]:
        return list({row.condition: None for row in self.rows})

    @cached_property
    def places(self) -> dict[str, int]:
        """The place in rows of an image by its digest."""
        return {sha256: place for place, (_, sha256) in enumerate(self.run.images)}

    @property
    def num_classes(self) -> int:
        return self.identity["num_classes"]

    @property
    def fingerprint(self) -> str:
        """Of its images, in any order."""
        return digest_of(sorted(self.places))


def read_evidence(path: Path, name: str = "") -> Evidence:
    """A finished, untouched run; of the leaderboard or from elsewhere.

    Raises:
        UserError: no finished run, rows that are missing, a summary that does not follow from the rows, or checks that
            were edited or are those of another state.
    """
    (run,), folder = load_runs([path]), RunFolder(path)
    stored, rows = folder.read_json("run.json"), folder.rows()
    check_complete(rows, folder.conditions(), len(run.images), path)
    num_classes = stored["identity"].get("num_classes")
    if type(num_classes) is not int or not any(one.study == CLEAN for one in folder.conditions()):
        raise UserError(f"{path}: expected a run with clean images and the number of classes; evaluate again")
    made_again = summarise(rows, num_classes, folder.timings(), len(run.images))
    if difference := _difference(folder.read_json("summary.json"), made_again):
        raise UserError(f"{path}/summary.json does not follow from the rows ({difference}); run the evaluation again")
    if run.trust and run.trust.checks and run.trust.doubt:
        raise UserError(f"{path}: {run.trust.doubt}")
    if problem := _inconsistent(rows):
        raise UserError(f"{path}: {problem}; start anew with --fresh")
    return Evidence(name or path.name, run, stored["identity"], stored["about"], rows)


def keep(path: Path, board: Path) -> str:
    """Copy a run into ``evidence/<name>`` of the leaderboard and return the name; the same run twice is there once.

    Raises:
        UserError: as :func:`read_evidence`.
    """
    given, source = read_evidence(path), RunFolder(path)
    conditions = {one: _public_condition(one) for one in source.conditions()}
    rows = [replace(row, condition=conditions[row.condition]) for row in given.rows]
    lines = "".join(f"{json.dumps(encode(row), separators=(',', ':'))}\n" for row in rows).encode()
    identity = public(given.identity)
    digest = hashlib.sha256(lines + digest_of([identity, sorted(given.places)]).encode()).hexdigest()
    name = f"{slug(given.run.facts.get('model', path.name))}-{digest[:10]}"
    target = RunFolder(board / "evidence" / name)
    shutil.rmtree(target.path, ignore_errors=True)  # what a kill has left, or the same
    (target.path / "rows").mkdir(parents=True)
    replace_file(target.path / "rows" / "rank-0.jsonl", lines)
    run = source.read_json("run.json")
    target.write_json("run.json", {**run, "identity": identity, "about": public(run["about"])})
    target.write_json("conditions.json", [one.description() for one in conditions.values()])
    target.write_json("images.json", public(source.read_json("images.json")))
    count = len(given.run.images)
    target.write_json("summary.json", summarise(given.rows, given.num_classes, source.timings(), count))
    if (path / CHECKS).is_file():  # its digests are of files that were changed just now
        checks = public(source.read_json(CHECKS))
        target.write_json(CHECKS, with_digest({**checks, "basis": basis_of(target)}))
    _keep_images(path / "adversarial", target, {old.folder: new.folder for old, new in conditions.items()})
    return name


def _keep_images(folder: Path, target: RunFolder, names: Mapping[str, str]) -> None:
    files = {f"{names[file.parent.name]}/{file.name}": file for file in sorted(folder.glob("*/*.npy"))
             if file.parent.name in names}  # fmt: skip
    if not files:
        return
    size = sum(file.stat().st_size for file in files.values())
    pointer = {"files": {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}}
    target.write_json(POINTER, {**pointer, "bytes": size, "stored": size <= MOST_BYTES})
    for name, file in files.items() if size <= MOST_BYTES else ():
        place = target.path / "adversarial" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        replace_file(place, file.read_bytes())


def public(value: Any) -> Any:
    """A JSON value as a report shows it: no names of machines and people, paths cut to their last part."""
    if isinstance(value, Mapping):
        return {name: public(one) for name, one in value.items() if not PRIVATE.search(str(name))}
    if isinstance(value, list | tuple):
        return [public(one) for one in value]
    return shorten_paths(value) if isinstance(value, str) else value


def _public_condition(one: Condition) -> Condition:
    given = {name: public(getattr(one, name)) for name in ("name", "surrogate", "candidate", "fields")}
    return replace(one, **given)


def attacked_images(folder: Path) -> dict[str, Any] | None:
    """Of a kept run, ``{files: {name: sha256}, bytes, stored}``; None where none were saved."""
    return read_table(folder / POINTER) if (folder / POINTER).is_file() else None


def files_of(folder: Path) -> dict[str, str]:
    """sha256 of every file of a kept run, by its name; the images' stand in ``adversarial.json``."""
    return digests_of(folder, leave_out="adversarial/")


def _difference(stored: Any, made_again: Sequence[Record]) -> str:
    """Where two summaries differ in a metric, in words; costs and intervals, which are drawn, may."""
    if not isinstance(stored, list) or len(stored) != len(made_again):
        return "another number of records"
    for one, other in zip(stored, made_again, strict=True):
        left_out = (*_COSTS, "ci")
        for name in [name for name in other if name in one and name not in left_out]:
            if not _same(one[name], other[name]):
                return f"{name} of {other['name']}"
    return ""


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other))
    return abs(one - other) <= _NEAR if numbers else one == other


def _inconsistent(rows: Sequence[Row]) -> str:
    """What shows that rows are not of the same images, or none that an evaluation counts; empty where nothing does."""
    truth: dict[int, dict[int, int]] = {}
    for row in rows:
        counts = row.counts
        if any(type(n) is not int or n < 0 for name in ("tp", "fp", "fn") for n in counts[name]):
            return f"image {row.image} under {row.condition.title} has counts below 0"
        if sum(counts["fp"]) != sum(counts["fn"]):  # every labelled pixel is given to one class
            return f"image {row.image} under {row.condition.title} has more wrong pixels than wrong predictions"
        if row.condition.study not in (CLEAN, ATTACK):  # under a patch there are no labels
            continue
        labels = {
            c: tp + fn for c, tp, fn in zip(counts["classes"], counts["tp"], counts["fn"], strict=True) if tp + fn
        }
        if truth.setdefault(row.image, labels) != labels:
            return f"the labels of image {row.image} are not the same under {row.condition.title}"
    return ""


def shown_name(identity: Mapping[str, Any]) -> str:
    """The data's, without mmseg's ending."""
    return re.sub(r"(?<=.)Dataset$", "", str(identity.get("dataset", "data of the caller's")))
