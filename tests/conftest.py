"""What all tests share: one thread each (two of them run side by side), and fixtures that skip with a reason."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def camvid(repository: Path) -> Path:
    """The root of CamVid, from ``SEGROBUST_CAMVID`` or beside the repository."""
    root = Path(os.environ.get("SEGROBUST_CAMVID", repository.parent / "shared" / "data" / "camvid"))
    if not (root / "images" / "test").is_dir():
        pytest.skip("CamVid is not there; set SEGROBUST_CAMVID to the folder that holds images/ and labels/")
    return root


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the current one, so that default work dirs land there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
