"""Models that are none of mmseg's, each as a config names it, and a tiny training of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from segrobust.models.registry import register_segmenter
from segrobust.models.segmenter import Segmenter
from tests.hooks.toys import CLASSES, toy_config, with_validation
from tests.models.adapters.saved import save_huggingface, save_smp

K = len(CLASSES)


class OwnNet(nn.Module):
    """Two convolutions with batch normalisation and dropout at half the resolution; in training two outputs."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout2d(0.3)
        self.last = nn.Conv2d(8, outputs, 3, padding=1)
        self.aux = nn.Conv2d(8, outputs, 1)

    def forward(self, pixels):
        x = self.drop(self.norm(self.first(pixels)).relu())
        return (self.last(x), self.aux(x)) if self.training else self.last(x)


def own_net(outputs: int = 5) -> nn.Module:
    return OwnNet(outputs)


def pooled_net() -> nn.Module:
    """Batch normalisation of a map of 1x1 pixel."""
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Conv2d(4, K, 1))


@register_segmenter
class WholeSegmenter(Segmenter):
    """A segmenter that is its own network."""

    def __init__(self, **options: Any) -> None:
        super().__init__(num_classes=K, **options)
        self.layer = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, K, 1))

    def logits(self, images):
        return self.layer(images * 2 - 1)


PYTHON = dict(
    type="PythonSegmenter",
    factory="tests.hooks.own_models:own_net",
    kwargs=dict(outputs=5),
    num_classes=K,
    keep_classes=[0, 2, 1],
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.3, 0.4),
    channel_order="bgr",
)
TORCHVISION = dict(type="TorchvisionSegmenter", arch="lraspp_mobilenet_v3_large", num_classes=K)
KINDS = ("python", "torchvision", "timm", "smp", "huggingface", "registered")


def model_of(kind: str, folder: Path) -> dict[str, Any]:
    """A config's ``model``; ``folder`` is where another library saves it."""
    if kind == "smp":
        save_smp(folder / "fpn", classes=K)
        return dict(type="SMPSegmenter", folder=str(folder / "fpn"))
    if kind == "huggingface":
        save_huggingface(folder / "segformer")
        return dict(type="HuggingFaceSegmenter", folder=str(folder / "segformer"))
    if kind == "timm":
        return dict(type="TimmSegmenter", backbone="resnet10t", num_classes=K, head="fcn", head_width=8)
    return {"python": PYTHON, "torchvision": TORCHVISION, "registered": dict(type="WholeSegmenter")}[kind]


def own_config(model: dict[str, Any] = PYTHON, *hooks: dict, robust: bool = False, **changes: Any) -> Config:
    """The training of ``toy_config`` with another model."""
    config = toy_config(*hooks, **changes)
    config.model = Config(dict(model=model)).model
    config.optim_wrapper.optimizer.lr = 0.005
    return with_validation(config, num_images=2) if robust else config


def tensors(loader_images: list[torch.Tensor]) -> torch.Tensor:
    """What a loader delivers as RGB in [0, 1], written anew."""
    return torch.stack([image.flip(0).float() / 255 for image in loader_images])
