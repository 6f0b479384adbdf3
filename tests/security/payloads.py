"""Files that would run code where they are read carelessly: each leaves a marker file if it does."""

from __future__ import annotations

import builtins
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class Call:
    """Pickles as a call, which an ordinary unpickler makes while it reads."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


def weights() -> OrderedDict:
    return OrderedDict(weight=torch.ones(2, 2), bias=torch.zeros(2))


def payloads(marker: Path) -> dict[str, Any]:
    """Objects to save, by the trick they use; ``marker`` is the file they would make."""
    write = f"open({str(marker)!r}, 'w').close()"
    touch = f"touch {marker}"
    return {
        "posix.system": Call(os.system, touch),
        "builtins.eval": Call(eval, write),
        "builtins.exec": Call(exec, write),
        "builtins.getattr to a function": Call(Call, os, "system"),
        "getattr chain": Call(getattr(builtins, "getattr"), Call(getattr(builtins, "__import__"), "os"), "system"),  # noqa: B009
        "beside good weights": {"state_dict": weights(), "meta": {"hook": Call(os.system, touch)}},
        "as a weight": {"state_dict": OrderedDict(weights(), extra=Call(eval, write))},
        "in a tensor's attribute": OrderedDict(weights(), extra=Call(pickle.loads, pickle.dumps(Call(eval, write)))),
        "open": Call(open, str(marker), "w"),
        "torch.load inside": Call(torch.load, str(marker), "cpu"),
    }
