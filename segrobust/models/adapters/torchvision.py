"""torchvision's segmentation models from a config; weights come from a checkpoint, never from the network.

For example::

    model = dict(type="TorchvisionSegmenter", arch="lraspp_mobilenet_v3_large", num_classes=21)
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from segrobust.core.errors import UserError, unknown_name
from segrobust.models.registry import register_segmenter
from segrobust.models.segmenter import WrappedNet

LOGGER = logging.getLogger(__name__)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
AUXILIARY = "aux_classifier"


@register_segmenter
class TorchvisionSegmenter(WrappedNet):
    """A model of ``torchvision.models.segmentation`` by its name there, with random weights.

    Args:
        arch: for instance ``deeplabv3_resnet50``, ``fcn_resnet101`` or ``lraspp_mobilenet_v3_large``.
        mean, std: in units of [0, 1] images; ImageNet's unless told, None for raw pixels.
        options: further ones of :meth:`Segmenter.wrap`.
        aux_loss: with the auxiliary head, which serves training alone; without it, a checkpoint's one is left out.
    """

    def __init__(
        self,
        arch: str,
        num_classes: int,
        *,
        mean: Sequence[float] | None = IMAGENET_MEAN,
        std: Sequence[float] | None = IMAGENET_STD,
        aux_loss: bool = False,
        **options: Any,
    ) -> None:
        from torchvision.models import get_model, list_models, segmentation

        known = list_models(module=segmentation)
        if arch not in known:
            raise unknown_name("torchvision segmentation model", arch, known)
        if aux_loss and arch.startswith("lraspp"):
            raise UserError(f"{arch}: it has no auxiliary head; leave out aux_loss")
        auxiliary = {"aux_loss": True} if aux_loss else {}
        net = get_model(arch, weights=None, weights_backbone=None, num_classes=num_classes, **auxiliary)
        super().__init__(net, mean, std, num_classes=num_classes, **{"name": arch, **options})

    def load_weights(self, weights: Mapping[str, Tensor], source: str | os.PathLike) -> None:
        needed = weights
        if getattr(self.net, AUXILIARY, None) is None:
            needed = {key: value for key, value in weights.items() if AUXILIARY not in key.split(".")}
        if len(needed) < len(weights):
            LOGGER.info("%s: its auxiliary head, which predicts nothing, is left out", source)
        super().load_weights(needed, source)
