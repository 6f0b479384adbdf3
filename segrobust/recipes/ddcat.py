"""DDC-AT: a segmentor with three branches, one of which is dropped at inference and one of which divides the pixels.

A config names the module, since nothing else imports it, and any ``EncoderDecoder`` becomes one by its type::

    custom_imports = dict(imports=["segrobust.recipes.ddcat"])
    model = dict(type="DDCAT")  # backbone, neck and heads stay what they are
    custom_hooks = [dict(type="AdversarialTrainingHook", attack=dict(type="CEPGD", eps="4/255", steps=3))]
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.structures import PixelData
from torch import Tensor, nn
from torch.nn import functional as F

from segrobust.core.errors import UserError
from segrobust.models.mm import import_mmseg
from segrobust.recipes.pairs import PairedSegmentor, labels_of

import_mmseg()

from mmseg.models import EncoderDecoder  # noqa: E402  (its modules are registered first)
from mmseg.registry import MODELS  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402
from mmseg.utils import add_prefix  # noqa: E402

VOID = 255  # of the mask branch, whose classes are 0 and 1
BRANCHES = ("decode_head", "auxiliary_branch", "mask_branch")


@MODELS.register_module()
class DDCAT(PairedSegmentor, EncoderDecoder):
    """Dynamic divide-and-conquer adversarial training (Xu et al., ICCV 2021, arXiv 2003.06555).

    As published: main branch, auxiliary branch and mask branch are three heads of the same build, with batch
    normalisation of their own, on the same features; pixels whose prediction changes under the attack are learnt by the
    auxiliary branch, of the clean image and of the attacked one, all others by the main branch, and the mask branch
    learns which are which. In training, and for the attack there, the larger of the mask branch's two logits picks a
    pixel's branch; inference is the main branch alone.

    Ours: the branches part where mmseg's decode head begins (the authors' after the pyramid, which is a part of mmseg's
    PSPHead and ASPPHead); predictions are compared in training mode, from the forward pass that the loss needs; the
    loss is ``decode_head``'s own, of one map that takes every pixel from the branch that learns it, so that it is
    averaged over both together; the mask branch has plain cross-entropy, of weight 1, over pixels with a label; deep
    supervision (``auxiliary_head``) sees all pixels.

    Without an attack, as before the hook's ``start``, no prediction changes and the main branch learns every pixel.
    Logs ``auxiliary_share``, the share of the pixels with a label that the auxiliary branch learns, and the loss of the
    mask branch, ``mask_branch.loss_ce``.

    Args:
        decode_head: of mmseg, with softmax over at least two classes; the other branches are built like it.
        others: those of ``EncoderDecoder``.

    Raises:
        UserError: a sigmoid head; in the first batch, a head with none or several maps of logits in training.
    """

    def __init__(self, backbone: Mapping[str, Any], decode_head: Mapping[str, Any], *arguments: Any,
                 **others: Any) -> None:  # fmt: skip
        branches = [copy.deepcopy(decode_head), _mask_settings(decode_head)]
        super().__init__(backbone, decode_head, *arguments, **others)
        if self.out_channels < 2:
            raise UserError("DDCAT divides pixels by their predicted class, and this decode_head has one sigmoid "
                            "channel; set out_channels to the number of classes")  # fmt: skip
        self.auxiliary_branch, self.mask_branch = map(MODELS.build, branches)
        self._merging = False

    @contextmanager
    def under_attack(self) -> Iterator[None]:
        """Inside, inference merges the branches by the predicted mask."""
        self._merging = True
        try:
            yield
        finally:
            self._merging = False

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """The logits of the main branch; under attack in training, those of the branch that the mask picks."""
        if not self._merging:
            return super().encode_decode(inputs, batch_img_metas)
        features = self.extract_feat(inputs)
        main, auxiliary, mask = (
            getattr(self, name).predict(features, batch_img_metas, self.test_cfg) for name in BRANCHES
        )
        return merged(main, auxiliary, picked(mask))

    def loss(self, inputs: Tensor, data_samples: Sequence[Any]) -> dict[str, Any]:
        """Of a batch that holds clean images and, where ``active``, the same ones under attack behind them."""
        features = self.extract_feat(inputs)
        labels = labels_of(data_samples)
        valid = labels != self.decode_head.ignore_index
        main, auxiliary, mask = (self._logits(name, features, labels.shape[-2:]) for name in BRANCHES)
        divided = torch.zeros_like(valid)
        if self.active:
            divided = changed(merged(main, auxiliary, picked(mask)).detach().argmax(1))
        own = self.decode_head.loss_by_feat(merged(main, auxiliary, divided), data_samples)
        targets = divided.long().masked_fill(~valid, VOID)
        of_mask = self.mask_branch.loss_by_feat(mask, [_sample(one) for one in targets])
        losses = {**add_prefix(own, "decode"), **add_prefix(of_mask, "mask_branch")}
        if self.with_auxiliary_head:
            losses |= self._auxiliary_head_forward_train(features, data_samples)
        share = (divided & valid).sum() / valid.sum().clamp_min(1)
        return {**losses, "auxiliary_share": share}

    def _logits(self, name: str, features: Any, size: Sequence[int]) -> Tensor:
        head: nn.Module = getattr(self, name)
        logits = head(features)
        if not isinstance(logits, Tensor) or logits.ndim != 4:
            raise UserError(f"DDCAT needs one map of logits from the head, which {type(head).__name__} does not give "
                            "in training; train it as type='EncoderDecoder'")  # fmt: skip
        return F.interpolate(logits.float(), size, mode="bilinear", align_corners=self.align_corners)

    def completed(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of the segmentor without branches, with those of an auxiliary branch that begins as the main one and
        of the mask branch as it is here; weights that have any of these stay what they are."""
        if any(name.startswith(("auxiliary_branch.", "mask_branch.")) for name in weights):
            return dict(weights)
        copied = {
            f"auxiliary_branch.{name.removeprefix('decode_head.')}": value
            for name, value in weights.items()
            if name.startswith("decode_head.")
        }
        mask = {name: value for name, value in self.state_dict().items() if name.startswith("mask_branch.")}
        return {**weights, **copied, **mask}


def picked(mask: Tensor) -> Tensor:
    """Whether the mask branch's logits ``[N, 2, H, W]`` pick the auxiliary branch, ``[N, H, W]``; a tie picks the main
    one."""
    return mask[:, 1] > mask[:, 0]


def merged(main: Tensor, auxiliary: Tensor, divided: Tensor) -> Tensor:
    """Logits ``[N, K, H, W]``: the auxiliary branch's where ``divided``, ``[N, H, W]``, the main branch's elsewhere."""
    return torch.where(divided.unsqueeze(1), auxiliary, main)


def changed(predictions: Tensor) -> Tensor:
    """Where the predictions ``[2N, H, W]`` of images and of the same ones under attack differ, for both, as bool."""
    clean, attacked = predictions.chunk(2)
    return (clean != attacked).repeat(2, 1, 1)


def _mask_settings(head: Mapping[str, Any]) -> dict[str, Any]:
    """The same head with two classes and plain cross-entropy over the pixels with a label."""
    settings = copy.deepcopy({name: value for name, value in head.items() if name not in ("sampler", "threshold")})
    loss = dict(type="mmseg.CrossEntropyLoss", avg_non_ignore=True)
    return {**settings, "num_classes": 2, "out_channels": 2, "ignore_index": VOID, "loss_decode": loss}


def _sample(labels: Tensor) -> SegDataSample:
    return SegDataSample(gt_sem_seg=PixelData(data=labels.unsqueeze(0)))
