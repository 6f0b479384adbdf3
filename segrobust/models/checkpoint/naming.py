"""Names of weights: what wrappers around a network put before them is taken off, or put on, where they then fit."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from torch import Tensor

OF_TRAINING = ("module.",)  # data parallel wrappers and averages of weights
OF_TRAINERS = (*OF_TRAINING, "model.", "net.")  # Lightning and hand-written ones: a network may have such a part itself
# torch's own wrappers, also around a part of a network; no network names a part so
OF_TORCH = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def renamed(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names that a model has for them; where no wrapper explains the names, as close as it gets.

    Args:
        own: the model's state dict. Where the names fit as they are, they stay.
        given: the weights; counters of wrappers (``n_averaged``, ``steps``) beside prefixed names are left out.
    """
    names = {short: key for key, short in _short_names(own, OF_TRAINERS).items()}
    bare = without_wrappers(given, OF_TRAINERS)
    other = {names.get(key, key): value for key, value in bare.items()}
    forms = [dict(given), *([other] if len(other) == len(bare) else [])]  # no two under one name
    return max(forms, key=lambda form: (form.keys() <= own.keys(), len(form.keys() & own.keys())))


def without_wrappers(given: Mapping[str, Tensor], prefixes: tuple[str, ...] = OF_TRAINING) -> dict[str, Tensor]:
    """Weights without the prefixes that all of them have, in any nesting; a wrapper's own counters go with it."""
    short = _short_names(_without_counters(given), prefixes)
    if all(OF_TORCH.sub("", key) == name for key, name in short.items()):
        short = _short_names(given, prefixes)
    return {short[key]: value for key, value in given.items() if key in short}


def prefixes_of_wrappers(given: Mapping[str, Tensor]) -> list[str]:
    """What wrappers put before all names, the outermost first, after torch's own, which stand anywhere in them."""
    keys = _without_counters(given)
    found = list(dict.fromkeys(one for key in keys for one in OF_TORCH.findall(key)))
    short = {OF_TORCH.sub("", key) for key in keys}
    while short and (one := next((p for p in OF_TRAINERS if all(name.startswith(p) for name in short)), None)):
        found.append(one)
        short = {name.removeprefix(one) for name in short}
    return found


def _without_counters(given: Mapping[str, Tensor]) -> list[str]:
    return [key for key, value in given.items() if "." in key or value.ndim or _is_real(value)]


def _short_names(keys: Iterable[str], prefixes: tuple[str, ...]) -> dict[str, str]:
    """Keys and what is left of them."""
    short = {key: OF_TORCH.sub("", key) for key in keys}
    if len(set(short.values())) < len(short):
        short = {key: key for key in short}
    while short:
        prefix = next((one for one in prefixes if all(name.startswith(one) for name in short.values())), None)
        if prefix is None:
            break
        short = {key: name.removeprefix(prefix) for key, name in short.items()}
    return short


def prefixes_between(own: Iterable[str], given: Iterable[str]) -> list[str]:
    """What stands before names of the model in at least half of the given ones; at most 3, the most frequent first."""
    own, given = set(own), list(given)
    before: Counter[str] = Counter()
    for key in given:
        parts = key.split(".")
        start = next((at for at in range(len(parts)) if ".".join(parts[at:]) in own), 0)
        before[".".join([*parts[:start], ""])] += start > 0
    found = [prefix for prefix, count in before.most_common() if count]
    return found[:3] if 2 * before.total() >= len(given) else []


def _is_real(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()
