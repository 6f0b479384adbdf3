"""The published JSON Schemas of the leaderboard's files, and the check against them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from segrobust.core.errors import UserError
from segrobust.core.files import read_json

FOLDER = Path(__file__).parent / "schema"


@functools.cache
def validator(name: str) -> Draft202012Validator:
    """Of ``entry`` or ``leaderboard``."""
    return Draft202012Validator(read_json(FOLDER / f"{name}.schema.json"))


def violation(name: str, content: Any) -> str:
    """The first thing that does not fit the schema, in words; empty where all does."""
    error = next(iter(sorted(validator(name).iter_errors(content), key=lambda one: list(map(str, one.path)))), None)
    if error is None:
        return ""
    message = error.message if len(error.message) <= 200 else f"{error.message[:200]}..."
    return f"{'/'.join(map(str, error.absolute_path)) or 'the whole'}: {message}"


def check_schema(name: str, content: Any, file: Path) -> None:
    """UserError: what does not fit, and where."""
    if problem := violation(name, content):
        raise UserError(f"{file} does not fit {name}.schema.json: {problem}")
