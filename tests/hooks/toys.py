"""A tiny mmseg training: six images in memory, a segmentor with batch normalisation and dropout, and observers."""

from __future__ import annotations

import random
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import DATASETS, HOOKS, MODELS, OPTIM_WRAPPERS
from mmengine.structures import PixelData
from torch.utils.data import Dataset

from segrobust.attacks import weights
from segrobust.attacks.minimum_norm import MinNormAttack
from segrobust.models.mm import import_mmseg

import_mmseg()

from mmseg.models import EncoderDecoder  # noqa: E402  (registers our modules first)
from mmseg.structures import SegDataSample  # noqa: E402

CLASSES = ("dark", "bright", "other")
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 55.0, 50.0)
PGD = dict(type="CEPGD", eps="8/255", steps=3, optimiser="pgd", radius_reduction=False)


@dataclass(frozen=True, kw_only=True)
class SignSearch(MinNormAttack):
    """Sign steps of equal length away from the image until it is at the goal or at the cap.

    Of a capped one, the wanted share is ``target_apsr`` of the pixels that are right at the beginning.
    """

    eps_max: float | None = None
    target_apsr: float | None = None
    step: float = 1 / 255
    steps: int = 4

    can_target: ClassVar[bool] = True

    def required(self, clean_error):
        if self.target_apsr is None:
            return super().required(clean_error)
        return clean_error + self.target_apsr * (1 - clean_error)

    def search(self, problem, closest) -> None:
        limit = 1.0 if self.eps_max is None else self.eps_max
        points = problem.clean
        for _ in range(self.steps):
            measured = problem.engine.gradient(points, weights.ce, 0.0)
            closest.update(points, measured.reached)
            change = points + self.step * measured.gradient.sign() - problem.clean
            points = (problem.clean + change.clamp(-limit, limit)).clamp(0, 1)
        closest.update(points, problem.engine.measure(points).reached)


