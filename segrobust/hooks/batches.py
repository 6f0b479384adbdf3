"""Between a runner of mmseg (its model; lists of BGR images in 0..255 with data samples) and attacks in training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from segrobust.core.errors import UserError
from segrobust.core.groups import of_equal_size
from segrobust.models.adapters.mmseg import MMSegSegmenter
from segrobust.models.segmenter import Segmenter

CHANNEL_SWAP = [2, 1, 0]


def attacked_model(runner: Any) -> Segmenter:
    """The model that a runner trains, as attacks see it; UserError: it is no mmseg segmentor, or under FSDP."""
    return MMSegSegmenter.live(runner.model)


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


def equal_batches(
    batch: Mapping[str, Any], chosen: Iterable[int], device: torch.device
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """The chosen images of a batch in groups of equal size: indices, images ``[N, 3, H, W]``, labels ``[N, H, W]``."""
    inputs, samples = list(batch["inputs"]), batch["data_samples"]
    for group in of_equal_size({index: inputs[index].shape for index in chosen}):
        images = torch.stack([to_rgb(inputs[index], device) for index in group])
        yield group, images, torch.stack([label_of(samples[index], device) for index in group])
