"""Small helpers for the leaderboard's files."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from segrobust.core.errors import UserError
from segrobust.core.files import clear_io_errors, read_json, replace_file


def slug(text: str) -> str:
    """Text as part of a file's name: small letters, digits, dots and single dashes, 60 at most."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:60].strip("-.") or "model"


def digests_of(folder: Path, leave_out: str = "") -> dict[str, str]:
    """sha256 by name of the files below a folder, but for hidden ones and those whose name begins so."""
    found = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    return {
        name: hashlib.sha256(file.read_bytes()).hexdigest()
        for name, file in found.items()
        if not (leave_out and name.startswith(leave_out)) and not file.name.startswith(".")
    }


def read_table(path: Path) -> dict[str, Any]:
    """A JSON object; UserError: there is no such file, or it is none."""
    with clear_io_errors(f"read {path}", "is this a leaderboard?"):
        content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, as segrobust writes it")
    return content


def write_table(path: Path, content: Any) -> None:
    """Replace a JSON file as a whole or not at all."""
    with clear_io_errors(f"create {path.parent}", "choose a --board that can be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, (json.dumps(content, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode())
