"""The picture grid: PNG files and ``grid.json`` written by an evaluation, data URIs read by the report."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segrobust.core.errors import UserError
from segrobust.core.files import clear_io_errors, replace_file

KINDS = {  # and what they are called on the page
    "image": "image",
    "perturbation": "perturbation",
    "truth": "ground truth",
    "before": "prediction before",
    "after": "prediction after",
    "changed": "changed pixels",
}
VOID = (0, 0, 0)
CHANGES = {  # colours that stay apart for colour-blind readers (Okabe and Ito, 2008)
    "right before, wrong after": (213, 94, 0),
    "wrong before, wrong otherwise after": (230, 159, 0),
    "wrong before, right after": (0, 158, 115),
    "unchanged, right": (225, 228, 232),
    "unchanged, wrong": (150, 156, 164),
    "void": VOID,
}
_SHOWN_SIDE = 640
_PIXEL_CAP = 64_000_000
_NO_PICTURE = (OSError, SyntaxError, ValueError, IndexError, Image.DecompressionBombError)  # what PIL raises of damage


def write_grid(
    folder: Path, entries: Sequence[dict[str, Any]], palette: Sequence[Sequence[int]], ignore_index: int = 255
) -> list[dict[str, Any]]:
    """Write six PNG files per entry and ``grid.json``, which names them with the numbers for their captions.

    Args:
        folder: created where missing; file names are numbers, never names from the data.
        entries: ``{rule, image_id, name, attack, eps}`` and, on the CPU, ``image`` and ``adversarial`` [3, H, W] RGB in
            [0, 1], ``label``, ``before`` and ``after`` [H, W] class ids.
        palette: RGB in [0, 255] per class. Void pixels are black in the ground truth and in the map of changes.

    Returns:
        The content of ``grid.json``. The perturbation is shown as 0.5 + factor * delta, factor = 0.5 / max|delta|.
    """
    with clear_io_errors(f"create {folder}", "choose a --work-dir that can be written"):
        folder.mkdir(parents=True, exist_ok=True)
    grid = []
    for number, entry in enumerate(entries):
        label, before, after = (entry[name] for name in ("label", "before", "after"))
        void, delta = label == ignore_index, entry["adversarial"] - entry["image"]
        largest = float(delta.abs().max())
        factor = 0.5 / largest if largest > 0 else None
        pictures = {
            "image": _bytes(entry["image"]),
            "perturbation": _bytes(0.5 + (factor or 0.0) * delta),
            "truth": colour_map(label, palette, void),
            "before": colour_map(before, palette),
            "after": colour_map(after, palette),
            "changed": change_map(before, after, label, void),
        }
        files = {kind: f"{number:02d}-{kind}.png" for kind in pictures}
        for kind, pixels in pictures.items():
            replace_file(folder / files[kind], _png(pixels))
        grid.append(
            {name: entry[name] for name in ("rule", "name", "attack", "eps")}
            | {
                "image": entry["image_id"],
                "aAcc_before": _accuracy(before, label, void),
                "aAcc_after": _accuracy(after, label, void),
                "max_perturbation": largest,
                "factor": factor,
                "files": files,
            }
        )
    replace_file(folder / "grid.json", json.dumps(grid, indent=1, allow_nan=False).encode() + b"\n")
    return grid


def _bytes(image: Tensor) -> np.ndarray:
    return image.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def colour_map(ids: Tensor, palette: Sequence[Sequence[int]], void: Tensor | None = None) -> np.ndarray:
    """Class ids [H, W] as RGB bytes [H, W, 3]; black where ``void``."""
    table = np.array([*palette, VOID], dtype=np.uint8)
    index = ids.long() if void is None else ids.long().masked_fill(void, len(palette))
    return table[index.numpy()]


def change_map(before: Tensor, after: Tensor, label: Tensor, void: Tensor) -> np.ndarray:
    """Which pixels the attack changed, and whether that made them wrong, in the colours of ``CHANGES``; [H, W, 3]."""
    right_before, right_after = before == label, after == label
    index = torch.where(right_before, torch.where(right_after, 3, 0), torch.where(right_after, 2, 1))
    index[~right_before & (before == after)] = 4
    index[void] = 5
    return np.array(list(CHANGES.values()), dtype=np.uint8)[index.numpy()]


def _accuracy(prediction: Tensor, label: Tensor, void: Tensor) -> float | None:
    right = (prediction == label)[~void]
    return round(100 * int(right.sum()) / len(right), 4) if len(right) else None


def _png(pixels: np.ndarray) -> bytes:
    return _encoded(Image.fromarray(pixels), "png", optimize=True)


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def read_grid(folder: Path) -> list[dict[str, Any]]:
    """The entries of ``grid.json`` with each picture as a data URI under ``pictures``; none where there is no grid.

    Every picture is decoded and encoded anew, so that nothing but pixels enters the report.

    Raises:
        UserError: a file that is missing, lies outside the folder, or is not a picture.
    """
    if not (folder / "grid.json").is_file():
        return []
    try:
        grid = json.loads((folder / "grid.json").read_bytes())
        return [{**entry, "pictures": {k: data_uri(folder, entry["files"][k]) for k in KINDS}} for entry in grid]
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{folder / 'grid.json'}: not a picture grid written by segrobust ({error!r})") from error


def data_uri(folder: Path, name: str) -> str:
    """A PNG file of the folder, decoded and encoded anew; UserError: one that lies elsewhere or is no picture."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{folder}: {name!r} is not a file of this folder")
    try:
        with Image.open(path, formats=["PNG"]) as opened:
            if opened.width * opened.height > _PIXEL_CAP:
                raise UserError(f"{path}: {opened.width} x {opened.height} pixels are too many for a report")
            picture = opened.convert("RGB")
    except UserError:
        raise
    except _NO_PICTURE as error:
        raise UserError(f"{path}: not a readable PNG picture; run the evaluation again") from error
    flat = picture.getcolors(maxcolors=512) is not None
    picture.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE), Image.Resampling.NEAREST if flat else Image.Resampling.LANCZOS, None)
    kind, options = ("png", {"optimize": True}) if flat else ("jpeg", {"quality": 90, "subsampling": 0})
    return f"data:image/{kind};base64,{base64.b64encode(_encoded(picture, kind, **options)).decode()}"
