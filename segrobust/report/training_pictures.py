"""What robust validations kept of their first images, read for the page."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from segrobust.core.errors import UserError
from segrobust.report.pictures import data_uri
from segrobust.report.training import Training

FOLDER = "pictures"
KINDS = {"image": "image", "attacked": "attacked", "clean": "prediction", "robust": "prediction under attack"}
SHOWN = 4  # iterations of a training
_SNAPSHOT = re.compile(r"iter_(\d{1,15})")


class Snapshot(NamedTuple):
    """An image after so many iterations; ``pictures`` are data URIs by ``KINDS``."""

    image: int
    iteration: int
    pictures: dict[str, str]


def snapshots(training: Training) -> list[Snapshot]:
    """By image the pictures after a few iterations; one that cannot be read is left out."""
    folders = {}
    for path in (training.path / FOLDER).glob("iter_*"):
        name = _SNAPSHOT.fullmatch(path.name)
        if name and int(name[1]) <= training.iterations:
            folders[int(name[1])] = path
    found = []
    for iteration in spread(sorted(folders), training.best.iteration if training.best else None):
        for path in sorted(folders[iteration].glob("*-image.png")):
            number = path.name.removesuffix("-image.png")
            with contextlib.suppress(UserError):
                files = {kind: f"{number}-{kind}.png" for kind in KINDS}
                pictures = {kind: data_uri(folders[iteration], name) for kind, name in files.items()}
                found += [Snapshot(int(number), iteration, pictures)] if number.isdecimal() else []
    return sorted(found, key=lambda one: one[:2])


def spread(iterations: Sequence[int], best: int | None) -> list[int]:
    """The first and the last iteration, the best one where it is there, and others evenly between, ``SHOWN`` in all."""
    if len(iterations) <= SHOWN:
        return list(iterations)
    step = (len(iterations) - 1) / (SHOWN - 1)
    chosen = [iterations[round(number * step)] for number in range(SHOWN)]
    if best in iterations and best not in chosen:
        nearest = min(range(1, SHOWN - 1), key=lambda number: abs(chosen[number] - best))
        chosen[nearest] = best
    return chosen


def classes(training: Training) -> list[tuple[str, tuple[int, int, int]]]:
    """Names and colours of the classes in the pictures; none where they are not told."""
    path: Path = training.path / FOLDER / "classes.json"
    try:
        told: Any = json.loads(path.read_text(encoding="utf-8"))
        return [(str(name), _colour(colour)) for name, colour in told]
    except (OSError, ValueError, TypeError, RecursionError):
        return []


def _colour(value: Any) -> tuple[int, int, int]:
    red, green, blue = value
    if not all(type(one) is int and 0 <= one <= 255 for one in value):
        raise ValueError(value)
    return red, green, blue
