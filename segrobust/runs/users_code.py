"""A run's code that no version tells: attacks and networks that are neither segrobust's nor a known library's.

One digest per module in which a class of them, a base of one, or a function that made a network is written: of the
whole file, whose functions and constants it may use. What the file imports is followed through classes only.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

# the identity has their versions, and a digest of segrobust's own code
KNOWN = {"segrobust", "torch", "torchvision", "timm", "mmcv", "mmengine", "mmseg", "numpy", *sys.stdlib_module_names}


def users_code(made_of: Iterable[Any]) -> dict[str, str]:
    """sha256 by the name of every module that holds a class of these objects and, of networks, of their parts, or made
    one of them (``made_by``)."""
    parts = [part for one in made_of for part in (one.modules() if isinstance(one, nn.Module) else [one])]
    sources: dict[str, set[str]] = {}
    makers = {maker for part in parts for maker in getattr(part, "made_by", ())}
    for one in makers | {base for kind in map(type, parts) for base in kind.__mro__}:
        if (name := _home(one)).partition(".")[0] not in KNOWN:
            sources.setdefault(name, set()).add(_source_sha256(one))
    return {
        name: hashlib.sha256("".join(sorted(found)).encode()).hexdigest() for name, found in sorted(sources.items())
    }


def _home(one: Any) -> str:
    """The name of the module in which a class or a function is written, or of one itself."""
    return one.__name__ if isinstance(one, ModuleType) else getattr(one, "__module__", None) or type(one).__module__


@functools.cache  # a file that is edited while this process runs, is not what runs
def _source_sha256(one: Any) -> str:
    file = getattr(sys.modules.get(_home(one)), "__file__", None)
    source = Path(file).read_bytes() if file and Path(file).is_file() else _typed(one).encode()
    return hashlib.sha256(source).hexdigest()


def _typed(one: Any) -> str:
    """The text with which a class or a function came into a session, as in a notebook; empty where none is kept."""
    for value in [one] if inspect.isfunction(one) else vars(one).values():
        function = inspect.unwrap(getattr(value, "__func__", value))
        if inspect.isfunction(function):
            with contextlib.suppress(OSError):
                return "".join(inspect.findsource(function)[0])
    return ""
