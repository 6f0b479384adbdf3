"""What a targeted attack is to make of every pixel, from a word: ``build_target("class:road", source)``.

A pixel counts in a targeted attack where neither its label nor its target is void. (The published protocol of
Cityscapes with a majority map also attacks pixels without a label; their predictions could not be judged.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segrobust.core.errors import UserError
from segrobust.datasets.files import read_label
from segrobust.datasets.labels import check_ids, check_size, resize_nearest
from segrobust.datasets.source import Sample, Source
from segrobust.datasets.target_spec import class_pairs, parse_target
from segrobust.datasets.where import class_number, only_where, refuse_nothing

Logits = Callable[[], Tensor]


@dataclass(frozen=True, eq=False)
class Target:
    """Says what every pixel of an image is to become.

    spec: the word it was built from, without folders; facts: what tells it from others of that word; map: class ids
    ``[H, W]`` where one map serves all images.
    """

    spec: str
    of: Callable[[Sequence[Sample], Logits], Tensor]
    facts: dict[str, Any] = field(default_factory=dict)
    map: Tensor | None = None

    def identity(self) -> dict[str, Any]:
        """What tells this target from others, for ``run.json``."""
        return {"spec": self.spec, **self.facts}

    def __call__(self, samples: Sequence[Sample], logits: Logits) -> Tensor:
        """Targets ``[N, H, W]`` int64 of samples of one size; ``logits()`` are the model's on the clean images."""
        return self.of(samples, logits)


def _one_class(spec: str, number: int) -> Target:
    return Target(spec, lambda samples, _: torch.stack([torch.full_like(one.label, number) for one in samples]),
                  {"class": number})  # fmt: skip


def _one_map(spec: str, ids: Tensor) -> Target:
    """One map of class ids for all images; images of another size get it by nearest neighbour."""

    def of(samples: Sequence[Sample], _: Logits) -> Tensor:
        return torch.stack([resize_nearest(ids.long(), sample.label.shape) for sample in samples])

    return Target(spec, of, {"sha256": sha256_of([ids])}, ids)


def _by_label(spec: str, pairs: str, source: Source) -> Target:
    """From class to class; what no pair names has no target."""
    pairs = class_pairs(pairs)
    wanted = {class_number(name, source): class_number(to, source) for name, to in pairs.items()}
    if len(wanted) < len(pairs):
        raise UserError(f"target {spec}: names a class twice, by name and by number; name each class once")
    refuse_nothing(lambda sample: torch.isin(sample.label, torch.tensor([*wanted])), source, f"target {spec}")
    table = torch.full((source.num_classes,), source.ignore_index)
    table[[*wanted]] = torch.tensor([*wanted.values()])

    def of(samples: Sequence[Sample], _: Logits) -> Tensor:
        labels = torch.stack([sample.label for sample in samples])
        void = labels == source.ignore_index
        return table[labels.masked_fill(void, 0)].masked_fill(void, source.ignore_index)

    return Target(spec, of, {"classes": {str(label): to for label, to in sorted(wanted.items())}})


def selected(target: Target, where: str | None, source: Source) -> Target:
    """The target at the pixels that ``where`` names (:func:`segrobust.datasets.target_spec.parse_where`), and void
    elsewhere; UserError: as :func:`segrobust.datasets.where.only_where`."""
    if where is None:
        return target
    pixels, facts = only_where(where, source)

    def of(samples: Sequence[Sample], logits: Logits) -> Tensor:
        outside = ~torch.stack([pixels(sample) for sample in samples])
        targets = target(samples, logits)
        return targets.masked_fill(outside.to(targets.device), source.ignore_index)

    return replace(target, of=of, facts={**target.facts, **facts})


def build_target(spec: str, source: Source, majority: Callable[[], Tensor] | Path | None = None) -> Target:
    """Build and check the targets of all images of ``source``.

    Args:
        spec: ``background`` (the class of that name, else class 0), ``class:NAME``, ``class:NUMBER``,
            ``least-likely``, ``majority``, ``mask:PATH`` or ``map:NAME=NAME,...``, of which pixels of other classes
            have no target; see :func:`segrobust.datasets.target_spec.parse_target`.
        majority: makes the majority map of the training labels, or the PNG that an earlier start of the run stored.

    Raises:
        UserError: an unknown target or class, no majority map, a mask that is missing, has another size than its
            image, or holds an id that is no class, or a map of classes of which no image has a pixel.
    """
    kind, value = parse_target(spec)
    if kind == "background":
        names = [name.lower() for name in source.class_names]
        return _one_class(spec, names.index("background") if "background" in names else 0)
    if kind == "class":
        return _one_class(spec, class_number(value, source))
    if kind == "map":
        return _by_label(spec, value, source)
    if kind == "least-likely":
        return Target(spec, lambda _, logits: logits().argmin(1))
    if kind == "mask":
        return _masks(Path(value), source)
    if majority is None:
        raise UserError("target majority needs the map of the training labels: build_target('majority', source, "
                        "lambda: majority_of_config(config, source)), with segrobust.commands.data")  # fmt: skip
    return _one_map(spec, _read(majority, None, source) if isinstance(majority, Path) else majority())


def _masks(path: Path, source: Source) -> Target:
    spec = f"mask:{path.name}"  # the folder above says nothing about the mask, and may name a person
    shared = None if path.is_dir() else _read(path, None, source)
    masks: dict[str, Tensor] = {}
    for index in range(len(source)):  # all of them now: a wrong mask is not to stop a run after hours
        sample = source[index]
        size = tuple(sample.label.shape)
        if shared is None:
            masks[sample.name] = _read(path / f"{sample.name}.png", size, source)
        elif tuple(shared.shape) != size:
            raise UserError(
                f"mask {path} is {shared.shape[0]}x{shared.shape[1]} (height x width) but image {sample.name} is "
                f"{size[0]}x{size[1]}; give a folder with one PNG per image"
            )
    if shared is not None:
        return _one_map(spec, shared)
    facts = {"sha256": sha256_of(masks.values())}
    return Target(spec, lambda samples, _: torch.stack([masks[one.name] for one in samples]).long(), facts)


def _read(path: Path, size: tuple[int, int] | None, source: Source) -> Tensor:
    """A checked PNG of ids, uint8 where that is enough: a folder's masks stay in memory."""
    ids = read_label(path)
    check_size(ids, size or ids.shape, str(path))
    check_ids(ids, source.num_classes, source.ignore_index, path)
    return torch.from_numpy(ids.astype(np.uint8 if ids.max(initial=0) < 256 else np.int32))


def sha256_of(maps: Any) -> str:
    """Digest of maps of class ids, in order, with their sizes."""
    digest = hashlib.sha256()
    for ids in maps:
        digest.update(f"{tuple(ids.shape)}".encode())
        digest.update(ids.to(torch.int32).numpy().tobytes())
    return digest.hexdigest()
