"""The networks of published checkpoints by name, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from segrobust.core.errors import unknown_name
from segrobust.models.papers.deeplab import DeepLabV3
from segrobust.models.papers.mask_transformer import MaskTransformer
from segrobust.models.papers.pspnet import PSPNet
from segrobust.models.papers.upernet import UPerNet

ARCHITECTURES: dict[str, Callable[[int], nn.Module]] = {
    "upernet_convnext_t_cvst": partial(UPerNet, depths=(3, 3, 9, 3)),
    "upernet_convnext_s_cvst": partial(UPerNet, depths=(3, 3, 27, 3)),
    "segmenter_vit_s": MaskTransformer,
    "pspnet50": partial(PSPNet, deep_stem=False),
    "pspnet50_deepstem": PSPNet,
    "pspnet50_deepstem_branches": partial(PSPNet, branches=True),
    "deeplabv3_50_deepstem": DeepLabV3,
    "deeplabv3_50_deepstem_branches": partial(DeepLabV3, branches=True),
}


def build_network(arch: str, num_classes: int) -> nn.Module:
    """Images ``[N,3,H,W]``, as the network was trained on them -> logits ``[N,K,H,W]``; UserError: unknown ``arch``."""
    if arch not in ARCHITECTURES:
        raise unknown_name("network of a paper", str(arch), ARCHITECTURES)
    return ARCHITECTURES[arch](num_classes)
