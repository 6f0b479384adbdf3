"""What the evaluator reads: RGB images in [0, 1] with class ids, in a fixed order, whatever they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from segrobust.core.digest import config_sha256
from segrobust.core.errors import UserError, as_user_error, first_line
from segrobust.core.palette import default_palette
from segrobust.datasets.files import image_size, read_label
from segrobust.datasets.labels import VOID, check_ids, class_ids, resize_nearest
from segrobust.datasets.pipeline import check_test_steps, refuse_moved

if TYPE_CHECKING:
    from mmengine.dataset import BaseDataset


@dataclass(frozen=True)
class Sample:
    """One image with its truth: RGB in [0, 1], float32 [3, H, W], and class ids or void, int64 [H, W]."""

    image: Tensor
    label: Tensor
    name: str  # of the image's file, without suffix


class Source(Protocol):
    """An ordered collection of samples with their classes; any object that has these members will do."""

    num_classes: int
    class_names: tuple[str, ...]
    palette: list[tuple[int, int, int]]
    ignore_index: int

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class MMSegSource:
    """A `Source` over an mmseg dataset: what its pipeline packs, as the network sees it, before normalisation.

    Args:
        dataset: an mmseg dataset whose pipeline loads labels and ends in ``PackSegInputs``.
        indices: which of its images, in which order.
        recipe: digest of how they are loaded (resized, relabelled, ...), for a run's identity.
        steps: names of the pipeline's steps, for labels at the size of their files.
    """

    def __init__(self, dataset: BaseDataset, indices: list[int], recipe: str = "", steps: Collection[str] = ()) -> None:
        meta = dataset.metainfo
        if not meta.get("classes"):
            raise UserError(f"dataset {type(dataset).__name__} names no classes; give metainfo=dict(classes=...)")
        self.dataset, self.indices, self.recipe, self.steps = dataset, indices, recipe, steps
        self.class_names = tuple(meta["classes"])
        self.num_classes = len(self.class_names)
        self.ignore_index = getattr(dataset, "ignore_index", VOID)
        self.palette = [
            tuple(int(v) for v in colour) for colour in meta.get("palette") or default_palette(self.num_classes)
        ]

    @classmethod
    def of(cls, dataset: BaseDataset) -> MMSegSource:
        """All images of an mmseg data set that is built already; UserError: its pipeline augments."""
        transforms = dataset.pipeline.transforms
        check_test_steps(transforms)
        names = [type(step).__name__ for step in transforms]
        return cls(dataset, list(range(len(dataset))), config_sha256(list(transforms)), names)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        """Raises UserError: a missing or broken file, a label of the wrong shape, or an id out of range."""
        packed, label, info = self._packed(index)
        image = packed["inputs"][[2, 1, 0]].float() / 255
        return Sample(image, resize_nearest(label, image.shape[1:]), Path(info["img_path"]).stem)

    def original_label(self, index: int) -> Tensor:
        """The class ids as the label's file has them, int64 [H, W], whatever the size of the network's input.

        Raises:
            UserError: as for samples, or a step of the pipeline does more to images than resize them.
        """
        _, label, info = self._packed(index)
        size = self.file_size(index)
        refuse_moved(self.steps, resized=tuple(label.shape) != size)
        if tuple(label.shape) == size:
            return label
        path = info["seg_map_path"]
        return torch.from_numpy(class_ids(read_label(path), info, path, self.num_classes, self.ignore_index)).long()

    def file_size(self, index: int) -> tuple[int, int]:
        """(height, width) of the image as its file has it, before the pipeline."""
        return image_size(self.dataset.get_data_info(self.indices[index])["img_path"])

    def _packed(self, index: int) -> tuple[dict[str, Any], Tensor, dict[str, Any]]:
        """What the pipeline packs, its checked label [h, w], and mmseg's facts of the image."""
        info = self.dataset.get_data_info(self.indices[index])
        path = info.get("seg_map_path", "of " + info["img_path"])
        packed = self._load(self.indices[index], info)
        label = packed["data_samples"].gt_sem_seg.data.squeeze(0).long()
        if label.ndim != 2:
            raise UserError(f"label {path} has shape {tuple(label.shape)}; expected one channel of class ids")
        check_ids(label.numpy(), self.num_classes, self.ignore_index, path)
        return packed, label, info

    def _load(self, index: int, info: Mapping[str, Any]) -> dict[str, Any]:
        what = f"cannot load {info['img_path']} with its label"
        # the config's own loading steps may raise anything for a bad file
        with as_user_error(lambda error: f"{what}: {type(error).__name__}: {first_line(error)}"):
            packed = self.dataset[index]
        if not isinstance(packed, Mapping) or not {"inputs", "data_samples"} <= set(packed):
            raise UserError("the test pipeline does not pack what it loads; end it with dict(type='PackSegInputs')")
        if "gt_sem_seg" not in packed["data_samples"]:
            raise UserError("the test pipeline loads no labels; add LoadAnnotations (or use LoadPair) before packing")
        return packed

    def sha256(self, index: int) -> tuple[str, str]:
        """The image's name, and a digest of the bytes of its file and its label's; see ``recipe`` for the rest."""
        info, digest = self.dataset.get_data_info(self.indices[index]), hashlib.sha256()
        for path in (Path(info[key]) for key in ("img_path", "seg_map_path") if key in info):
            digest.update(f"\n{path.name} {path.stat().st_size}\n".encode())
            digest.update(path.read_bytes())
        return Path(info["img_path"]).stem, digest.hexdigest()


def evenly_spaced(total: int, count: int | None) -> list[int]:
    """``count`` of ``total`` indices: the middles of ``count`` equal parts, rounded down."""
    if count is None:
        return list(range(total))
    if count < 1:
        raise UserError(f"number of images: expected at least 1, got {count}")
    count = min(count, total)
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def spaced_around(total: int, count: int | None, known: Sequence[int]) -> list[int]:
    """``count`` of ``total`` indices with the ``known`` ones first, then evenly spaced ones.

    Each known one stands for the evenly spaced one next to it: neighbours in a video are nearly the same image. Never
    fewer than are known; without any known, :func:`evenly_spaced`.
    """
    known, more = [index for index in known if index < total], evenly_spaced(total, count)
    for index in sorted(known, key=lambda index: index not in more):
        if more:
            more.remove(min(more, key=lambda one: abs(one - index)))
    return [*known, *more]
