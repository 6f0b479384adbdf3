"""Two processes train a segmenter that is none of mmseg's: one model, and evaluation loads what they save."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from segrobust.models.load import load_segmenter
from tests.hooks.own_models import PYTHON, own_config
from tests.hooks.own_processes import config
from tests.hooks.toys import same


@pytest.mark.slow
def test_two_processes(tmp_path, repository):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(repository), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    script = repository / "tests" / "hooks" / "own_processes.py"
    done = subprocess.run(
        [*command, str(script), str(tmp_path)], env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"rank_{rank}.pt", weights_only=True) for rank in range(2))
    assert first["wrapper"] == "MMDistributedDataParallel"
    assert same(first, second)  # weights, batch statistics and both scores
    begun = own_config(PYTHON)
    averaged = load_segmenter(config(), tmp_path / "work" / "iter_4.pth", device="cpu", weights="ema")
    raw = load_segmenter(begun, tmp_path / "work" / "iter_4.pth", device="cpu", weights="raw").network
    assert all(torch.equal(value, first["weights"][key]) for key, value in raw.state_dict().items())
    assert not torch.equal(averaged.network.last.weight, raw.last.weight)
