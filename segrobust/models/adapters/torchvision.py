"""torchvision's segmentation models from a config; weights come from a checkpoint, never from the network.

For example::

    model = dict(type="TorchvisionSegmenter", arch="lraspp_mobilenet_v3_large", num_classes=21)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segrobust.core.errors import UserError, unknown_name
from segrobust.models.registry import register_segmenter
from segrobust.models.segmenter import WrappedNet

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@register_segmenter
class TorchvisionSegmenter(WrappedNet):
    """A model of ``torchvision.models.segmentation`` by its name there, with random weights.

    Args:
        arch: for instance ``deeplabv3_resnet50``, ``fcn_resnet101`` or ``lraspp_mobilenet_v3_large``.
        mean, std: in units of [0, 1] images; ImageNet's unless told, None for raw pixels.
        options: further ones of :meth:`Segmenter.wrap`.
        aux_loss: with the auxiliary head, which torchvision's own weights for FCN and DeepLab contain.
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
