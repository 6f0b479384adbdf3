"""mmseg's loading steps over the one reading of files: ``LoadPair``, and what stands for mmseg's own two.

Configs with mmseg's own two get ``ReadImage`` and ``ReadLabel`` in their place (``pipeline.py``), so that all
pipelines see the same pixels and ids of a file.
"""

from __future__ import annotations

from typing import Any

import cv2
import mmengine.fileio as fileio
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from segrobust.core.errors import UserError
from segrobust.datasets.files import read_image, read_label
from segrobust.datasets.labels import VOID, check_size, class_ids, resize_nearest


@TRANSFORMS.register_module()
class LoadPair(BaseTransform):
    """``LoadImageFromFile`` and ``LoadAnnotations`` in one: reads image (BGR) and label, checks it, and resizes both.

    Everything after this step, metrics included, sees ``scale`` as the original size: images shrink by pixel
    area (and grow bilinearly), labels by nearest neighbour.

    Args:
        scale: (width, height) in pixels as in mmcv, or None for the size on disk.
        cache: keep the pairs in memory (one process's memory: use with ``num_workers=0`` or persistent workers).
        num_classes, ignore_index: what ids are checked against where the data set does not tell them with each image.

    Raises:
        UserError: a file is missing or cannot be read; a label is not 2-D, has another size or an id out of range.
    """

    def __init__(
        self,
        scale: tuple[int, int] | None = None,
        cache: bool = False,
        num_classes: int | None = None,
        ignore_index: int = VOID,
    ) -> None:
        self.scale = None if scale is None else (int(scale[0]), int(scale[1]))
        self.cache = cache
        self.known = {"num_classes": num_classes, "ignore_index": ignore_index}
        self._pairs: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def transform(self, results: dict) -> dict:
        path = results["img_path"]
        pair = self._pairs.get(path)
        if pair is None:
            pair = self._load(results)
            if self.cache:
                self._pairs[path] = pair
        image, label = pair
        height, width = label.shape
        results.update(img=image.copy(), gt_seg_map=label.copy(), img_shape=(height, width), ori_shape=(height, width))
        results["seg_fields"] = ["gt_seg_map"]
        return results

    def _load(self, results: dict) -> tuple[np.ndarray, np.ndarray]:
        image, path = read_image(results["img_path"]), _label_path(results)
        stored = read_label(path)
        check_size(stored, image.shape[:2], path)
        label = class_ids(stored, results, path, **_classes(results, self.known))
        if self.scale is not None:
            shrinks = self.scale[0] < image.shape[1]
            image = cv2.resize(image, self.scale, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
            label = resize_nearest(torch.from_numpy(label), self.scale[::-1]).numpy()
        return np.ascontiguousarray(image[..., ::-1]), label

    def __repr__(self) -> str:
        return f"{type(self).__name__}(scale={self.scale}, cache={self.cache})"


@TRANSFORMS.register_module()
class ReadImage(BaseTransform):
    """In the place of ``LoadImageFromFile``: BGR uint8 [H, W, 3], or float32 in 0..255 with ``to_float32``.

    ``backend_args`` say where mmengine gets the file from. UserError: it is missing or cannot be read.
    """

    def __init__(self, to_float32: bool = False, backend_args: dict | None = None) -> None:
        self.to_float32, self.backend_args = to_float32, backend_args

    def transform(self, results: dict) -> dict:
        path = results["img_path"]
        image = np.ascontiguousarray(read_image(path, _content(path, self.backend_args))[..., ::-1])
        results["img"] = image.astype(np.float32) if self.to_float32 else image
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        if "gt_seg_map" in results:  # read before
            check_size(results["gt_seg_map"], image.shape[:2], _label_path(results))
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(to_float32={self.to_float32}, backend_args={self.backend_args})"


@TRANSFORMS.register_module()
class ReadLabel(BaseTransform):
    """In the place of ``LoadAnnotations``: class ids [H, W] as the data set means them.

    Args:
        reduce_zero_label: None leaves it to the data set; otherwise both must say the same, and it happens once.
        checked: ids must be classes or void (off where a step of the user's own has yet to make them so).
        num_classes, ignore_index: what they are checked against where the data set does not tell it with each image.
        backend_args: where mmengine gets the file from.

    Raises:
        UserError: the file is missing or cannot be read, has another size than its image's file or an id out of range,
            or loader and data set disagree on ``reduce_zero_label``.
    """

    def __init__(
        self,
        reduce_zero_label: bool | None = None,
        checked: bool = True,
        num_classes: int | None = None,
        ignore_index: int = VOID,
        backend_args: dict | None = None,
    ) -> None:
        self.reduce_zero_label, self.checked, self.backend_args = reduce_zero_label, checked, backend_args
        self.known = {"num_classes": num_classes, "ignore_index": ignore_index}

    def transform(self, results: dict) -> dict:
        path = _label_path(results)
        stored = read_label(path, _content(path, self.backend_args))
        check_size(stored, results.get("ori_shape", stored.shape), path)
        info = {**results, "reduce_zero_label": self._reduces(results)}
        classes = _classes(results, self.known) if self.checked else {}
        results["gt_seg_map"] = class_ids(stored, info, path, **classes)
        results.setdefault("seg_fields", []).append("gt_seg_map")
        return results

    def _reduces(self, results: dict) -> bool:
        own, given = self.reduce_zero_label, results.get("reduce_zero_label")
        if own is not None and given is not None and own != given:
            raise UserError(f"reduce_zero_label is {own} in LoadAnnotations but {given} in the data set; "
                            "set it in the data set alone")  # fmt: skip
        return bool(given if own is None else own)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(reduce_zero_label={self.reduce_zero_label}, checked={self.checked})"


def _label_path(results: dict) -> str:
    path = results.get("seg_map_path")
    if path is None:
        raise UserError(f"image {results['img_path']} has no label; set data_prefix=dict(seg_map_path=...)")
    return path


def _content(path: str, backend_args: dict | None) -> bytes | None:
    """The bytes of a file that mmengine is to fetch; None for one on this disk."""
    if backend_args is None and "://" not in path:
        return None
    return fileio.get(path, backend_args=backend_args)


def _classes(results: dict, known: dict[str, Any]) -> dict[str, Any]:
    """What ids must keep to: as the data set tells it with the image, else as the step was told."""
    return {name: results.get(name, value) for name, value in known.items()}
