"""Reading images and labels from disk, with errors that name the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from segrobust.errors import UserError


def read_image(path: str | Path) -> np.ndarray:
    """The image as RGB uint8 [H, W, 3]. Raises UserError: missing, or not an image."""
    return np.asarray(_decode(path, "image").convert("RGB"))


def read_label(path: str | Path) -> np.ndarray:
    """The stored ids [H, W] (palette images give their indices). Raises UserError: missing, or not an image."""
    label = np.asarray(_decode(path, "label"))
    return label.astype(np.uint8) if label.dtype == np.bool_ else label


def _decode(path: str | Path, kind: str) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError:
        raise UserError(f"{kind} {path} is missing") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{kind} {path} is not a readable image ({type(error).__name__})") from None
    return image


def check_label(label: np.ndarray, image_size: tuple[int, int], num_classes: int, ignore_index: int, name: str) -> None:
    """Raise a UserError naming the file unless ``label`` is an id map of the image's size.

    Args:
        label: ids as read, expected [H, W] of an integer type.
        image_size: (height, width) of the image.
        num_classes: ids must lie in [0, num_classes), or be ``ignore_index``.
    """
    if label.ndim != 2:
        raise UserError(f"label {name} has {label.shape[-1]} channels; expected one channel of class ids")
    if not np.issubdtype(label.dtype, np.integer):
        raise UserError(f"label {name} holds {label.dtype} values; expected whole class ids")
    if label.shape != tuple(image_size):
        raise UserError(f"label {name} is {label.shape[0]}x{label.shape[1]} (height x width) but its image is "
                        f"{image_size[0]}x{image_size[1]}")  # fmt: skip
    check_ids(label, num_classes, ignore_index, name)


def check_ids(label: np.ndarray, num_classes: int, ignore_index: int, name: str) -> None:
    """Raise a UserError naming the file and the first value that is neither a class id nor void."""
    wrong = (label != ignore_index) & ((label < 0) | (label >= num_classes))
    if wrong.any():
        value, count = int(label[wrong][0]), int(wrong.sum())
        raise UserError(f"label {name} holds the id {value} ({count} pixels out of range); "
                        f"expected 0..{num_classes - 1} or {ignore_index} (void)")  # fmt: skip
