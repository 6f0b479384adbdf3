"""Tiny networks and mmseg configs that build in milliseconds, with weights that matter (no zero gradients)."""

from __future__ import annotations

from typing import Any

import torch
from mmengine import Config
from torch import Tensor, nn

from segrobust.models.adapters.mmseg import MMSegSegmenter

CLASSES = 5


class TinyNet(nn.Module):
    """A convolution, batch normalisation and dropout at half the resolution: logits ``[N,5,h/2,w/2]``."""

    def __init__(self, wrap_in: str | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout2d(0.5)
        self.last = nn.Conv2d(8, CLASSES, 1)
        self.wrap_in = wrap_in

    def forward(self, pixels: Tensor) -> Any:
        logits = self.last(self.drop(self.norm(self.first(pixels)).relu()))
        return {self.wrap_in: logits, "aux": logits * 0} if self.wrap_in else logits


def mmseg_config(
    test_cfg: dict | None = None,
    preprocessor: dict | None = None,
    backbone: dict | None = None,
    head: dict | None = None,
) -> Config:
    """A ResNet-18 of 8 channels with an FCN head; each part can be changed."""
    norm = dict(type="BN", requires_grad=True)
    model = dict(
        type="EncoderDecoder",
        data_preprocessor=dict(type="SegDataPreProcessor", mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
                               bgr_to_rgb=True, pad_val=0, seg_pad_val=255, size_divisor=1) | (preprocessor or {}),
        backbone=dict(type="ResNet", depth=18, base_channels=8, num_stages=4, out_indices=(0, 1, 2, 3), norm_cfg=norm)
        | (backbone or {}),
        decode_head=dict(type="FCNHead", in_channels=64, in_index=3, channels=8, num_convs=1, num_classes=CLASSES,
                         norm_cfg=norm, dropout_ratio=0.5, align_corners=False,
                         loss_decode=dict(type="CrossEntropyLoss", avg_non_ignore=True)) | (head or {}),
        test_cfg=test_cfg or dict(mode="whole"),
    )  # fmt: skip
    return Config(dict(model=model, default_scope="mmseg"))


def tiny_mmseg(config: Config | None = None) -> MMSegSegmenter:
    """The adapter around such a model, with reproducible weights and spread batch statistics."""
    torch.manual_seed(1)
    model = MMSegSegmenter.from_config(config or mmseg_config())
    stir(model)
    return model


def stir(module: nn.Module) -> None:
    """Give every batch normalisation statistics of its own, as after training."""
    torch.manual_seed(2)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 2)
