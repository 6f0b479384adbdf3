"""What a targeted attack is to make of every pixel, from a word: ``build_target("class:road", source)``.

    target = build_target("least-likely", source)
    targets = target(samples, logits)                    # [N, H, W] class ids, the source's ignore_index: any class
    majority = build_target("majority", source, lambda: majority_map(labels, size, num_classes))

A pixel counts in a targeted attack where neither its label nor its target is void. (The published protocol of
Cityscapes with a majority map also attacks pixels without a label; their predictions could not be judged.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from segrobust.core.errors import UserError, unknown_name
from segrobust.datasets.files import read_label
from segrobust.datasets.labels import check_ids, check_size
from segrobust.datasets.resizing import resize_nearest
from segrobust.datasets.source import Sample, Source
from segrobust.datasets.target_spec import parse_target

Logits = Callable[[], Tensor]


class Target(Protocol):
    """Says what every pixel of an image is to become.

    spec: the word it was built from, without folders.
    map: class ids ``[H, W]`` where one map serves all images, else None.
    """

    spec: str
    map: Tensor | None

    def identity(self) -> dict[str, Any]:
        """What tells this target from others, for ``run.json``."""
        ...

    def __call__(self, samples: Sequence[Sample], logits: Logits) -> Tensor:
        """Targets ``[N, H, W]`` int64 of samples of one size; ``logits()`` are the model's on the clean images."""
        ...


class ConstantClass:
    """One class for every pixel."""

    map = None

    def __init__(self, spec: str, number: int) -> None:
        self.spec, self.number = spec, number

    def identity(self) -> dict[str, Any]:
        return {"spec": self.spec, "class": self.number}

    def __call__(self, samples: Sequence[Sample], logits: Logits) -> Tensor:
        return torch.stack([torch.full_like(sample.label, self.number) for sample in samples])


class LeastLikely:
    """Per pixel the class with the lowest logit on the clean image."""

    spec, map = "least-likely", None

    def identity(self) -> dict[str, Any]:
        return {"spec": self.spec}

    def __call__(self, samples: Sequence[Sample], logits: Logits) -> Tensor:
        return logits().argmin(1)


class FixedMap:
    """One map of class ids ``[H, W]`` for all images; images of another size get it by nearest neighbour."""

    def __init__(self, spec: str, ids: Tensor) -> None:
        self.spec, self.map = spec, ids

    def identity(self) -> dict[str, Any]:
        return {"spec": self.spec, "sha256": sha256_of([self.map])}

    def __call__(self, samples: Sequence[Sample], logits: Logits) -> Tensor:
        return torch.stack([resize_nearest(self.map.long(), sample.label.shape) for sample in samples])


class MaskFolder:
    """One map of class ids per image, by the image's name."""

    map = None

    def __init__(self, spec: str, masks: Mapping[str, Tensor]) -> None:
        self.spec, self.masks = spec, masks

    def identity(self) -> dict[str, Any]:
        return {"spec": self.spec, "sha256": sha256_of(self.masks.values())}

    def __call__(self, samples: Sequence[Sample], logits: Logits) -> Tensor:
        return torch.stack([self.masks[sample.name] for sample in samples]).long()


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
        return ConstantClass(spec, names.index("background") if "background" in names else 0)
    if kind == "class":
        return ConstantClass(spec, _class_number(value, source))
    if kind == "least-likely":
        return LeastLikely()
    if kind == "mask":
        return _masks(Path(value), source)
    if majority is None:
        raise UserError("target majority needs the map of the training labels: build_target('majority', source, "
                        "lambda: majority_of_config(config, source)), with segrobust.commands.data")  # fmt: skip
    return FixedMap(spec, _read(majority, None, source) if isinstance(majority, Path) else majority())


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
    return MaskFolder(spec, masks) if shared is None else FixedMap(spec, shared)


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
