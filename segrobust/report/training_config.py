"""The config that a training left, as data: read as text, never run."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from segrobust.core.files import clear_io_errors
from segrobust.report.runs import shorten_paths

HOOK, FREE, VALIDATION = "AdversarialTrainingHook", "FreeAdversarialTrainingHook", "RobustValidationHook"
_BROKEN = (SyntaxError, ValueError, TypeError, RecursionError, MemoryError)


class TrainingConfig:
    """name: of its file, "" where there is none. text: paths cut to their last part. fields: its values, as far as they
    are literals."""

    def __init__(self, name: str = "", text: str = "") -> None:
        self.name, self.text = name, shorten_paths(text)
        self.fields = _fields(text)

    def hooks(self, kind: str) -> list[dict[str, Any]]:
        """The entries of ``custom_hooks`` of one type."""
        found = self.fields.get("custom_hooks")
        given = found if isinstance(found, list) else []
        return [one for one in given if isinstance(one, dict) and one.get("type") == kind]

    @property
    def attack(self) -> Any:
        """That of training: its fields or its name; of free training, which has none, the hook's own fields."""
        return next((hook.get("attack") for hook in self.hooks(HOOK)), next(iter(self.hooks(FREE)), None))

    def at(self, *names: str) -> Any:
        """The value under these names, one in the other; None where there is none."""
        value: Any = self.fields
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        return value


def config_of(folder: Path, start: Path) -> TrainingConfig:
    """The config of a start, called as the file that the work dir has of it."""
    kept = sorted(folder.glob("*.py"), key=lambda path: path.stat().st_mtime)
    stored = start / "vis_data" / "config.py"
    path = stored if stored.is_file() else kept[-1] if kept else None
    if path is None:
        return TrainingConfig()
    with clear_io_errors(f"read {path}", "check the permissions of the training's folder"):
        text = path.read_text(encoding="utf-8", errors="replace")
    return TrainingConfig(kept[-1].name if kept else "", text)


def _fields(text: str) -> dict[str, Any]:
    try:
        body = ast.parse(text).body
    except _BROKEN:
        return {}
    found: dict[str, Any] = {}
    for node in body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = _value(node.value)
            except _BROKEN:
                continue
    return found


def _value(node: ast.expr) -> Any:
    """What mmengine writes: literals in lists, tuples, dictionaries and ``dict(...)``."""
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(one) for one in node.elts]
    if isinstance(node, ast.Dict):
        return {_value(key): _value(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        return {keyword.arg: _value(keyword.value) for keyword in node.keywords if keyword.arg}
    value = ast.literal_eval(node)
    str(value)  # ValueError: a hexadecimal number too long to be written out
    return value


def described(attack: Any) -> str:
    """``TsallisPGD (eps 4/255, steps 3)``, its name and all that was set of it."""
    if not isinstance(attack, dict):
        return str(attack or "")
    said = ", ".join(f"{name} {value}" for name, value in attack.items() if name != "type")
    return f"{attack.get('type', '')} ({said})" if said else str(attack.get("type", ""))
