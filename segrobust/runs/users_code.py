"""A run's code that no version tells: attacks and networks that are neither segrobust's nor a known library's.

One digest per module in which a class of them, or a base of one, is written, or a function that made a network: of the
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
from typing import Any

from torch import nn

# the identity has their versions, and a digest of segrobust's own code
KNOWN = {"segrobust", "torch", "torchvision", "timm", "mmcv", "mmengine", "mmseg", "numpy", *sys.stdlib_module_names}


def users_code(made_of: Iterable[Any]) -> dict[str, str]:
    """sha256 by the name of every module that holds a class of these objects and, of networks, of their parts, or made
    one of them (``made_by``)."""
    parts = [part for one in made_of for part in (one.modules() if isinstance(one, nn.Module) else [one])]
    sources: dict[str, set[str]] = {}
    for cls in {base for kind in map(type, parts) for base in kind.__mro__}:
        if cls.__module__.partition(".")[0] not in KNOWN:
            sources.setdefault(cls.__module__, set()).add(_source_sha256(cls))
    for name, sha256 in (pair for part in parts for pair in getattr(part, "made_by", {}).items()):
        if name.partition(".")[0] not in KNOWN:
            sources.setdefault(name, set()).add(sha256)
    return {
        name: hashlib.sha256("".join(sorted(found)).encode()).hexdigest() for name, found in sorted(sources.items())
    }


@functools.cache  # a file that is edited while this process runs, is not what runs
def _source_sha256(cls: type) -> str:
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    source = Path(file).read_bytes() if file and Path(file).is_file() else _typed(cls).encode()
    return hashlib.sha256(source).hexdigest()


def _typed(cls: type) -> str:
    """The text with which a class came into a session, such as a notebook's cell; empty where none was kept."""
    for value in vars(cls).values():
        function = inspect.unwrap(getattr(value, "__func__", value))
        if inspect.isfunction(function):
            with contextlib.suppress(OSError):
                return "".join(inspect.findsource(function)[0])
    return ""
