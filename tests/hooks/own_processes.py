"""One of torchrun's two processes of ``test_trainable_processes.py``: ``own_processes.py FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from mmengine.dist import get_rank

from segrobust.commands.training import train
from tests.hooks.own_models import PYTHON, own_config


def config():
    """Batch normalisation and dropout that train, an auxiliary head without a gradient, averaged weights."""
    config = own_config(PYTHON, dict(type="EMAHook", momentum=0.1), iters=4, robust=True)
    config.default_hooks.checkpoint.interval = 4
    return config


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    torch.distributed.init_process_group("gloo")
    runner = train(config(), work_dir=folder / "work", launcher="pytorch")
    found = {
        "weights": runner.model.module.state_dict(),
        "wrapper": type(runner.model).__name__,
        "robust": float(runner.message_hub.get_scalar("val/robust/mIoU").current()),
        "clean": float(runner.message_hub.get_scalar("val/mIoU").current()),
    }
    torch.save(found, folder / f"rank_{get_rank()}.pt")
