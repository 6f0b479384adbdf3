"""Reads what label files hold, with a bar of progress, once for files that do not change; and what is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segrobust.core.errors import UserError
from segrobust.datasets.inventory import Inventory, data_sets, take_inventory
from segrobust.datasets.source import evenly_spaced
from segrobust.datasets.stored_ids import class_pixels, wrong_ids
from segrobust.datasets.tally import Cache, Tally, cache_folder, count
from segrobust.runs.progress import ImageProgress

SPLITS = ("train", "val", "test")


def tally_of(data: Inventory, what: str, images: bool, limit: int | None = None) -> Tally:
    """Of the pairs that are there.

    Args:
        what: the bar's name.
        images: read the images, too.
        limit: so many pairs, evenly spaced, and no cache.
    """
    pairs = [data.pairs[index] for index in evenly_spaced(len(data.pairs), limit)] if limit else data.pairs
    cache = Cache(None if limit else cache_folder(), data.place, pairs)
    if kept := cache.read(images):
        return kept
    with ImageProgress(len(pairs), unit="labels") as bar:
        bar.begin(f"{what}: reading labels", len(pairs))
        tally = count(pairs, images, lambda: bar.advance(1, 1))
    cache.keep(tally)
    return tally


def wants_counts(defaults: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a ``class_counts`` names a split."""
    return any(isinstance(fields.get("class_counts"), str) for fields in defaults.values())


def with_class_counts(defaults: Mapping[str, Mapping[str, Any]], cfg: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The attacks' fields, each ``class_counts`` that names a split, such as ``"train"``, as its pixels per class.

    Raises:
        UserError: no such split in the config, or its labels cannot be counted.
    """
    named = {attack: fields.get("class_counts") for attack, fields in defaults.items()}
    counts = {
        split: class_counts(cfg, split) for split in sorted({one for one in named.values() if isinstance(one, str)})
    }
    return {
        attack: {**fields, **({"class_counts": counts[named[attack]]} if isinstance(named[attack], str) else {})}
        for attack, fields in defaults.items()
    }


def class_counts(cfg: Mapping[str, Any], split: str) -> list[int]:
    """Pixels per class of the labels of ``<split>_dataloader``, as their files have them; mmseg must be there.

    Raises:
        UserError: no such data in the config, files are missing or are no labels of these classes.
    """
    loader = cfg.get(f"{split}_dataloader") if split in SPLITS else None
    if not loader or not loader.get("dataset"):
        known = [name for name in SPLITS if cfg.get(f"{name}_dataloader")]
        raise UserError(f"class_counts {split!r}: expected a list of one count per class, or a split with data in the "
                        f"config ({', '.join(known) or 'it has none'})")  # fmt: skip
    sums: list[int] = []
    for settings in data_sets(loader["dataset"]):
        data = take_inventory(settings)
        tally = tally_of(data, split, images=False) if data.pairs else Tally()
        if wrong := _wrong(data, tally):
            raise UserError(f"class_counts {split!r}: {wrong}; `segrobust data check` tells more")
        counts = class_pixels(tally, data)
        if sums and len(sums) != len(counts):
            raise UserError(f"class_counts {split!r}: its data sets have {len(sums)} and {len(counts)} classes")
        sums = [one + more for one, more in zip(sums or [0] * len(counts), counts, strict=True)]
    return sums


def _wrong(data: Inventory, tally: Tally) -> str | None:
    for what, files in (("is missing", data.missing), ("is missing", data.absent), ("has no label", data.unlabelled)):
        if files:
            return f"{files[0]} {what}"
    if not data.pairs:
        return f"no images in {data.images}"
    return next(iter([*tally.problems, *wrong_ids(tally, data)]), None)
