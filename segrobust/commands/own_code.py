"""Whether a config may bring code of the user's own, told from its text: reading it takes ten times as long."""

from __future__ import annotations

import ast
from pathlib import Path


def may_register(config: str | Path) -> bool:
    """Whether a Python config, or one that it inherits from, has ``custom_imports`` or imports anything itself."""
    return _may_register(Path(config).expanduser(), set())


def _may_register(file: Path, seen: set[Path]) -> bool:
    if file.suffix != ".py" or not file.is_file() or file.resolve() in seen:
        return False
    seen.add(file.resolve())
    try:
        body = ast.parse(file.read_bytes()).body
    except (SyntaxError, ValueError):
        return True  # reading it tells what is wrong
    if any(isinstance(node, ast.Import | ast.ImportFrom) for part in body for node in ast.walk(part)):
        return True
    assigned = {target.id: node.value for node in body if isinstance(node, ast.Assign) for target in node.targets
                if isinstance(target, ast.Name)}  # fmt: skip
    return "custom_imports" in assigned or any(
        _may_register(file.parent / base, seen) for base in _strings(assigned.get("_base_"))
    )


def _strings(node: ast.expr | None) -> list[str]:
    """The texts in an expression such as ``["a.py", "b.py"]``."""
    nodes = ast.walk(node) if node else ()
    return [part.value for part in nodes if isinstance(part, ast.Constant) and isinstance(part.value, str)]
