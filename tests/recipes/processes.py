"""One of torchrun's processes of ``test_distributed.py``: ``processes.py FOLDER`` leaves what it found in FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from mmengine.dist import get_rank

from segrobust.commands.training import train
from segrobust.hooks import AdversarialTrainingHook
from tests.hooks.toys import history, hook_of, toy_config
from tests.recipes.toys import branched

FGSM = dict(type="FGSM", eps="24/255")


def trades(folder: Path) -> dict:
    """Batch normalisation in train mode, accumulation, and a loss over both halves."""
    config = toy_config(attack=None, iters=4)
    attack = dict(type="KLPGD", eps="8/255", steps=2, optimiser="pgd", radius_reduction=False)
    config.custom_hooks = [dict(type="AdversarialTrainingHook", attack=attack, loss="TRADES")]
    config.model.backbone.with_cp = False  # its reentrant checkpoints do not go with DDP and two passes
    config.optim_wrapper.accumulative_counts = 2
    runner = train(config, work_dir=folder / "trades", launcher="pytorch")
    return {"weights": runner.model.module.state_dict(), "kl": history(runner, "kl")}


def guarded(folder: Path) -> dict:
    """A guard that any difference trips: it sees other images in every process."""
    from segrobust.hooks import overfitting

    overfitting.fooled = lambda weak, strong: strong > 0
    guard = dict(type="OverfittingHook", interval=2, action="steps", steps=3)
    config = toy_config(guard, iters=3, attack=FGSM)
    runner = train(config, work_dir=folder / "guarded", launcher="pytorch")
    steps = hook_of(runner, AdversarialTrainingHook).attack.steps
    return {"probe": history(runner, "adv_probe_error"), "errors": history(runner, "adv_pixel_error"), "steps": steps}


def divided(folder: Path) -> dict:
    """Three branches, of which one iteration without an attack needs one alone."""
    attack = dict(type="CEPGD", eps="8/255", steps=2, optimiser="pgd", radius_reduction=False)
    config = branched(dict(type="AdversarialTrainingHook", attack=attack, start=1), attack=None)
    runner = train(config, work_dir=folder / "divided", launcher="pytorch")
    return {"weights": runner.model.module.state_dict(), "shares": history(runner, "auxiliary_share")}


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")  # one for all trainings
    target = Path(sys.argv[1])
    found = {"trades": trades(target), "guarded": guarded(target), "divided": divided(target)}
    torch.save(found, target / f"rank_{get_rank()}.pt")
