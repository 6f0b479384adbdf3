"""What the tests on a GPU share: the device, float32 without TF32, and a small data set for the shipped models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from segrobust.models.precision import computing_in
from tests.gpu.runs import Scenes, write_scenes_for

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda")


@pytest.fixture
def float32(device: torch.device) -> Iterator[None]:
    """As in a run: an attack that is called by itself computes in whatever torch is set to."""
    with computing_in("float32", device):
        yield


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    """Eight scenes under the labels that the shipped robust model gives them, and a config for ``segrobust``."""
    return write_scenes_for("camvid-fpn-r18w24-pgdat-linf4-180x240", tmp_path_factory.mktemp("scenes"), count=8)
