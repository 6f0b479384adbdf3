"""Does a leaderboard follow from what it keeps? Schema, digests, metrics, ranks and page; no model is needed here."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segrobust.core.errors import UserError
from segrobust.leaderboard.board import Board
from segrobust.leaderboard.evidence import attacked_images, files_of
from segrobust.leaderboard.files import digests_of, read_table
from segrobust.leaderboard.page import render
from segrobust.leaderboard.ranking import table_of
from segrobust.leaderboard.schemas import violation

NEAR = 1e-5  # of a number: another version of numpy may round otherwise


def problems_of(board: Board) -> dict[str, list[str]]:
    """What is wrong, by entry (``leaderboard`` for what all share); empty lists where nothing is.

    Raises:
        UserError: no leaderboard.
    """
    files = board.entry_files()
    if not files:
        raise UserError(f"{board.path} has no entries; add one with `segrobust leaderboard add RUN_DIR`")
    found = {file.stem: _told(_entry_problems, board, file) for file in files}
    sound = not any(found.values())
    return found | {"leaderboard": _told(_table_problems, board) if sound else ["not looked at: an entry is wrong"]}


def _told(look: Any, *given: Any) -> list[str]:
    try:
        return look(*given)
    except UserError as error:
        return [str(error)]


def _entry_problems(board: Board, file: Path) -> list[str]:
    entry = read_table(file)
    if problem := violation("entry", entry):
        return [f"does not fit entry.schema.json: {problem}"]
    if entry["id"] != file.stem:
        return [f"its id is {entry['id']!r}, unlike its file's name"]
    problems = []
    for one in entry["evidence"]:
        folder = board.path / "evidence" / one["run"]
        problems += _changed(f"evidence/{one['run']}", one["files"], files_of(folder))
        problems += _changed_images(folder)
    for one in entry["submissions"]:
        folder = board.path / "submissions" / entry["id"] / str(one["number"])
        problems += _changed(f"submission {one['number']}", one["files"], digests_of(folder))
    if problems:
        return problems
    again = board.made_again(entry)
    return [f"{name} does not follow from the rows" for name in again if not _alike(entry[name], again[name])]


def _changed(what: str, stored: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    return [
        f"{what}: {name} {'is missing' if name not in here else 'was added' if name not in stored else 'was edited'}"
        for name in sorted({**stored, **here})
        if stored.get(name) != here.get(name)
    ]


def _changed_images(folder: Path) -> list[str]:
    pointer = attacked_images(folder)
    if not pointer or not pointer["stored"]:
        return []
    files = {name: folder / "adversarial" / name for name in pointer["files"]}
    here = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items() if file.is_file()}
    return _changed(f"evidence/{folder.name}/adversarial", pointer["files"], here)


def _table_problems(board: Board) -> list[str]:
    entries = board.entries()
    table, stored = table_of(entries), board.path / "leaderboard.json"
    if not stored.is_file():
        return ["leaderboard.json is missing; write it with `segrobust leaderboard build`"]
    content = read_table(stored)
    if problem := violation("leaderboard", content):
        return [f"leaderboard.json does not fit leaderboard.schema.json: {problem}"]
    comparable = {**table, "segrobust": content["segrobust"]}  # of the version that built it
    if json.loads(json.dumps(comparable)) != content:
        return ["leaderboard.json does not follow from the entries; build it again"]
    page = board.path / "index.html"
    if not page.is_file() or page.read_text(encoding="utf-8") != render(content):
        return ["index.html does not show leaderboard.json; build it again"]
    return []


def _alike(one: Any, other: Any) -> bool:
    """Equal, but for rounding."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, float) or isinstance(other, float):
        return None not in (one, other) and math.isclose(one, other, rel_tol=NEAR, abs_tol=1e-9)
    return one == other
