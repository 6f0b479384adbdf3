"""A small image/label folder, and configs that read it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CLASSES = ("road", "tree", "car")


def write_pair(root: Path, name: str, image: np.ndarray, label: np.ndarray, split: str = "test") -> None:
    for kind, array in (("images", image), ("labels", label)):
        folder = root / kind / split
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / f"{name}.png")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Seven 8x10 images with ids 0..2 and void."""
    rng = np.random.default_rng(0)
    for number in range(7):
        label = rng.choice(np.array([0, 1, 2, 255], dtype=np.uint8), size=(8, 10))
        write_pair(tmp_path, f"img_{number}", rng.integers(0, 256, (8, 10, 3), dtype=np.uint8), label)
    return tmp_path


@pytest.fixture
def config(folder):
    """Makes a config on the folder; ``steps`` replaces the loading steps, keywords go to the dataset."""

    def make(steps=None, **dataset) -> dict:
        dataset = dict(type="ImageLabelFolder", data_root=str(folder), split="test", metainfo=dict(classes=CLASSES),
                       test_mode=True) | dataset  # fmt: skip
        dataset["pipeline"] = [*(steps or [dict(type="LoadPair")]), dict(type="PackSegInputs")]
        return dict(test_dataloader=dict(dataset=dataset))

    return make
