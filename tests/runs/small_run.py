"""Rows, conditions and a run folder that tests of runs share."""

from __future__ import annotations

from segrobust.core.rows import Condition, Row
from segrobust.runs.folder import RunFolder

IDENTITY = {"checkpoint": "abc", "eps": [0.1, 0.2], "attacks": {"CEPGD": {"steps": 100, "amp": False}}}
NEAR, FAR = (Condition("attack", "CEPGD", norm="Linf", eps=eps, fields={"steps": 100}) for eps in (0.1, 0.2))
CLEAN = Condition("clean", "clean")
IMAGES = [{"name": f"scene {i}", "sha256": f"{i:064d}"} for i in range(8)]


def batch(start, condition=NEAR, size=4):
    return [
        Row(
            i,
            condition,
            {"classes": [0, 2], "tp": [i, 3], "fp": [0, 2], "fn": [2, 0]},
            {"forwards": 100, "backwards": 99, "distance": condition.eps or 0.0},
        )
        for i in range(start, start + size)
    ]


def changed(row, image=None, counts=(), **extra):
    """The row with some of it otherwise."""
    number = row.image if image is None else image
    return Row(number, row.condition, {**row.counts, **dict(counts)}, {**row.extra, **extra})


def begin(path, identity=IDENTITY, conditions=(CLEAN, NEAR, FAR), images=IMAGES, **options):
    folder = RunFolder(path)
    folder.open(identity, conditions, images, **options)
    return folder
