"""What a checkpoint file holds, told without any model and without running anything in it."""

from __future__ import annotations

import math
import os
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from segrobust.core.errors import UserError
from segrobust.models.checkpoint.averaged import EMA, RAW, WORDS, Weights, weights_in
from segrobust.models.checkpoint.loading import not_finite
from segrobust.models.checkpoint.naming import prefixes_of_wrappers, without_wrappers
from segrobust.models.checkpoint.reading import (
    HASHED_NAME,
    class_names_in,
    file_kind,
    read_checkpoint,
    safetensors_notes,
    sha256,
)

TOLD = ("epoch", "cur_epoch", "iter", "iteration", "global_step", "step", "time", "experiment_name", "exp_name",
        "mmengine_version", "mmseg_version", "pytorch-lightning_version")  # fmt: skip
LONGEST = 200  # of a text that a trainer stored
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def inspect_checkpoint(path: str | os.PathLike, trust: bool = False) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a checkpoint holds, as JSON could store it, and the weights that loading would take, without wrappers.

    Parameters are numbers of floating point outside BatchNorm's statistics; ``trust`` is that of ``load_state_dict``.

    Raises:
        UserError: as ``load_state_dict``; where there are no weights to be told, with the entries that are there.
    """
    content = read_checkpoint(path, trust)
    try:
        found = weights_in(content, path)
    except UserError as error:
        raise UserError(f"{error}{_entries(content)}") from error
    weights = without_wrappers(found.weights)
    shapes = [f"{key} {list(value.shape)}" for key, value in weights.items()]
    facts = {
        "file": str(path),
        "format": _format(path),
        "bytes": os.path.getsize(path),
        "sha256": (digest := sha256(path)),
        "file name": _promise(Path(path).name, digest),
        **_choice(found),
        "prefixes": prefixes_of_wrappers(found.weights),
        "tensors": len(weights),
        "parameters": _parameters(weights),
        "dtypes": dict(Counter(str(value.dtype).removeprefix("torch.") for value in weights.values())),
        "parts": _parts(weights),
        "outputs": {key.removesuffix(".weight"): value.shape[0] for key, value in weights.items()
                    if key.endswith("conv_seg.weight")},
        "first": shapes[0],
        "last": shapes[-1],
        "classes": list(class_names_in(safetensors_notes(path) or content)),
        "not finite": not_finite(weights),
        **_told(content),
        "besides": _besides(content, found),
    }  # fmt: skip
    return {name: value for name, value in facts.items() if value not in ([], {}, None)}, weights


def _format(path: str | os.PathLike) -> str:
    if file_kind(path) == "safetensors":
        return "safetensors"
    return "torch.save" if zipfile.is_zipfile(path) else "torch.save before torch 1.6"


def _promise(name: str, digest: str) -> str | None:
    """Whether the file is the one whose sha256 begins as its name says, where it says so."""
    if promised := HASHED_NAME.search(name):
        return (
            "promises this sha256"
            if digest.startswith(promised[1])
            else "promises another sha256: the file was changed or cut short"
        )
    return None


def _choice(found: Weights) -> dict[str, str | None]:
    """Where the weights lie that are taken, of which kind they are, and what there is besides."""
    others = None
    if found.nameless is not None:
        others = f"{WORDS[EMA]}, in a list without names ({found.nameless})"
    elif found.others is not None:
        kind = EMA if found.kind == RAW else RAW
        others = f"{WORDS[kind]}, in {found.others}; --weights {kind} takes them"
    return {"envelope": found.entry, "weights": WORDS[found.kind], "other weights": others}


def _parameters(weights: Mapping[str, Tensor]) -> int:
    return sum(value.numel() for key, value in weights.items()
               if value.is_floating_point() and key.rpartition(".")[2] not in STATISTICS)  # fmt: skip


def _parts(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """The parameters below each first part of the names, in the order of the file."""
    inside: dict[str, dict[str, Tensor]] = {}
    for key, value in weights.items():
        inside.setdefault(key.partition(".")[0], {})[key] = value
    return {part: _parameters(these) for part, these in inside.items()}


def _told(content: Any) -> dict[str, Any]:
    """What a trainer stored about the training, beside the weights or in ``meta``, as far as it is one short value."""
    meta = content.get("meta")
    found = {}
    for place in (content, meta if isinstance(meta, Mapping) else {}):
        found |= {name: value for name in TOLD if (value := _short(place.get(name))) is not None}
    return found


def _short(value: Any) -> str | int | float | None:
    """A number or one short line; None for anything else."""
    if isinstance(value, np.generic) or (isinstance(value, Tensor) and value.numel() == 1):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str):
        return value if len(value) <= LONGEST and len(value.splitlines()) == 1 else None
    return value if isinstance(value, int | float) else None


def _besides(content: Mapping[Any, Any], found: Weights) -> list[str]:
    """The entries of a file that hold none of the weights."""
    if found.entry == "the whole file" or content.keys() == found.weights.keys():
        return []
    taken = {"meta", found.entry.split(".")[0], str(found.others).split(".")[0], *TOLD}
    return sorted({str(name) for name in content} - taken)


def _entries(content: Any) -> str:
    """What a file holds in which no weights were found, and which of its entries are named weights."""
    if not isinstance(content, Mapping):
        return ""
    if inside := list(_state_dicts(content)):
        return (f"; named weights lie in {', '.join(inside[:8])}: name one as envelope={inside[0]!r} in "
                "model=dict(type='PythonSegmenter', ...)")  # fmt: skip
    return f"; it holds {', '.join(f'{str(key)!r}: {type(content[key]).__name__}' for key in list(content)[:8])}"


def _state_dicts(node: Any, place: str = "", depth: int = 4) -> Iterator[str]:
    """The places of what looks like a state dict inside of others: tensors alone, some of them in a part of a model."""
    if not isinstance(node, Mapping) or not depth:
        return
    if place and any("." in str(key) for key in node) and all(isinstance(value, Tensor) for value in node.values()):
        yield place
        return
    for key, value in node.items():
        yield from _state_dicts(value, f"{place}.{key}" if place else str(key), depth - 1)
