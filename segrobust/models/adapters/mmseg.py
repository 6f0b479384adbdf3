"""mmseg's segmentors behind the contract: the attacked path is ``model.test_step``'s, for whole and slide inference."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from segrobust.core.errors import UserError, as_user_error, first_line
from segrobust.datasets.pipeline import metainfo_of
from segrobust.models.mm import import_mmseg
from segrobust.models.mm_needs import check_needs
from segrobust.models.network_io import decision_logit, in_network_type, two_logits
from segrobust.models.pretrained import without_pretrained
from segrobust.models.recomputing import recomputed, replaced
from segrobust.models.segmenter import Segmenter

LOGGER = logging.getLogger(__name__)


class MMSegSegmenter(Segmenter):
    """An mmseg segmentor (``EncoderDecoder`` and its kind), shared and not copied, seen from [0, 1] RGB pixels.

    The steps of its ``SegDataPreProcessor`` (times 255, channel order, mean and std, padding of the test time) are
    done here in the same order and arithmetic, so logits equal those of ``test_step`` bitwise. A head with one sigmoid
    channel z and the threshold t (``decode_head.threshold``, in mmseg 0.3 unless told) is served as the two logits
    [0, z - logit(t)], whose larger one is ``test_step``'s prediction.
    """

    padding_advice = "set size_divisor={divisor} in data_preprocessor, in its test_cfg=dict(size_divisor={divisor})"

    def __init__(
        self,
        module: nn.Module,
        *,
        class_names: Sequence[str] | None = None,
        palette: Sequence[Sequence[int]] | None = None,
    ) -> None:
        _check_segmentor(module)
        head = _last_head(module)
        decision = decision_logit(head.threshold) if module.out_channels == 1 else None
        num_classes = module.num_classes if decision is None else 2
        super().__init__(
            num_classes=num_classes,
            class_names=class_names if class_names is not None and len(class_names) == num_classes else None,
            palette=palette if palette is not None and len(palette) == num_classes else None,
            ignore_index=head.ignore_index,
            name=f"{type(module).__name__}-{type(head).__name__}",
        )
        self.module, self._decision = module, decision
        self.align_corners = bool(module.align_corners)

    @classmethod
    def live(cls, module: nn.Module) -> MMSegSegmenter:
        """A view of a segmentor that lives elsewhere, for instance in training; the distributed wrapper is taken off.

        Raises:
            UserError: not a segmentor of mmseg, or sharded by FSDP (its parameters are not whole outside forward).
        """
        import_mmseg()
        refuse_sharded(module)
        return cls(unwrapped(module))

    @classmethod
    def from_config(cls, config: Any) -> MMSegSegmenter:
        """Build the ``model`` of an mmengine config, in eval mode, with random weights and without any download.

        Raises:
            UserError: the model cannot be built (the first line of the reason is kept).
        """
        import_mmseg()
        from mmengine import ConfigDict
        from mmengine.model import revert_sync_batchnorm
        from mmseg.registry import MODELS

        settings = without_pretrained(config.model.to_dict())
        if config.get("data_preprocessor") is not None:
            settings.setdefault("data_preprocessor", config.data_preprocessor.to_dict())
        check_needs(settings)
        # a config can ask for anything, and every package fails in its own way
        failing = as_user_error(lambda error: f"the model of this config cannot be built: {first_line(error)}")
        with failing, warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"mmseg\.models\.losses")  # no loss is used here
            warnings.filterwarnings("ignore", message="threshold is not defined for binary")  # logged below
            warnings.filterwarnings("ignore", message="For binary segmentation, we suggest")  # either is served
            module = revert_sync_batchnorm(MODELS.build(ConfigDict(settings)))
        model = cls(module.eval(), **dataset_identity(config))
        if model._decision is not None:
            text = (
                "%s: one sigmoid channel, served as two logits: class 1 above the threshold %g (decode_head.threshold)"
            )
            LOGGER.warning(text, model.name, _last_head(module).threshold)
        return model

    @property
    def network(self) -> nn.Module:
        return self.module

    @property
    def trained_size(self) -> tuple[int, int] | None:
        """(height, width) of the crops that it was trained with, where its ``data_preprocessor`` tells."""
        size = self.module.data_preprocessor.size
        return None if size is None else (int(size[0]), int(size[1]))

    def logits(self, images: Tensor) -> Tensor:
        pixels = self._preprocessed(images)
        height, width = images.shape[-2:]
        sizes = _sizes((height, width), tuple(pixels.shape[-2:]), bool(self.module.data_preprocessor.test_cfg))
        metas = [dict(sizes) for _ in images]
        logits = self.module.inference(in_network_type(self.module, pixels), metas)[..., :height, :width]
        return logits if self._decision is None else two_logits(logits, self._decision)

    def recomputing(self) -> AbstractContextManager:
        """In slide inference the windows one by one, which keeps one window's activations at a time."""
        if self.module.test_cfg.get("mode", "whole") != "slide":
            return super().recomputing()
        window = recomputed(self.module.encode_decode)
        # mmseg writes every window's size into the same metas
        return replaced(self.module, "encode_decode", lambda crop, metas: window(crop, deepcopy(metas)))

    def _preprocessed(self, images: Tensor) -> Tensor:
        steps = self.module.data_preprocessor
        pixels = images * 255
        if not steps._channel_conversion:  # loaders deliver BGR: this network was trained on that
            pixels = pixels.flip(1)
        if steps._enable_normalize:
            pixels = pixels.sub_(steps.mean).div_(steps.std)
        return F.pad(pixels, self._padding(*images.shape[-2:]), value=steps.pad_val) if steps.test_cfg else pixels

    def _padding(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Pixels to add on the left, right, top and bottom in test time."""
        rules = self.module.data_preprocessor.test_cfg
        if rules.get("size") is not None:
            return 0, max(rules["size"][-1] - width, 0), 0, max(rules["size"][-2] - height, 0)
        divisor = rules["size_divisor"]
        return 0, -width % divisor, 0, -height % divisor


def _sizes(image: tuple[int, int], padded: tuple[int, int], pads: bool) -> dict[str, Any]:
    """What mmseg notes of an image; heads that find ``pad_shape`` answer at that size, for windows too."""
    sizes = {"ori_shape": image, "img_shape": image, "padding_size": [0] * 4}
    if pads:
        sizes |= {"pad_shape": padded, "padding_size": [0, padded[1] - image[1], 0, padded[0] - image[0]]}
    return sizes


def refuse_sharded(model: nn.Module) -> None:
    """UserError: the model is sharded by FSDP."""
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel  # takes two seconds

    if any(isinstance(part, FullyShardedDataParallel | FSDPModule) for part in model.modules()):
        raise UserError("attacks during training work on a plain model or under DDP; this one is sharded by FSDP: "
                        "leave out model_wrapper_cfg and the FSDP strategy")  # fmt: skip


def unwrapped(model: nn.Module) -> nn.Module:
    """The segmentor itself, out of DDP or another wrapper."""
    from mmengine.model import is_model_wrapper

    return model.module if is_model_wrapper(model) else model


def _last_head(module: nn.Module) -> nn.Module:
    return module.decode_head[-1] if isinstance(module.decode_head, nn.ModuleList) else module.decode_head


def _check_segmentor(module: nn.Module) -> None:
    """Refuse what this adapter would not reproduce exactly."""
    from mmseg.models import BaseSegmentor, DepthEstimator, SegDataPreProcessor

    kind = type(module).__name__
    known = isinstance(module, BaseSegmentor) and not isinstance(module, DepthEstimator)
    if not known or not hasattr(module, "decode_head"):
        raise UserError(
            f"expected a segmentor of mmseg with a decode_head, got {kind}; wrap others with Segmenter.wrap"
        )
    steps = module.data_preprocessor
    if not isinstance(steps, SegDataPreProcessor) or type(steps).forward is not SegDataPreProcessor.forward:
        raise UserError(
            f"{kind}: expected data_preprocessor=dict(type='SegDataPreProcessor', ...), got "
            f"{type(steps).__name__}, whose pixels cannot be followed back to the image"
        )


def dataset_identity(config: Any) -> dict[str, Any]:
    """Class names and palette as the test (or validation) data of a config has them, without building any data."""
    for split in ("test_dataloader", "val_dataloader", "train_dataloader"):
        known = metainfo_of((config.get(split) or {}).get("dataset") or {})
        if known.get("classes"):
            return {"class_names": tuple(known["classes"]), "palette": known.get("palette")}
    return {}
