"""From the ids in a label file to class ids, with errors that name file and id; and the one way labels are resized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segrobust.core.errors import UserError

VOID = 255  # what mmseg's ``reduce_zero_label`` makes of 0, whatever the data set's ignore_index
_KINDS = (np.uint8, np.int16, np.int32, np.int64)
_TRAIN_IDS, _LABEL_IDS = 19, {-1, *range(34)}  # Cityscapes: 19 classes of its 34 ids are learnt


def class_ids(
    stored: np.ndarray, info: Mapping[str, Any], name: str, num_classes: int | None = None, ignore_index: int = 255
) -> np.ndarray:
    """The class ids [H, W] that a data set means by the ids in a file; uint8 where they fit, else int16 or int32.

    Args:
        stored: ids as read, [H, W], whole numbers of any width.
        info: mmseg's facts of the image; ``reduce_zero_label`` and ``label_map`` are applied, in that order.
        name: the label's file, for errors.
        num_classes: where it is given, every id must become a class in [0, num_classes) or void.

    Raises:
        UserError: an id that is no class and not void, or Cityscapes' labelIds instead of labelTrainIds.
    """
    ids, wrong = stored.astype(np.int64), np.zeros(stored.shape, dtype=bool)  # arithmetic in 8 bits would wrap
    if info.get("reduce_zero_label"):
        ids = np.where((stored == 0) | (stored == VOID), VOID, ids - 1)
        wrong = (ids == VOID) & (stored > VOID)  # 256 would become void unseen
    before = ids.copy() if info.get("label_map") else ids
    for old, new in (info.get("label_map") or {}).items():
        ids[before == old] = new
    if num_classes is not None:
        refuse_label_ids(name, num_classes, info)
        wrong |= _outside(ids, num_classes, ignore_index)
    if wrong.any():
        raise _no_class(stored[wrong], num_classes, ignore_index, name, bool(info.get("reduce_zero_label")))
    lowest, highest = ids.min(initial=0), ids.max(initial=0)
    return ids.astype(next(kind for kind in _KINDS if np.iinfo(kind).min <= lowest and highest <= np.iinfo(kind).max))


def check_size(label: np.ndarray, image_size: tuple[int, int], name: str) -> None:
    """Raise a UserError with both sizes unless the label file [H, W] has the size of its image file."""
    if label.shape != tuple(image_size):
        raise UserError(f"label {name} is {label.shape[0]}x{label.shape[1]} (height x width) but its image is "
                        f"{image_size[0]}x{image_size[1]}")  # fmt: skip


def check_ids(label: np.ndarray, num_classes: int, ignore_index: int, name: str | Path) -> None:
    """Raise a UserError naming the file and the first value that is neither a class id nor void."""
    wrong = _outside(label, num_classes, ignore_index)
    if wrong.any():
        raise _no_class(label[wrong], num_classes, ignore_index, name)


def _outside(ids: np.ndarray, num_classes: int, ignore_index: int) -> np.ndarray:
    return (ids != ignore_index) & ((ids < 0) | (ids >= num_classes))


def _no_class(
    wrong: np.ndarray, num_classes: int | None, ignore_index: int, name: str | Path, reduced: bool = False
) -> UserError:
    return UserError(f"label {name} holds the id {int(wrong[0])} ({wrong.size} pixels out of range); "
                     f"expected {expected_ids(wrong, num_classes, ignore_index, reduced)}")  # fmt: skip


def expected_ids(wrong: np.ndarray, num_classes: int | None, ignore_index: int, reduced: bool = False) -> str:
    """Which ids there may be, and what the ``wrong`` ones look like."""
    first = 1 if reduced else 0
    expected = (
        f"{first}..{num_classes - 1 + first} or {ignore_index} (void, the data set's ignore_index)"
        if num_classes
        else "ids below 256"
    )
    hint = "; reduce_zero_label makes 0 void" if reduced else ""
    if num_classes == _TRAIN_IDS and set(np.unique(wrong).tolist()) <= _LABEL_IDS:
        hint += "; these look like Cityscapes' labelIds, and 19 classes need the labelTrainIds files"
    return expected + hint


def refuse_label_ids(name: str | Path, num_classes: int, info: Mapping[str, Any]) -> None:
    """Raise a UserError for Cityscapes' labelIds as 19 classes: low ones are possible train ids, so the name tells."""
    if num_classes == _TRAIN_IDS and "labelids" in Path(name).name.lower() and not info.get("label_map"):
        raise UserError(f"label {name} holds Cityscapes' labelIds (34 ids), but the data set has 19 classes; they need "
                        "the labelTrainIds files: set seg_map_suffix='_gtFine_labelTrainIds.png', or take "
                        "type='CityscapesLabelIdsDataset', which reads labelIds")  # fmt: skip


def resize_nearest(label: Tensor, size: Sequence[int]) -> Tensor:
    """Class ids ``[h, w]`` at ``size`` (height, width), of the same type.

    A pixel takes the id of the pixel in which its centre lies; of a centre between two of them the upper or left one
    (halves, the commonest factor, give every second pixel from the first). ``cv2.INTER_NEAREST`` takes the upper left
    corner instead, which moves labels against images by almost half a pixel of the new grid.
    """
    if tuple(label.shape) == tuple(size):
        return label
    rows, columns = (_centres(old, new) for old, new in zip(label.shape, size, strict=True))
    return label[rows.to(label.device)][:, columns.to(label.device)]


def _centres(old: int, new: int) -> Tensor:
    """Where the centres of ``new`` pixels lie among ``old`` ones, in whole numbers: ceil((i + 1/2) old / new) - 1."""
    return ((2 * torch.arange(new) + 1) * old - 1) // (2 * new)