@DATASETS.register_module()
class ToyScenes(Dataset):
    """Noisy images of two brightnesses with a void border; BGR uint8, as mmseg's loader packs them.

    Augmentation draws from Python's, numpy's and torch's global generators. ``wide`` images are 8 pixels wider.
    ``contrast`` scales all differences, around a grey of 115.
    """

    ignore_index = 255
    metainfo = dict(classes=CLASSES, palette=[[0, 0, 0], [255, 255, 255], [128, 0, 0]])

    def __init__(
        self, length: int = 6, augment: bool = False, wide: tuple[int, ...] = (), contrast: float = 1.0
    ) -> None:
        self.length, self.augment, self.wide, self.contrast = length, augment, wide, contrast

    def __len__(self) -> int:
        return self.length

    def get_data_info(self, index: int) -> dict[str, Any]:
        return {"img_path": f"{index}.png"}

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = np.random.default_rng(index)
        height, width = 32, 40 if index in self.wide else 32
        label = (generator.random((height // 8, width // 8)) < 0.5).astype(np.int64).repeat(8, 0).repeat(8, 1)
        image = 115 + self.contrast * (90 * label[None] - 45 + generator.normal(0, 25, (3, height, width)))
        image = torch.from_numpy(image.clip(0, 255).astype(np.uint8))
        label[:2] = 255
        label[8:12, 8:12] = 2
        label = torch.from_numpy(label)[None]
        if self.augment:
            shift = random.randrange(8) + np.random.randint(8) + int(torch.randint(8, ()))
            image, label = image.roll(shift, -1), label.roll(shift, -1)
        size = (height, width)
        sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size, img_path=f"{index}.png"))
        sample.gt_sem_seg = PixelData(data=label)
        return dict(inputs=image, data_samples=sample)


@MODELS.register_module()
class ToySegmentor(EncoderDecoder):
    """Keeps the tensor that its loss saw, and the dtype of the last logits."""

    def loss(self, inputs, data_samples):
        self.seen_by_loss = inputs.detach().clone()
        return super().loss(inputs, data_samples)

    def encode_decode(self, inputs, batch_img_metas):
        logits = super().encode_decode(inputs, batch_img_metas)
        self.last_logits_dtype = logits.dtype
        return logits


@OPTIM_WRAPPERS.register_module()
class CpuAutocast(OptimWrapper):
    """What AmpOptimWrapper does, without its insistence on a GPU."""

    @contextmanager
    def optim_context(self, model):
        with super().optim_context(model), torch.autocast("cpu", torch.bfloat16):
            yield


def state_of(module: torch.nn.Module) -> dict[str, Any]:
    """Everything that an attack might change, copied."""
    gradients = {name: None if p.grad is None else p.grad.clone() for name, p in module.named_parameters()}
    return {
        "gradients": gradients,
        "tensors": {name: tensor.clone() for name, tensor in module.state_dict().items()},
        "modes": {name: part.training for name, part in module.named_modules()},
        "with_cp": {name: part.with_cp for name, part in module.named_modules() if hasattr(part, "with_cp")},
        "requires_grad": {name: p.requires_grad for name, p in module.named_parameters()},
    }


def same(first: Any, second: Any) -> bool:
    """Bitwise equality of nested dictionaries, lists and tensors."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    return type(first) is type(second) and first == second


@HOOKS.register_module()
class Before(Hook):
    """Runs before the attack: keeps the clean images and the model's state of every iteration."""

    priority = "HIGH"

    def __init__(self, mixed_modes: bool = False) -> None:
        self.images, self.samples, self.states, self.mixed_modes = [], [], [], mixed_modes

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if self.mixed_modes:
            runner.model.backbone.stem[1].eval()
            runner.model.backbone.stem[0].weight.requires_grad_(False)
        self.images.append([image.clone() for image in data_batch["inputs"]])
        self.samples.append(data_batch["data_samples"])
        self.states.append(state_of(runner.model))


@HOOKS.register_module()
class After(Hook):
    """Runs after the attack: keeps the images that the model will get and the model's state; then the weights."""

    priority = "LOW"

    def __init__(self) -> None:
        self.images, self.states, self.losses_saw, self.logits_dtypes = [], [], [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        self.images.append([image.clone() for image in data_batch["inputs"]])
        self.states.append(state_of(runner.model))
        self.logits_dtypes.append(getattr(runner.model, "last_logits_dtype", None))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.losses_saw.append(runner.model.seen_by_loss)


def hook_of(runner, kind: type):
    """The runner's hook of a type."""
    return next(hook for hook in runner.hooks if isinstance(hook, kind))


def history(runner, name: str) -> list[float]:
    """All values of a scalar that was logged in training."""
    values, _ = runner.message_hub.get_scalar(f"train/{name}").data
    return values.tolist()


def toy_model(size=(32, 32)) -> dict[str, Any]:
    return dict(
        type="ToySegmentor",
        data_preprocessor=dict(
            type="SegDataPreProcessor", mean=MEAN, std=STD, bgr_to_rgb=True, size=size, pad_val=0, seg_pad_val=255
        ),
        backbone=dict(
            type="ResNetV1c",
            depth=18,
            base_channels=4,
            stem_channels=4,
            num_stages=2,
            out_indices=(0, 1),
            strides=(1, 2),
            dilations=(1, 1),
            norm_cfg=dict(type="BN", requires_grad=True),
            with_cp=True,
        ),
        decode_head=dict(
            type="FCNHead",
            in_channels=8,
            in_index=1,
            channels=8,
            num_convs=1,
            concat_input=False,
            dropout_ratio=0.3,
            num_classes=3,
            norm_cfg=dict(type="BN", requires_grad=True),
            align_corners=False,
            loss_decode=dict(type="CrossEntropyLoss"),
        ),
        train_cfg=dict(),
        test_cfg=dict(mode="whole"),
    )


def toy_config(*hooks: dict, iters: int = 4, attack: dict | None = PGD, **changes: Any) -> Config:
    """A config that trains for ``iters`` batches of 2 and, unless ``attack`` is None, attacks them."""
    if attack is not None:
        hooks = (*hooks, dict(type="AdversarialTrainingHook", attack=attack, error_interval=1))
    config = dict(
        default_scope="mmseg",
        model=toy_model(),
        train_dataloader=dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type="InfiniteSampler", shuffle=True),
            dataset=dict(type="ToyScenes"),
        ),
        optim_wrapper=dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.05, momentum=0.9)),
        param_scheduler=[dict(type="PolyLR", power=0.9, eta_min=1e-4, by_epoch=False, begin=0, end=20)],
        train_cfg=dict(type="IterBasedTrainLoop", max_iters=iters, val_interval=2),
        default_hooks=dict(
            logger=dict(type="LoggerHook", interval=1, log_metric_by_epoch=False),
            checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=1000),
        ),
        custom_hooks=list(hooks),
        log_processor=dict(by_epoch=False),
        randomness=dict(seed=0),
        env_cfg=dict(dist_cfg=dict(backend="gloo")),
    )
    config = Config(config)
    config.merge_from_dict(changes)
    return config


def with_plain_validation(config: Config, fp16: bool = False) -> Config:
    """The config with a validation on clean images."""
    config.val_dataloader = dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type="DefaultSampler", shuffle=False),
        dataset=dict(type="ToyScenes", length=5),
    )
    config.val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
    config.val_cfg = dict(type="ValLoop", fp16=fp16)
    return config


def with_validation(config: Config, fp16: bool = False, **robust: Any) -> Config:
    """The config with a validation under attack as well, of all images unless ``robust`` says otherwise."""
    hook = dict(type="RobustValidationHook", attack=PGD, **{"num_images": None, **robust})
    config.custom_hooks = [*config.custom_hooks, hook]
    return with_plain_validation(config, fp16)
