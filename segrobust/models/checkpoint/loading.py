"""Checkpoints: weights out of any training wrapper, loaded only where every key fits, and conversion to safetensors."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor, nn

from segrobust.core.errors import UserError, unknown_name
from segrobust.core.files import replace_file
from segrobust.models.checkpoint.averaged import weights_in
from segrobust.models.checkpoint.naming import prefixes_between, renamed, without_wrappers
from segrobust.models.checkpoint.reading import CLASSES, class_names_in, read_checkpoint, safetensors_notes, sha256

__all__ = ["convert_checkpoint", "load_from_strict", "load_state_dict", "load_strict", "sha256"]
LOGGER = logging.getLogger(__name__)
AUXILIARY = "auxiliary_head."  # of mmseg, for training alone


def load_state_dict(
    path: str | os.PathLike, trust: bool = False, weights: str | None = None, envelope: str | None = None
) -> dict[str, Tensor]:
    """The weights in a file, on the CPU, without the entries and prefixes (``module.``, ``_orig_mod.``) around them.

    Args:
        path: safetensors, or a file of ``torch.save``.
        trust: read a pickle that needs arbitrary code after all, and log it. It can run any program.
        weights: ``"raw"`` or ``"ema"`` (averaged) where a file holds both; otherwise logged; see ``averaged.py``.
        envelope: the entry that holds the weights, such as ``"nets.student"``, where it cannot be told; a training of
            mmengine's own that began with them has it no more.

    Raises:
        UserError: not a file, not a checkpoint, damaged, without (such) weights or entry, or it wants to run code.
    """
    content = read_checkpoint(path, trust)
    if envelope is not None and not _goes_on(content, envelope):
        content = _inside(content, envelope, path)
    return _taken(content, path, weights)


def _taken(content: Any, path: str | os.PathLike, weights: str | None) -> dict[str, Tensor]:
    """The weights of this kind, without prefixes; where the file leaves a choice and none was made, it is logged."""
    found = weights_in(content, path, weights)
    if weights is None and (text := found.describe(path)):
        LOGGER.warning("%s", text)
    return without_wrappers(found.weights)


def _goes_on(content: Any, envelope: str) -> bool:
    """Whether mmengine wrote the file, without that entry."""
    meta = content.get("meta") if isinstance(content, Mapping) else None
    return isinstance(meta, Mapping) and "mmengine_version" in meta and envelope.partition(".")[0] not in content


def _inside(content: Any, envelope: str, path: str | os.PathLike) -> Any:
    """The entry ``a.b`` of what a file holds; UserError: there is none of this name."""
    if isinstance(content, Mapping) and envelope in content:
        return content[envelope]
    for name in envelope.split("."):
        known = list(map(str, content)) if isinstance(content, Mapping) else []
        if name not in known:
            error = unknown_name("envelope", name, known[:20])
            raise UserError(f"{path}: {error}")
        content = content[name]
    return content


def load_strict(module: nn.Module, state_dict: Mapping[str, Tensor], source: str | os.PathLike) -> None:
    """Load weights into ``module``; all keys, shapes and kinds of numbers must match (half precision is widened).

    What wrappers put before all keys (``module.``, ``_orig_mod.``, ``model.``, ``net.``, in any nesting) is taken off,
    or put on, where the keys then match. BatchNorm's step counters may be missing: old files lack them, and nothing in
    evaluation reads them.

    Raises:
        UserError: says what does not fit first, and the numbers of classes where those differ.
    """
    own = module.state_dict()
    state_dict = renamed(own, state_dict)
    if misfit := misfit_of(own, state_dict):
        raise UserError(f"{source}: {misfit}")
    if broken := not_finite(state_dict):
        raise UserError(f"{source}: {_several(broken)} holds NaN or infinity; the training that wrote it diverged")
    module.load_state_dict({**own, **state_dict}, strict=True)


def not_finite(tensors: Mapping[str, Any]) -> list[str]:
    """The names of the floating-point tensors with NaN or infinity in them; one wait for the device."""
    floats = {name: value for name, value in tensors.items() if isinstance(value, Tensor) and value.is_floating_point()}
    whole = torch.stack([value.isfinite().all() for value in floats.values()]).tolist() if floats else []
    return [name for name, finite in zip(floats, whole, strict=True) if not finite]


class Comparison(NamedTuple):
    """What of some weights does not fit a model: names of either alone, of other shapes, of other kinds of numbers."""

    missing: list[str]
    unexpected: list[str]
    shapes: list[str]
    kinds: list[str]


def compared(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Comparison:
    """``given`` beside the state dict of a model; BatchNorm's step counters are not missed."""
    both = [key for key in given if key in own]
    return Comparison(
        missing=[key for key in own if key not in given and not _counts(key)],
        unexpected=[key for key in given if key not in own],
        shapes=[key for key in both if given[key].shape != own[key].shape],
        kinds=[key for key in both if given[key].dtype.is_floating_point != own[key].dtype.is_floating_point],
    )


