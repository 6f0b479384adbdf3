"""One digest for what a config says of a model or of data, whatever the place of the files that it names."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

PLACES = frozenset(
    {"init_cfg", "pretrained", "data_root", "data_prefix", "ann_file", "folder", "backbone_weights"}
)  # files have their own digests
IN_A_FILE = frozenset({"factory"})  # a function by the path of its file, whose code has its own digest
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def config_sha256(settings: Any) -> str:
    """sha256 of config entries: equal for equal settings in any order, and on any machine."""
    return hashlib.sha256(json.dumps(_plain(settings), sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        kept = {key: one for key, one in value.items() if key not in PLACES}
        return {str(key): _plain(_without_folder(one) if key in IN_A_FILE else one) for key, one in kept.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    named = getattr(value, "__qualname__", None)  # a class or function, where a config names its types so
    return f"{value.__module__}.{named}" if named else ADDRESS.sub("", repr(value))


def _without_folder(value: Any) -> Any:
    return re.sub(r".*[/\\]", "", value) if isinstance(value, str) else value
