"""What a targeted attack is to make of every pixel, from a word: ``build_target("class:road", source)``.

A pixel counts in a targeted attack where neither its label nor its target is void. (The published protocol of
Cityscapes with a majority map also attacks pixels without a label; their predictions could not be judged.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segrobust.core.errors import UserError, unknown_name
from segrobust.datasets.files import read_label
from segrobust.datasets.labels import check_ids, check_size, resize_nearest
from segrobust.datasets.source import Sample, Source
from segrobust.datasets.target_spec import parse_target

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


def build_target(spec: str, source: Source, majority: Callable[[], Tensor] | Path | None = None) -> Target:
    """Build and check the targets of all images of ``source``.

    Args:
        spec: ``background`` (the class of that name, else class 0), ``class:NAME``, ``class:NUMBER``,
            ``least-likely``, ``majority`` or ``mask:PATH``; see :func:`segrobust.datasets.target_spec.parse_target`.
        majority: makes the majority map of the training labels, or the PNG that an earlier start of the run stored.

    Raises:
        UserError: an unknown target or class, no majority map, or a mask that is missing, has another size than
            its image, or holds an id that is no class.
    """
    kind, value = parse_target(spec)
    if kind == "background":
        names = [name.lower() for name in source.class_names]
        return _one_class(spec, names.index("background") if "background" in names else 0)
    if kind == "class":
        return _one_class(spec, _class_number(value, source))
    if kind == "least-likely":
        return Target(spec, lambda _, logits: logits().argmin(1))
    if kind == "mask":
        return _masks(Path(value), source)
    if majority is None:
        raise UserError("target majority needs the map of the training labels: build_target('majority', source, "
                        "lambda: majority_of_config(config, source)), with segrobust.commands.data")  # fmt: skip
    return _one_map(spec, _read(majority, None, source) if isinstance(majority, Path) else majority())


def _class_number(value: str, source: Source) -> int:
    if value in source.class_names:
        return source.class_names.index(value)
    if not value.isdecimal():
        raise unknown_name("class", value, source.class_names)
    if int(value) >= source.num_classes:
        raise UserError(f"target class {value} does not exist; expected 0 to {source.num_classes - 1} or a name")
    return int(value)


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
