"""Pictures along a training: the first images of a robust validation, clean and attacked, with their predictions."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segrobust.attacks import AttackResult
from segrobust.core.errors import UserError
from segrobust.core.files import replace_file
from segrobust.datasets.source import MMSegSource
from segrobust.models.segmenter import Segmenter

FOLDER = "pictures"
LONGEST = 320  # pixels of a side
Attacked = Iterable[tuple[list[int], Tensor, AttackResult]]  # places, labels, result


def with_pictures(
    results: Attacked, runner: Any, source: MMSegSource, segmenter: Segmenter, count: int
) -> Iterator[tuple[list[int], Tensor, AttackResult]]:
    """The same results, after PNGs of the first ``count`` images were written to ``pictures/iter_N`` of the work dir.

    Four per image: ``0-image``, ``0-attacked``, ``0-clean`` and ``0-robust``, the predictions in the classes' colours,
    which ``pictures/classes.json`` names. Where they cannot be written, that is told and training goes on.
    """
    folder = Path(runner.work_dir, FOLDER, f"iter_{runner.iter}")
    classes = _classes(runner.val_loop.dataloader.dataset, segmenter)
    for places, labels, result in results:
        for place, attacked in zip(places, result.images, strict=True):
            if place < count:
                image = source[place].image.to(attacked.device)
                try:
                    _write(folder, place, image, attacked, segmenter, classes)
                except (OSError, UserError) as error:
                    runner.logger.warning("pictures of the validation are left out: %s", error)
        yield places, labels, result


def _write(
    folder: Path, place: int, image: Tensor, attacked: Tensor, segmenter: Segmenter, classes: list[tuple]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    colours = np.array([colour for _, colour in classes], dtype=np.uint8)
    for kind, pixels, prediction in (("image", image, "clean"), ("attacked", attacked, "robust")):
        with torch.no_grad():
            found = segmenter(pixels[None]).argmax(1)[0]
        shown = pixels.float().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
        replace_file(folder / f"{place}-{kind}.png", _png(shown, Image.Resampling.LANCZOS))
        replace_file(folder / f"{place}-{prediction}.png", _png(colours[found.cpu().numpy()], Image.Resampling.NEAREST))
    if not (told := folder.parent / "classes.json").is_file():
        replace_file(told, json.dumps(classes).encode())


def _classes(dataset: Any, segmenter: Segmenter) -> list[tuple]:
    """Names and colours as the data tell them, or else the segmenter."""
    told = getattr(dataset, "metainfo", None) or {}
    names, palette = told.get("classes") or (), told.get("palette") or ()
    if len(names) != segmenter.num_classes or len(palette) != segmenter.num_classes:
        names, palette = segmenter.class_names, segmenter.palette
    return [(str(name), tuple(int(value) for value in colour)) for name, colour in zip(names, palette, strict=True)]


def _png(pixels: np.ndarray, resampling: Image.Resampling) -> bytes:
    picture, stream = Image.fromarray(pixels), io.BytesIO()
    picture.thumbnail((LONGEST, LONGEST), resampling, None)
    picture.save(stream, "png", optimize=True)
    return stream.getvalue()
