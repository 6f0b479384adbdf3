"""A paired loss in place of a segmentor's own, on batches that hold every image twice, and segmentors that have one.

With :class:`Pairs`, the network, its parameters and so its checkpoints stay what they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from mmengine.dist import get_world_size
from torch import Tensor, nn
from torch.nn import functional as F

from segrobust.core.errors import UserError
from segrobust.models.recomputing import replaced
from segrobust.recipes.paired import PairedLoss, Seen


class Pairs:
    """Takes the place of ``segmentor.loss`` until it is removed.

    Where ``active``, the first half of a batch is clean, the second the same images under attack. Each half goes
    through the network on its own, so that batch normalisation never mixes them.

    Args:
        segmentor: of mmseg, with softmax over at least two classes and one map of logits from its last head.

    Raises:
        UserError: no decode_head, a sigmoid head, or activation checkpointing on several processes; in the first batch,
            a head with none or several maps of logits in training.
    """

    def __init__(self, segmentor: nn.Module, loss: PairedLoss) -> None:
        if not hasattr(segmentor, "decode_head"):
            raise UserError(f"{loss.name} needs a model of mmseg with a decode_head, which {type(segmentor).__name__} "
                            "has not; train it with attacked images alone (loss=None)")  # fmt: skip
        heads = segmentor.decode_head
        self.head = heads[-1] if isinstance(heads, nn.ModuleList) else heads
        if segmentor.out_channels < 2:
            raise UserError(f"{loss.name} compares softmax probabilities, and {type(self.head).__name__} has one "
                            "sigmoid channel; set out_channels to the number of classes")  # fmt: skip
        if get_world_size() > 1 and any(getattr(part, "with_cp", False) for part in segmentor.modules()):
            raise UserError(f"{loss.name}: two passes with activation checkpointing do not go with several processes; "
                            "set with_cp=False in the model")  # fmt: skip
        self.segmentor, self.loss, self.own = segmentor, loss, segmentor.loss
        self.active = False
        segmentor.loss = self

    def under_attack(self) -> AbstractContextManager[None]:
        """The attack in training sees the segmentor as it is."""
        return nullcontext()

    def remove(self) -> None:
        """Give the segmentor its own loss back."""
        del self.segmentor.loss

    def __call__(self, inputs: Tensor, data_samples: Sequence[Any]) -> dict[str, Any]:
        if not self.active:
            return self.own(inputs, data_samples)
        half = len(data_samples) // 2
        clean, attacked = (self._seen(inputs[part], data_samples[part]) for part in (slice(half), slice(half, None)))
        labels = labels_of(data_samples[:half])
        valid = labels != self.head.ignore_index
        return self.loss(clean, attacked, labels.masked_fill(~valid, 0), valid)

    def _seen(self, inputs: Tensor, data_samples: Sequence[Any]) -> Seen:
        caught: list[Any] = []
        of_features = self.head.loss_by_feat

        def catching(logits: Any, *more: Any, **options: Any) -> dict[str, Any]:
            caught.append(logits)
            return of_features(logits, *more, **options)

        with replaced(self.head, "loss_by_feat", catching):
            losses = self.own(inputs, data_samples)
        if len(caught) != 1 or not isinstance(caught[0], Tensor) or caught[0].ndim != 4:
            raise UserError(f"{self.loss.name} needs one map of logits from the head, which {type(self.head).__name__} "
                            "does not give in training; train it with attacked images alone (loss=None)")  # fmt: skip
        size, align = data_samples[0].gt_sem_seg.data.shape[-2:], self.segmentor.align_corners
        return Seen(losses, F.interpolate(caught[0].float(), size, mode="bilinear", align_corners=align))


class PairedSegmentor:
    """What a segmentor adds to mmseg's that has a loss of its own over clean images and the attacked ones.

    Where ``active``, the first half of a batch is clean, the second the same images under attack.
    """

    active = False

    def under_attack(self) -> AbstractContextManager[None]:
        """Inside, inference is what the attack in training sees."""
        return nullcontext()

    def remove(self) -> None:
        """Go on without attacked images."""
        self.active = False

    def completed(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a file that training begins with, and those that such a file may lack."""
        return dict(weights)


def labels_of(data_samples: Sequence[Any]) -> Tensor:
    """``[N, H, W]`` long, void ones included."""
    return torch.stack([sample.gt_sem_seg.data.squeeze(0) for sample in data_samples]).long()
