"""Which weights of a file: many trainers store averaged ones (EMA) beside the raw ones."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from segrobust.core.errors import UserError, unknown_name
from segrobust.models.checkpoint.naming import OF_TRAINERS, without_wrappers

LOGGER = logging.getLogger(__name__)
RAW, EMA = KINDS = ("raw", "ema")
WORDS = {RAW: "raw", EMA: "averaged (EMA)"}
NAMELESS = "ones in a list without names ({}); to use these, copy them into the model and save its state_dict()"
# where trainers put the weights, in order of preference
ENTRIES = ("state_dict", "model_state_dict", "model", "module")
# in the name of an entry, such as model_ema
AVERAGED = re.compile(r"(?:^|[\W_])(?:ema|swa|averaged?|avg|polyak|moving_average|teacher)(?:[\W_]|$)", re.IGNORECASE)
EMA_INSIDE = ("shadow", "shadow_params")
EMA_PREFIXES = ("ema_model.", "model_ema.", "ema.")  # an averaged copy as a part of what was saved


@dataclass(frozen=True)
class Weights:
    """One set of named weights out of a file.

    kind: ``"raw"`` or ``"ema"``; entry: where it lay; others: where the other kind lies, if the file has it; nameless:
    where averaged ones lie in a list without names, which fits no model for certain.
    """

    weights: Mapping[str, Tensor]
    kind: str
    entry: str
    others: str | None = None
    nameless: str | None = None

    def describe(self, source: str | os.PathLike) -> str:
        """One sentence about what there was to choose from, or nothing."""
        if self.nameless is not None:
            return f"{source} holds raw weights, which are taken, and averaged (EMA) {NAMELESS.format(self.nameless)}"
        if self.others is None:
            return f"{source}: it holds averaged (EMA) weights alone ({self.entry})" if self.kind == EMA else ""
        other = EMA if self.kind == RAW else RAW
        return (
            f"{source} holds raw and averaged (EMA) weights: the {WORDS[self.kind]} ones ({self.entry}) are taken; "
            f"weights={other!r} (--weights {other}) takes those in {self.others}"
        )


def weights_in(content: Any, source: str | os.PathLike, kind: str | None = None) -> Weights:
    """The weights in what a file holds, without the entries around them.

    Args:
        content: what ``read_checkpoint`` returns.
        kind: ``"raw"`` or ``"ema"``; None: what lies in the file's main entry, which is the raw one everywhere but
            with mmengine's ``EMAHook``, and the averaged one where there is no other.

    Raises:
        UserError: no weights, none of this kind, or a kind that does not exist.
    """
    if kind not in (None, *KINDS):
        raise unknown_name("weights", str(kind), KINDS)
    main, averaged = _entries(content)
    if main is None or averaged is None:
        nameless = _nameless(content) if averaged is None else None
        found = [Weights(one[1], of, one[0], None, nameless) for one, of in ((main, RAW), (averaged, EMA)) if one]
        if kind == EMA and nameless is not None:
            raise UserError(f"{source}: it holds averaged (EMA) {NAMELESS.format(nameless)}")
        if kind not in (None, found[0].kind):
            raise UserError(
                f"{source}: it holds no {WORDS[kind]} weights, only {WORDS[found[0].kind]} ones; leave out weights="
                f"{kind!r} (--weights {kind})"
            )
    else:
        kinds = (EMA, RAW) if _mmengine_swapped(content, averaged[0]) else (RAW, EMA)
        pairs = ((main, kinds[0], averaged), (averaged, kinds[1], main))
        found = [Weights(one[1], of, one[0], other[0]) for one, of, other in pairs if kind in (None, of)]
    _check(found[0].weights, source)
    return found[0]


def _entries(content: Any) -> tuple[tuple[str, Any] | None, tuple[str, Any] | None]:
    """The main weights of a file and the averaged ones beside them, each with its place, as far as it has them."""
    place, node, averaged = "", content, None
    while isinstance(node, Mapping):
        beside = (_unwrapped(place + name, node[name]) for name in _averages(node) if isinstance(node[name], Mapping))
        averaged = averaged or next(filter(None, beside), None)
        if (name := _mapping_at(node, ENTRIES) or _only_weights(node)) is None:
            break
        place, node = f"{place}{name}.", node[name]
    main = (place.rstrip(".") or "the whole file", node)
    if averaged is None and isinstance(node, Mapping):
        main, averaged = _split(*main)
    elif averaged is not None and not place:
        return None, averaged
    return main, averaged


def _mapping_at(node: Mapping, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if isinstance(node.get(name), Mapping)), None)


def _averages(node: Mapping) -> list[str]:
    """Entries whose names speak of an average, in the order of the file."""
    return [name for name in node if isinstance(name, str) and AVERAGED.search(name) and name not in ENTRIES]


def _only_weights(node: Mapping) -> str | None:
    """The one entry of named weights under a name that is not in ``ENTRIES``, such as ``"net"``."""
    averages = _averages(node)
    found = [name for name, value in node.items() if name not in averages and _are_weights(value)]
    return found[0] if len(found) == 1 and isinstance(found[0], str) else None


def _are_weights(node: Any) -> bool:
    """Whether it is a state dict by its looks: tensors alone, some of them in a part of a model."""
    return (
        isinstance(node, Mapping)
        and any("." in str(key) for key in node)
        and all(isinstance(value, Tensor) for value in node.values())
    )


def _unwrapped(place: str, node: Mapping) -> tuple[str, Mapping] | None:
    """An entry of averaged weights; None where it holds no tensor (settings of the average, say)."""
    while name := _mapping_at(node, (*ENTRIES, *EMA_INSIDE)):
        place, node = f"{place}.{name}", node[name]
    return (place, node) if any(isinstance(value, Tensor) for value in node.values()) else None


def _nameless(content: Any) -> str | None:
    """Where averaged weights lie in a list, as torch_ema and diffusers store them."""
    for name in _averages(content) if isinstance(content, Mapping) else ():
        inside = content[name] if isinstance(content[name], Mapping) else {}
        for place, node in {name: content[name], **{f"{name}.{key}": inside.get(key) for key in EMA_INSIDE}}.items():
            if isinstance(node, list | tuple) and any(isinstance(value, Tensor) for value in node):
                return place
    return None


def _split(place: str, weights: Mapping) -> tuple[tuple[str, Any], tuple[str, Any] | None]:
    """Where half of the names are those of the other half after a prefix of averages, the two halves."""
    for prefix in EMA_PREFIXES:
        inside = {key.removeprefix(prefix): weights[key] for key in weights if str(key).startswith(prefix)}
        rest = {key: weights[key] for key in weights if not str(key).startswith(prefix)}
        tensors = inside and rest and all(isinstance(value, Tensor) for value in weights.values())
        if tensors and without_wrappers(inside, OF_TRAINERS).keys() == without_wrappers(rest, OF_TRAINERS).keys():
            return (place, rest), (f"{prefix}*", inside)
    return (place, weights), None


def _mmengine_swapped(content: Mapping, entry: str) -> bool:
    """mmengine's ``EMAHook`` saves the averaged weights as the model's and the raw ones in its own entry."""
    meta = content.get("meta")
    return entry == "ema_state_dict" and isinstance(meta, Mapping) and "mmengine_version" in meta


def _check(weights: Any, source: str | os.PathLike) -> None:
    if not isinstance(weights, Mapping):
        raise UserError(
            f"{source}: expected named weights (a state dict), got a {type(weights).__name__}; save model.state_dict()"
        )
    odd = next((key for key, value in weights.items() if not isinstance(value, Tensor)), None)
    if odd is not None or not weights:
        found = f"{odd!r} is a {type(weights[odd]).__name__}" if odd is not None else "there are none"
        raise UserError(f"{source}: expected named weights (a state dict), but {found}; save model.state_dict()")
