"""Code of the user's own, which registers attacks, models or data: ``--import``, and a config's ``custom_imports``."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path

from segrobust.core.errors import UserError, first_line
from segrobust.core.import_path import see_folder


def import_own(names: Iterable[str]) -> None:
    """Import files such as ``my_attack.py`` and modules such as ``my_package.attacks``.

    Raises:
        UserError: there is no such file or module, it fails, or Python has another module of a file's name.
    """
    see_folder(Path.cwd())
    importlib.invalidate_caches()
    for name in names:
        try:
            importlib.import_module(_module_of(Path(name)) if name.endswith(".py") else name)
        except UserError as error:
            raise UserError(f"--import {name}: {error}") from error
        except (Exception, SystemExit) as error:  # a program may end in any way
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise UserError(f"--import {name}: cannot be imported: {reason}") from error


def _module_of(file: Path) -> str:
    """The name under which Python finds the file, and a config's ``custom_imports`` too: one file, one module."""
    if not file.is_file():
        raise UserError("no such file; name a Python file or a module that Python finds")
    file = file.resolve()
    see_folder(file.parent)
    found = importlib.util.find_spec(file.stem)
    if found is None or found.origin is None or Path(found.origin).resolve() != file:
        raise UserError(f"Python has another module {file.stem!r}, from {found and found.origin}; rename the file")
    return file.stem


def may_register(config: str | Path) -> bool:
    """Whether a Python config, or one that it inherits from, has ``custom_imports`` or imports anything itself.

    Told from its text: reading it takes ten times as long.
    """
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
