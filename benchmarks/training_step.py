"""Cost of an adversarial training step over bare passes and an ordinary step of the same network, batch and machine.

    python benchmarks/training_step.py [--config FILE] [--attacks CEPGD ALMAProx] [--steps 3] [--repeats 15] [--forms]

The bound is 1.08 x (K forward + input-gradient passes and one ordinary training step). A bare pass is one forward of the
network that is trained, in the mode in which the hook attacks (eval, frozen, float32), and the backward of a constant
logit gradient to the images. An ordinary step is mmengine's ``train_step`` on a batch that is on the device. An
adversarial step is the ``AdversarialTrainingHook`` and the same ``train_step``; where the hook measures its images only
every so many iterations, one iteration in so many is that dearer one. All follow each other in every repeat, in one
process; ratios are of one repeat, and the median of the repeats counts. Wall time and, on a CPU, that of the process are
told; the second knows nothing of what else the machine does, and decides there. Exit status 1: a ratio is above the bound.

With ``--forms`` the cheaper forms of the training with CEPGD stand beside it instead: seconds of an iteration over
those of its plain form. They are told and not judged.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from segrobust.datasets.scenes import render_scene
from segrobust.hooks import AdversarialTrainingHook
from segrobust.models.load import own_segmenter
from segrobust.models.mm import import_mmseg, load_config
from segrobust.models.network_io import in_channels_last
from segrobust.models.precision import float32_unless_autocast
from segrobust.models.pretrained import without_pretrained
from segrobust.models.segmenter import frozen_eval
from segrobust.models.trainable import build_trainable

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "fpn" / "fpn_r18w24_1xb8-pgdat-linf4-s3-1500_camvid-180x240.py"
BOUND = 1.08
PGD = dict(eps="4/255", optimiser="pgd", radius_reduction=False, keep="last")
CAPPED = dict(step_size="1/255", step_decay=1.0, eps_max="4/255", target_apsr=0.1)
ATTACKS = ("CEPGD", "TsallisPGD", "SharpPGD", "SegPGD", "CosPGD", "ALMAProx")


def adversary(name: str, steps: int) -> dict[str, Any]:
    """The attack as the shipped recipes have it (``configs/_base_/attacks``)."""
    return dict(type=name, steps=steps, **(CAPPED if name == "ALMAProx" else PGD))


class Training:
    """What mmengine's loop calls in an iteration, on one batch of synthetic scenes."""

    def __init__(self, config: Any, device: torch.device, size: tuple[int, int] | None = None) -> None:
        import_mmseg()
        from mmengine import ConfigDict
        from mmengine.logging import MMLogger
        from mmengine.optim import build_optim_wrapper
        from mmseg.registry import MODELS

        MMLogger.get_current_instance().setLevel("WARNING")  # else a line for every parameter of the optimiser
        torch.manual_seed(0)
        own = own_segmenter(config.model) is not None
        settings = config.model.to_dict() if own else without_pretrained(config.model.to_dict())
        network = build_trainable(config) if own else MODELS.build(ConfigDict(settings))
        network = in_channels_last(network.to(device)).train()
        hub = SimpleNamespace(update_scalar=lambda name, value: None, update_info=lambda name, value: None)
        self.runner = SimpleNamespace(model=network, iter=0, rank=0, world_size=1, seed=0, message_hub=hub, hooks=[])
        optimiser = config.optim_wrapper.to_dict()
        optimiser["optimizer"]["lr"] = 1e-6  # hundreds of steps on one batch
        self.runner.optim_wrapper = build_optim_wrapper(network, optimiser)
        size, count = size or tuple(config.crop_size), config.train_dataloader.batch_size
        trained = AdversarialTrainingHook(adversary("CEPGD", 1))
        trained.before_train(self.runner)
        self.segmenter, self.device = trained.segmenter, device
        scenes = [render_scene(size, 0, "train", number) for number in range(count)]
        self.images = [torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1).to(device) for image, _ in scenes]
        self.samples = [_sample(torch.from_numpy(label), self.segmenter, device) for _, label in scenes]

    def bare(self, passes: int) -> None:
        images = torch.stack(self.images).flip(1).float() / 255
        with float32_unless_autocast(self.device), frozen_eval(self.segmenter):
            for _ in range(passes):
                points = images.detach().requires_grad_()
                logits = self.segmenter(points)
                torch.autograd.grad(logits, points, torch.ones_like(logits))

    def step(self, inputs: list[Tensor]) -> None:
        batch = {"inputs": inputs, "data_samples": self.samples}
        self.runner.model.train_step(batch, optim_wrapper=self.runner.optim_wrapper)

    def ordinary(self) -> None:
        self.step(self.images)

    def hook(self, **settings: Any) -> AdversarialTrainingHook:
        hook = AdversarialTrainingHook(**settings)
        hook.before_train(self.runner)
        return hook

    def iteration(self, hook: AdversarialTrainingHook, number: int) -> None:
        self.runner.iter = number
        batch = {"inputs": self.images, "data_samples": self.samples}
        hook.before_train_iter(self.runner, number, batch)
        outputs = self.runner.model.train_step(batch, optim_wrapper=self.runner.optim_wrapper)
        hook.after_train_iter(self.runner, number, batch, outputs)


def _sample(label: Tensor, segmenter: nn.Module, device: torch.device) -> Any:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    label = label.long()
    label = torch.where(label == 255, segmenter.ignore_index, label % segmenter.num_classes)
    size = tuple(label.shape)
    sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size))
    sample.gt_sem_seg = PixelData(data=label[None].to(device))
    return sample
