"""``benchmark.json``: the models and studies of a benchmark, and how far each of its cells has come."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segrobust.commands.benchmark_file import BenchmarkFile
from segrobust.core.errors import UserError
from segrobust.core.files import clear_io_errors, read_json, replace_file

FILE, FORMAT = "benchmark.json", 1
DONE, FAILED, MISSING = STATUSES = "done", "failed", "missing"


class BenchmarkState:
    """The cells by model and study, each with its status and what it failed with.

    A cell that an earlier start left keeps its status where its model and study are described as they were.

    Raises:
        UserError: a ``benchmark.json`` that segrobust did not write.
    """

    def __init__(self, file: BenchmarkFile, work_dir: Path) -> None:
        self.file, self.work_dir = file, work_dir
        self._content = file.content()
        before = self._before()
        self._cells: dict[tuple[str, str], tuple[str, str | None]] = {}
        for model in self._content["models"]:
            for study in self._content["studies"]:
                same = model in before.get("models", ()) and study in before.get("studies", ())
                key = model["name"], study["name"]
                known = [(one["status"], one["error"]) for one in before.get("cells", ()) if _key(one) == key]
                self._cells[key] = known[0] if known and same else (MISSING, None)

    def put(self, model: str, study: str, error: str | None) -> None:
        """The cell is done, or it failed with an error."""
        self._cells[model, study] = DONE if error is None else FAILED, error

    def done(self) -> list[tuple[str, str, Path]]:
        """Model, study and run folder of the cells that are done."""
        return [(*key, self.work_dir.joinpath(*key)) for key, (status, _) in self._cells.items() if status == DONE]

    def others(self) -> Iterator[tuple[str, str, str, str]]:
        """Model, study, status and error of all others."""
        for key, (status, error) in self._cells.items():
            if status != DONE:
                yield *key, status, error or ""

    def write(self) -> None:
        """Replace the file as a whole or not at all."""
        cells = [
            {"model": model, "study": study, "folder": f"{model}/{study}", "status": status, "error": error}
            for (model, study), (status, error) in self._cells.items()
        ]
        content = {"format": FORMAT, "config_sha256": self.file.sha256, **self._content, "cells": cells}
        with clear_io_errors(f"create {self.work_dir}", "choose a --work-dir that can be written"):
            self.work_dir.mkdir(parents=True, exist_ok=True)
        replace_file(self.work_dir / FILE, json.dumps(content, indent=1).encode() + b"\n")

    def _before(self) -> dict[str, Any]:
        path = self.work_dir / FILE
        if not path.is_file():
            return {}
        content = read_json(path)
        cells = content.get("cells") if isinstance(content, dict) and content.get("format") == FORMAT else None
        if not isinstance(cells, list) or not all(map(_is_cell, cells)):
            raise UserError(f"{path}: not written by this version of segrobust; remove it, the cells' results stay")
        return content


def _key(cell: dict[str, Any]) -> tuple[str, str]:
    return cell["model"], cell["study"]


def _is_cell(one: Any) -> bool:
    texts = isinstance(one, dict) and all(isinstance(one.get(name), str) for name in ("model", "study", "status"))
    return texts and one["status"] in STATUSES and isinstance(one.get("error"), str | None)
