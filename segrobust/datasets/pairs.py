"""Pairs of an image and its label, as people have them in Python, made a :class:`segrobust.datasets.source.Source`.

Two tensors or arrays, a list of pairs, torch's data sets of pairs (torchvision's among them) and loaders of batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    default_collate,
)

from segrobust.core.errors import UserError
from segrobust.datasets.source import Sample

CHANCE = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler, DistributedSampler)


class Pairs:
    """A source over anything whose ``pairs[i]`` is an image and its label; names are the places in it.

    Images are float RGB [3, H, W] in [0, 1], 8 bits, [H, W, 3] or PIL's; labels class ids [H, W], [1, H, W] or PIL's.
    """

    def __init__(
        self,
        pairs: Any,
        class_names: Sequence[str],
        palette: Sequence[Sequence[int]],
        ignore_index: int,
    ) -> None:
        self.pairs = pairs
        self.class_names, self.num_classes = tuple(class_names), len(class_names)
        self.palette, self.ignore_index = [tuple(colour) for colour in palette], ignore_index

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Raises UserError: not a pair; what is wrong with an image or a label is told by who checks samples."""
        pair = self.pairs[index]
        if not _is_pair(pair):
            raise UserError(f"dataset[{index}]: expected a pair (image, label), got {_shown(pair)}")
        return Sample(_image(pair[0]), _label(pair[1]), f"{index:05d}")


def pairs_in(data: Any) -> Any | None:
    """What holds the pairs of ``data``: itself, two stacks side by side, or what a loader brings; None: no pairs.

    Raises:
        UserError: two stacks of other lengths, or a loader that shuffles or brings no pairs.
    """
    if isinstance(data, DataLoader):
        return _of_loader(data)
    if isinstance(data, tuple | list) and len(data) == 2 and all(_is_stack(one) for one in data):
        images, labels = data
        if len(images) != len(labels):
            raise UserError(f"dataset: {len(images)} images, but {len(labels)} labels")
        return _Zipped(images, labels)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, str | bytes | dict):
        return data if _has_pairs(data) else None
    return None


class _Zipped:
    """Two stacks as pairs."""

    def __init__(self, images: Any, labels: Any) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.images[index], self.labels[index]


def _of_loader(loader: DataLoader) -> Any:
    """The loader's own data set where it only puts pairs together; else all that it brings, in memory."""
    if isinstance(loader.sampler, CHANCE):
        raise UserError(
            f"dataset: the loader draws its images or shares them out ({type(loader.sampler).__name__}), so no two "
            "runs or processes would see the same; make it with shuffle=False and no sampler"
        )
    in_order = type(loader.sampler) is SequentialSampler and type(loader.batch_sampler) is BatchSampler
    if in_order and loader.collate_fn is default_collate and not loader.drop_last and _has_pairs(loader.dataset):
        return loader.dataset
    found: list[tuple[Any, Any]] = []
    for batch in loader:
        if not _is_pair(batch):
            raise UserError(f"dataset: expected a loader of pairs (images, labels), got {_shown(batch)}")
        found += zip(*batch, strict=True)
    return found


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple | list) and len(item) == 2


def _has_pairs(data: Any) -> bool:
    return len(data) > 0 and _is_pair(data[0])


def _is_stack(item: Any) -> bool:
    return isinstance(item, Tensor | np.ndarray) and item.ndim in (3, 4)


def _shown(item: Any) -> str:
    return f"{len(item)} things" if isinstance(item, tuple | list) else f"a {type(item).__name__}"


def _image(given: Any) -> Any:
    """RGB [3, H, W] in [0, 1]; what is none of the known forms goes on as it is, and is refused by its type."""
    if isinstance(given, Image.Image):
        given = np.array(given.convert("RGB"))
    image = torch.as_tensor(given) if isinstance(given, np.ndarray) else given
    if isinstance(image, Tensor) and image.ndim == 3 and image.shape[0] != 3 and image.shape[2] == 3:
        image = image.permute(2, 0, 1)
    return image.float() / 255 if isinstance(image, Tensor) and image.dtype == torch.uint8 else image


def _label(given: Any) -> Any:
    label = np.array(given) if isinstance(given, Image.Image) else given
    return label[0] if getattr(label, "ndim", 0) == 3 and label.shape[0] == 1 else label
