"""Backbones of timm behind a head of ours; weights come from a checkpoint, those of the backbone from a local file too.

For example::

    model = dict(type="TimmSegmenter", backbone="convnext_tiny", num_classes=21, head="upernet")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from segrobust.core.errors import UserError, as_user_error, first_line, unknown_name
from segrobust.models.papers.upernet import ConvNormReLU, UPerHead
from segrobust.models.pretrained import create_timm_model
from segrobust.models.registry import register_segmenter
from segrobust.models.segmenter import WrappedNet

HEADS = ("upernet", "fcn")


class TimmNet(nn.Module):
    """``timm.create_model(features_only=True)`` and a head: normalised images -> logits at the first feature's size,
    or at the last one's with ``head="fcn"``."""

    def __init__(self, backbone: nn.Module, num_classes: int, head: str, width: int) -> None:
        super().__init__()
        self.backbone, self.takes_all = backbone, head == "upernet"
        self.channels_last = str(getattr(backbone, "output_fmt", "NCHW")).endswith("NHWC")
        widths = backbone.feature_info.channels()
        if self.takes_all:
            self.decode_head = UPerHead(num_classes, widths, width)
        else:
            self.decode_head = nn.Sequential(ConvNormReLU(widths[-1], width, 3), nn.Conv2d(width, num_classes, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        features = self.backbone(pixels)
        if self.channels_last:
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        return self.decode_head(features if self.takes_all else features[-1])


@register_segmenter
class TimmSegmenter(WrappedNet):
    """A feature extractor of timm under UPerNet's head (Xiao et al., ECCV 2018) or one of two convolutions.

    Args:
        backbone: a model of timm by its name, such as ``resnet50`` or ``convnext_tiny``.
        head: ``upernet``, which takes all features, or ``fcn``, which takes the last one.
        head_width: channels inside the head.
        backbone_weights: a local file for the backbone, read by the strict reader; None leaves it at random.
        backbone_options: further ones of ``timm.create_model``, such as ``out_indices`` or ``img_size``.
        mean, std: those that timm says of the backbone, unless ``options`` tell them.
        options: further ones of :meth:`Segmenter.wrap`.

    Raises:
        UserError: timm has no such backbone, it gives no features, or a file that does not fit.
    """

    def __init__(
        self,
        backbone: str,
        num_classes: int,
        *,
        head: str = "upernet",
        head_width: int = 512,
        backbone_weights: str | None = None,
        backbone_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if head not in HEADS:
            raise unknown_name("head", str(head), HEADS)
        known = {**(backbone_options or {}), "features_only": True}
        with as_user_error(lambda error: f"timm's {backbone}: {type(error).__name__}: {first_line(error)[:200]}"):
            extractor = _extractor(str(backbone), backbone_weights, known)
            net = TimmNet(extractor, num_classes, head, head_width)
        if not {"mean", "std"} <= options.keys():
            if (found := timm_statistics(str(backbone))) is None:
                raise UserError(
                    f"timm does not tell mean and std of {backbone}; say them, or None for pixels in [0, 1]"
                )
            options = {"mean": found[0], "std": found[1], **options}
        super().__init__(net, num_classes=num_classes, **{"name": f"{backbone}-{head}", **options})


def timm_statistics(name: str) -> tuple[Sequence[float], Sequence[float]] | None:
    """``mean`` and ``std`` of the pretrained weights of a model of timm, from the library itself; None: it has none."""
    import timm

    found = timm.models.get_pretrained_cfg(name)
    return None if found is None or not found.mean else (tuple(found.mean), tuple(found.std))


def _extractor(name: str, weights: str | None, options: Mapping[str, Any]) -> nn.Module:
    import timm

    if ":" not in name and not timm.is_model(name):
        raise unknown_name("model of timm", name, timm.list_models())
    return create_timm_model(name, checkpoint_path=weights, **options)
