"""The smoothed majority map of a data set's training labels: the most likely scene, as a target for every image."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from segrobust.core.errors import UserError
from segrobust.datasets.files import read_label
from segrobust.datasets.labels import class_ids, resize_nearest
from segrobust.datasets.source import Source

if TYPE_CHECKING:
    from mmengine.dataset import BaseDataset

_BOX_SHARE = 16  # the box spans this part of the shorter side


def majority_map(
    labels: Iterable[Tensor], size: tuple[int, int], num_classes: int, ignore_index: int = 255, box: int | None = None
) -> Tensor:
    """Per pixel the class that most labels show around it, ``[H, W]`` int64; ties go to the lower class.

    Args:
        labels: class ids ``[h, w]`` each; brought to ``size`` by nearest neighbour.
        box: side of the box, an odd number of pixels, over which the class counts are summed; 1: no smoothing;
            None: a sixteenth of the shorter side. A pixel that no label names is void whatever lies around it.

    Raises:
        UserError: no labels.
    """
    box = 2 * (min(size) // (2 * _BOX_SHARE)) + 1 if box is None else box
    counts = torch.zeros(num_classes, size[0] * size[1], dtype=torch.int32)
    number = 0
    for number, label in enumerate(labels, start=1):  # noqa: B007
        ids = resize_nearest(label, size).flatten()
        places = torch.nonzero(ids != ignore_index).flatten()
        counts[ids[places], places] += 1
    if not number:
        raise UserError("majority: expected at least one training label")
    counts = counts.view(num_classes, *size)
    smooth = counts.double()[:, None]  # exact sums, so ties are ties on every machine
    for shape in ((box, 1), (1, box)):
        smooth = F.avg_pool2d(smooth, shape, 1, [side // 2 for side in shape], divisor_override=1)
    return smooth[:, 0].argmax(0).masked_fill(counts.sum(0) == 0, ignore_index)


def training_labels(dataset: BaseDataset, source: Source) -> Iterator[Tensor]:
    """The labels of an mmseg data set as its files have them, checked; UserError: an image has none, or a wrong one."""
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        path = info.get("seg_map_path")
        if path is None:
            raise UserError(f"target majority: training image {info.get('img_path')} has no label")
        label = class_ids(read_label(path), info, path, source.num_classes, source.ignore_index)
        yield torch.from_numpy(label.astype(np.int64))


def id_png(ids: Tensor) -> bytes:
    """A map of class ids ``[H, W]`` as a PNG file of 8 bits, or of 16 where the ids need them."""
    return _png(ids.numpy().astype(np.uint8 if int(ids.max()) < 256 else np.uint16))


def colour_png(ids: Tensor, palette: Sequence[Sequence[int]], ignore_index: int) -> bytes:
    """The same in the classes' colours, void in black."""
    table = np.array([*palette, (0, 0, 0)], dtype=np.uint8)
    return _png(table[ids.long().masked_fill(ids == ignore_index, len(palette)).numpy()])


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    return stream.getvalue()
