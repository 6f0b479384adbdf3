"""The scores of the validations that a resumed training goes on from, as its earlier starts logged them.

A checkpoint does not have them all: it is written before the validation of its own iteration.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.hooks import LoggerHook

from segrobust.core.files import clear_io_errors


def validations_before(runner: Any, scores: Sequence[str]) -> list[dict[str, Any]]:
    """All numbers of each validation that stands, in order.

    What a later start logged replaces what an earlier one had from there on; one that trained nothing replaces nothing.

    Args:
        scores: a line that has one of these is a validation's.
    """
    by_epoch = any(hook.log_metric_by_epoch for hook in runner.hooks if isinstance(hook, LoggerHook))
    done = runner.epoch if by_epoch else runner.iter
    found: dict[int, dict[str, Any]] = {}
    for path in sorted(Path(runner.work_dir).glob("*/vis_data/scalars.json")) if done else ():
        with clear_io_errors(f"read {path}", "check the permissions of the training's folder"):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        logged = [line for line in map(_numbers, lines) if line]
        validated = {line["step"]: line for line in logged if any(name in line for name in scores)}
        trained = [line.get("epoch", 0) if by_epoch else line["step"] for line in logged if "lr" in line]
        if trained:
            first = min([*trained, *validated])
            found = {step: line for step, line in found.items() if step < first} | validated
    return [line for step, line in found.items() if step <= done]


def _numbers(line: str) -> dict[str, Any] | None:
    """A line of the file; None for one that a kill cut off."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("step"), int) else None
