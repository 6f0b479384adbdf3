"""One of torchrun's processes of ``test_distributed.py``: ``processes.py FOLDER`` leaves what it found in FOLDER."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from mmengine.dist import barrier, get_rank
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from segrobust.commands.training import join_cpu_processes, prepare, train
from segrobust.core.errors import UserError
from tests.hooks.toys import SignSearch, toy_config, with_validation

ATTACK = dict(
    type="AdversarialTrainingHook",
    attack=dict(type="CEPGD", eps="8/255", steps=2, optimiser="pgd", radius_reduction=False, random_start=False),
)
NORMS = dict(type="RobustValidationHook", attack=SignSearch(apsr=0.6, step=8 / 255, steps=6), num_images=5)


@HOOKS.register_module()
class FedImages(Hook):
    """Keeps what the model was fed."""

    priority = "LOW"

    def __init__(self) -> None:
        self.images = []

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        self.images.append([image.clone() for image in data_batch["inputs"]])


def distributed_config(batch_size: int):
    """A training whose gradients do not depend on how a batch is split: fixed statistics, no dropout.

    Every step sums two batches (accumulative_counts=2)."""
    config = with_validation(toy_config(ATTACK, NORMS, dict(type="FedImages"), dict(type="ReseedHook"), attack=None))
    config.train_dataloader.update(
        batch_size=batch_size,
        sampler=dict(type="SeededInfiniteSampler"),
        dataset=dict(type="SeededDataset", dataset=dict(type="ToyScenes")),
    )
    config.optim_wrapper.accumulative_counts = 2
    config.model.backbone.update(norm_eval=True, with_cp=False)
    config.model.decode_head.update(dropout_ratio=0.0, norm_cfg=None)
    return config


def measure(folder: Path, batch_size: int, launcher: str) -> dict:
    """Metrics of the untrained model, then the weights and images of a training."""
    config = prepare(distributed_config(batch_size), folder / "val", False, False, None, launcher)
    if launcher == "pytorch":
        join_cpu_processes(config)
    metrics = {name: float(value) for name, value in Runner.from_cfg(config).val().items()}
    runner = train(distributed_config(batch_size), work_dir=folder / "train", launcher=launcher)
    model = runner.model.module if launcher == "pytorch" else runner.model
    images = next(hook for hook in runner.hooks if isinstance(hook, FedImages)).images
    return {"metrics": metrics, "weights": model.state_dict(), "images": images, "wrapper": type(runner.model).__name__}


def normalised_config():
    """Batch normalisation that learns, dropout, augmentation, averaged weights: and nothing that makes it exact."""
    config = with_validation(toy_config(dict(type="EMAHook", momentum=0.1), iters=8), num_images=4)
    config.train_dataloader.dataset = dict(type="ToyScenes", augment=True)
    config.train_cfg.val_interval = 8
    config.default_hooks.checkpoint.update(interval=4, save_best="robust/mIoU")
    return config


def stop_and_go_on(folder: Path) -> dict:
    """Eight iterations, and four of them with a resume: what this process has at the end of each."""
    found = {}
    for name in ("straight", "resumed"):
        runner = train(normalised_config(), work_dir=folder / name, resume=name == "resumed", launcher="pytorch")
        if get_rank() == 0 and name == "straight":
            (folder / "resumed").mkdir()
            shutil.copy(folder / "straight" / "iter_4.pth", folder / "resumed")
            (folder / "resumed" / "last_checkpoint").write_text("iter_4.pth")
        barrier()
        averaged = next(hook for hook in runner.hooks if isinstance(hook, EMAHook)).ema_model
        found[name] = {
            "weights": runner.model.module.state_dict(),
            "averaged": averaged.state_dict(),
            "optimizer": runner.optim_wrapper.state_dict(),
            "robust": float(runner.message_hub.get_scalar("val/robust/mIoU").current()),
        }
    return found


def refusal_of_sync_bn(folder: Path) -> dict:
    """What ends this process where the network has SyncBN, and whether another one tells it."""
    config = normalised_config()
    config.model.backbone.norm_cfg.type = "SyncBN"
    try:
        train(config, work_dir=folder / "sync_bn", launcher="pytorch")
    except UserError as error:
        return {"sync_bn": str(error), "sync_bn_told": error.reported}


if __name__ == "__main__":
    torch.set_num_threads(1)
    target = Path(sys.argv[1])
    found = measure(target, batch_size=1, launcher="pytorch")
    found |= {"stopped": stop_and_go_on(target), **refusal_of_sync_bn(target)}
    torch.save(found, target / f"rank_{get_rank()}.pt")
