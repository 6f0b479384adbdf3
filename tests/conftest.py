"""What all tests share: one thread each (two of them run side by side), no GPU, and fixtures that skip with a reason.

Tests of CPUs hide the GPU from themselves and from the processes that they start. ``SEGROBUST_TEST_GPU=1`` shows it to
those marked ``gpu``, the first one of several, and skips all others, which may count on its absence.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
# before torch looks for one
os.environ["CUDA_VISIBLE_DEVICES"] = (
    os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] if os.environ.get("SEGROBUST_TEST_GPU") == "1" else ""
)

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
ON_GPU = os.environ.get("SEGROBUST_TEST_GPU") == "1"


def pytest_configure(config: pytest.Config) -> None:
    if ON_GPU and not torch.cuda.is_available():
        raise pytest.UsageError("the GPU tests need a GPU, and torch sees none here; `make test` runs all others")


def pytest_runtest_setup(item: pytest.Item) -> None:
    needs_gpu = item.get_closest_marker("gpu") is not None
    if needs_gpu and not ON_GPU:
        pytest.skip("needs a GPU, which these tests hide: make test-gpu")
    if ON_GPU and not needs_gpu:
        pytest.skip("sees to it that no GPU is there: make test")


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


@pytest.fixture(scope="session")
def chromium():
    """One started browser for the whole session; skips where there is none."""
    from tests.browser import started

    with started() as browser:
        yield browser
