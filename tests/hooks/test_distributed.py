"""Two processes train and validate like one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from tests.hooks.processes import measure
from tests.hooks.toys import same


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path, repository):
    """Half the batch each, gradients averaged by DDP, under attack and with accumulation."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(repository), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(repository / "tests" / "hooks" / "processes.py"), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"rank_{rank}.pt", weights_only=True) for rank in range(2))
    one = measure(tmp_path / "one", batch_size=2, launcher="none")
    assert first["wrapper"] == second["wrapper"] == "MMDistributedDataParallel"
    assert same(first["weights"], second["weights"])
    for name, weight in one["weights"].items():  # one turned sign among 3000 values of an image moves a weight by 2e-4
        assert torch.allclose(first["weights"][name], weight, atol=1e-3), name
    for mine, yours, ours in zip(first["images"], second["images"], one["images"], strict=True):
        assert (torch.stack([*mine, *yours]) != torch.stack(ours)).float().mean() < 0.01  # rounding may turn a sign
    robust = ("robust/mIoU", "robust/aAcc", "min_norm/median", "min_norm/found")
    assert 0 < one["metrics"]["min_norm/found"] <= 100
    assert [first["metrics"][key] for key in robust] == [one["metrics"][key] for key in robust]
    assert [second["metrics"][key] for key in robust] == [one["metrics"][key] for key in robust]
