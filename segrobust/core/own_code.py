"""A user's own modules and functions, which a command or a config names: where Python finds them. Imports no torch."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from segrobust.core.errors import UserError, first_line, unknown_name

# hf:FOLDER and smp:FOLDER name models of other libraries (segrobust.models.saved)
FUNCTION = re.compile(r"(?!(?:hf|smp):)(?P<module>[^:]+\.py|[\w.]+):(?P<function>[A-Za-z_]\w*)")


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


def names_function(text: str) -> bool:
    """Whether it has the form of ``my_net.py:build`` or ``package.module:build``."""
    return FUNCTION.fullmatch(text) is not None


def own_function(text: str, folders: Sequence[Path] = ()) -> tuple[ModuleType, Callable[..., Any]]:
    """The function that ``my_net.py:build`` or ``package.module:build`` names, and the module in which it was found.

    Args:
        folders: where a relative file is looked for, before the current folder.

    Raises:
        UserError: another form, no such file, module or function, or the module fails.
    """
    named = FUNCTION.fullmatch(text)
    if named is None:
        raise UserError(f"expected FILE.py:FUNCTION or MODULE:FUNCTION, such as my_net.py:build, got {text!r}")
    name, wanted = named["module"], named["function"]
    see_folder(Path.cwd())
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(_module_of(_found(name, folders)) if name.endswith(".py") else name)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    except (Exception, SystemExit) as error:  # a program may end in any way
        raise UserError(f"{name}: cannot be imported: {type(error).__name__}: {first_line(error)}") from error
    functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    if not callable(function := getattr(module, wanted, None)):
        raise UserError(f"{name}: {unknown_name('function', wanted, functions)}")
    return module, function


@functools.cache  # a file that is edited while this process runs, is not what runs; read anew it has another function
def files_of(module: ModuleType, function: Callable[..., Any]) -> dict[str, str]:
    """sha256 by name of the module in which a function was found, and of the one in which it is written."""
    home = sys.modules.get(getattr(function, "__module__", None) or "", module)
    files = {one.__name__: getattr(one, "__file__", None) for one in (module, home)}
    return {name: hashlib.sha256(Path(file).read_bytes()).hexdigest() for name, file in files.items() if file}


def _found(name: str, folders: Sequence[Path]) -> Path:
    """The file of this name in the first of the folders that has it, else in the current one."""
    return next((folder / name for folder in folders if (folder / name).is_file()), Path(name))


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
