"""A user's own modules, which ``--import`` or a config's ``custom_imports`` name: where Python finds them."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from segrobust.core.errors import UserError, first_line


def see_folder(folder: Path) -> None:
    """Let Python find modules in a folder; last, so that they hide no others."""
    if folder not in {Path(part).resolve() for part in sys.path}:
        sys.path.append(str(folder))


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
