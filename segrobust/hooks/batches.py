"""Between mmengine's batches (lists of BGR images in 0..255 and their data samples) and attacks on them."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.model import is_model_wrapper
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

from segrobust.core.errors import UserError

CHANNEL_SWAP = [2, 1, 0]


def unwrapped(model: nn.Module) -> nn.Module:
    """The segmentor itself, out of DDP or another wrapper."""
    return model.module if is_model_wrapper(model) else model


def plain_module(model: nn.Module) -> nn.Module:
    """The segmentor itself, out of DDP, for an attack.

    Raises:
        UserError: the model is under FSDP, whose sharded parameters an attack outside the wrapper cannot read.
    """
    if any(isinstance(part, FullyShardedDataParallel | FSDPModule) for part in model.modules()):
        raise UserError("attacks during training work on a plain model or under DDP; this one is sharded by FSDP: "
                        "leave out model_wrapper_cfg and the FSDP strategy")  # fmt: skip
    return unwrapped(model)


def to_rgb(image: Tensor, device: torch.device) -> Tensor:
    """A loader's image (BGR, 0..255, any dtype) as float32 RGB in [0, 1]; exact for whole numbers."""
    return image.to(device).float()[CHANNEL_SWAP] / 255


def to_loader(image: Tensor) -> Tensor:
    """Back to the loader's format, as float32."""
    return image[CHANNEL_SWAP] * 255


def label_of(data_sample: Any, device: torch.device) -> Tensor:
    """The ground truth ``[H, W]`` of a data sample, long.

    Raises:
        UserError: it has none.
    """
    if "gt_sem_seg" not in data_sample:
        raise UserError("an attack needs labels, but the data samples have no gt_sem_seg; "
                        "add LoadAnnotations (or LoadPair) to the pipeline")  # fmt: skip
    return data_sample.gt_sem_seg.data.squeeze(0).to(device).long()
