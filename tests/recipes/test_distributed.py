"""Two processes train one model with a loss over pairs or with branches, and their guard judges and acts as one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from tests.hooks.toys import same


@pytest.mark.slow
def test_two_processes(tmp_path, repository):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(repository), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(repository / "tests" / "recipes" / "processes.py"), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"rank_{rank}.pt", weights_only=True) for rank in range(2))
    assert same(dict(first["trades"]["weights"]), dict(second["trades"]["weights"]))
    assert all(min(each["trades"]["kl"]) > 0 for each in (first, second))
    assert first["guarded"]["errors"] != second["guarded"]["errors"]  # other images
    assert first["guarded"]["probe"] == second["guarded"]["probe"] and len(first["guarded"]["probe"]) >= 1
    assert first["guarded"]["steps"] == second["guarded"]["steps"] == 3
    assert same(dict(first["divided"]["weights"]), dict(second["divided"]["weights"]))
    for shares in (each["divided"]["shares"] for each in (first, second)):
        assert shares[0] == 0 and 0 < min(shares[1:]) <= max(shares) < 1
