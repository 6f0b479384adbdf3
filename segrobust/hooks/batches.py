"""A loader's batch as an attack takes it, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from segrobust.core.errors import UserError
from segrobust.core.groups import of_equal_size
from segrobust.models.trainable import CHANNEL_SWAP, from_loader


def to_loader(image: Tensor) -> Tensor:
    """An attacked image in the loader's format, as float32."""
    return image[CHANNEL_SWAP] * 255


def equal_batches(
    batch: Mapping[str, Any], chosen: Iterable[int], device: torch.device
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """The chosen images of a batch in groups of equal size: indices, images ``[N, 3, H, W]``, labels ``[N, H, W]``.

    Raises:
        UserError: the data samples have no labels.
    """
    inputs, samples = list(batch["inputs"]), batch["data_samples"]
    if not all("gt_sem_seg" in sample for sample in samples):
        raise UserError("an attack needs labels, but the data samples have no gt_sem_seg; "
                        "add LoadAnnotations (or LoadPair) to the pipeline")  # fmt: skip
    for group in of_equal_size({index: inputs[index].shape for index in chosen}):
        images = torch.stack([from_loader(inputs[index].to(device)) for index in group])
        labels = [samples[index].gt_sem_seg.data.squeeze(0).to(device).long() for index in group]
        yield group, images, torch.stack(labels)
