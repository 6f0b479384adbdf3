"""Which pixels a targeted attack is judged on: those of some classes, or those of a mask.

At all others its target is void: they have no part in the attack's goal nor in its success, unless they are to be
kept as they were predicted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segrobust.core.errors import UserError, unknown_name
from segrobust.datasets.files import read_label
from segrobust.datasets.labels import check_size
from segrobust.datasets.source import Sample, Source
from segrobust.datasets.target_spec import parse_where

Pixels = Callable[[Sample], Tensor]  # ``[H, W]`` bool


def only_where(spec: str, source: Source) -> tuple[Pixels, dict[str, Any]]:
    """What selects the pixels of a sample, and what tells it from other selections, for ``run.json``.

    Args:
        spec: ``class:NAME[,NAME...]``, by label, or ``mask:FILE`` (``mask:FOLDER``: one per image), where it is not 0;
            see :func:`segrobust.datasets.target_spec.parse_where`.

    Raises:
        UserError: an unknown class, a mask that is missing or has another size than its image, or no pixel with a
            label in any image.
    """
    kind, value = parse_where(spec)
    if kind == "class":
        classes = sorted({class_number(name.strip(), source) for name in value.split(",")})
        pixels, facts = _of_classes(classes), {"where": spec, "where_classes": classes}
    else:
        pixels, sha256 = _in_mask(Path(value), source)
        facts = {
            "where": f"mask:{Path(value).name}",
            "where_sha256": sha256,
        }  # without folders, which may name a person
    refuse_nothing(pixels, source, f"where {facts['where']}")
    return pixels, facts


def class_number(value: str, source: Source) -> int:
    """The number of a class from its name or number; UserError: there is no such class."""
    if value in source.class_names:
        return source.class_names.index(value)
    if not value.isdecimal():
        raise unknown_name("class", value, source.class_names)
    if int(value) >= source.num_classes:
        raise UserError(f"class {value} does not exist; expected 0 to {source.num_classes - 1} or a name")
    return int(value)


def refuse_nothing(pixels: Pixels, source: Source, what: str) -> None:
    """UserError where no image has a labelled pixel among these; reads no further than the first that has."""
    samples = (source[index] for index in range(len(source)))
    if not any((pixels(sample) & (sample.label != source.ignore_index)).any() for sample in samples):
        raise UserError(f"{what}: none of {len(source)} images has such a pixel with a label; nothing could be judged")


def _of_classes(classes: list[int]) -> Pixels:
    return lambda sample: torch.isin(sample.label, torch.tensor(classes))


def _in_mask(path: Path, source: Source) -> tuple[Pixels, str]:
    """One mask for all images, or a folder with one per image: read now, as a wrong one is not to stop a run later."""
    files = sorted(path.glob("*.png")) if path.is_dir() else [path]
    digest, read = hashlib.sha256(), {file.name: torch.from_numpy(read_label(file) != 0) for file in files}
    for name, mask in read.items():
        digest.update(f"{name if path.is_dir() else ''} {tuple(mask.shape)}".encode() + mask.numpy().tobytes())

    def pixels(sample: Sample) -> Tensor:
        name = f"{sample.name}.png" if path.is_dir() else path.name
        if name not in read:
            raise UserError(f"mask {path / name} is missing; a folder of masks has a PNG for every image")
        check_size(read[name].numpy(), tuple(sample.label.shape), str(path / name if path.is_dir() else path))
        return read[name]

    for index in range(len(source)):
        pixels(source[index])
    return pixels, digest.hexdigest()