def _counts(key: str) -> bool:
    """Whether it is BatchNorm's number of steps."""
    return key.endswith("num_batches_tracked")


def misfit_of(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """The one line about what does not fit, or nothing."""
    missing, unexpected, shapes, kinds = compared(own, given)
    if missing and (prefixes := prefixes_between(own, unexpected)):
        before = " and ".join(map(repr, prefixes))
        return f"{before} before the names of weights is in the way; save the state_dict() of the network inside"
    if unexpected and not own.keys() & given.keys():
        return f"the weights of another model: no key fits (such as {unexpected[0]}; the model has {missing[0]})"
    if missing or unexpected:
        parts = [f"the file lacks {_several(missing)}"] if missing else []
        parts += [f"the model has no place for {_several(unexpected)}"] if unexpected else []
        return f"the weights do not fit this model: {', '.join(parts)}; {_advice(own, missing, unexpected)}"
    if shapes:
        return _shape_misfit([(key, tuple(given[key].shape), tuple(own[key].shape)) for key in shapes])
    return f"{_several(kinds)}: integers and floating point numbers are mixed up" if kinds else ""


def _advice(own: Mapping[str, Tensor], missing: list[str], unexpected: list[str]) -> str:
    """What to do about names that only the model or only the file has."""
    own_head = [key for key in own if key.startswith(AUXILIARY) and not _counts(key)]
    if not unexpected and missing == own_head:
        return "it plays no part in the answers: leave it out of the config with model.auxiliary_head=None"
    if not missing and not own_head and all(key.startswith(AUXILIARY) for key in unexpected):
        return "put the auxiliary_head that it was trained with into the config"
    return "is it the right config?"


def _shape_misfit(shapes: list[tuple[str, tuple, tuple]]) -> str:
    """Where all differ in the number of rows alone, and by the same numbers, those are numbers of classes."""
    key, got, wanted = shapes[0]
    rows = {(given[:1], own[:1]) for _, given, own in shapes}
    if len(rows) == 1 and all(given and given[1:] == own[1:] for _, given, own in shapes):
        keys = _several([name for name, *_ in shapes])
        return (
            f"wrong number of classes: {got[0]} in the checkpoint, {wanted[0]} in the model ({keys}); "
            "use the config it was trained with"
        )
    return f"{key} has shape {list(got)}, the model expects {list(wanted)}; is it the right config?"


def _several(keys: list[str]) -> str:
    return keys[0] + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")


def convert_checkpoint(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    half: bool = False,
    weights: str | None = None,
    trust: bool = False,
) -> None:
    """Write the weights in ``src`` and the class names beside them as safetensors, whole or not at all.

    ``half`` stores float tensors in 16 bits; ``weights`` and ``trust`` are those of :func:`load_state_dict`.

    Raises:
        UserError: as :func:`load_state_dict`, or a value does not fit in half precision.
    """
    content = read_checkpoint(src, trust)
    names = class_names_in(safetensors_notes(src) or content)
    taken = _taken(content, src, weights)
    stored = {key: value.detach().clone().contiguous() for key, value in taken.items()}
    if half:
        stored = {key: value.half() if value.is_floating_point() else value for key, value in stored.items()}
        over = [key for key, value in stored.items() if value.is_floating_point() and value.isinf().any()]
        if over:
            raise UserError(f"{src}: {_several(over)} does not fit in half precision; convert without --half")
    dst = Path(dst)
    dst.parent.mkdir(parents=True, exist_ok=True)
    notes = {"format": "pt"} | ({CLASSES: json.dumps(names)} if names else {})
    replace_file(dst, save(stored, metadata=notes))


class _NoTraining(dict):
    """The empty notes of a file that holds weights only: what resuming looks up there is told in words."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source

    def __missing__(self, key: str) -> Any:
        raise UserError(
            f"{self.source}: it holds weights only, so training cannot be resumed; start from it with load_from"
        )


def load_from_strict(filename: str, map_location: Any = None) -> dict[str, Any]:
    """mmengine's ``CheckpointLoader`` backend for every kind of path: the strict reader, and no ``meta["config"]``.

    ``Runner.resume`` would execute that entry as Python. ``map_location`` is mmengine's: all stays on the CPU, from
    where the model and the optimizer take their own.
    """
    source = os.path.expanduser(filename)
    content = read_checkpoint(source)
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), Mapping):
        content = {"state_dict": without_wrappers(weights_in(content, source).weights)}
    meta = content.get("meta")
    known = isinstance(meta, dict) and meta
    content["meta"] = {key: meta[key] for key in meta if key != "config"} if known else _NoTraining(filename)
    return content
