"""Any segmenter as the model of an mmengine training, and the segmenter inside whatever is trained.

The config is that of evaluation, with a loss where the default is not wanted::

    model = dict(type="PythonSegmenter", factory="my_net.py:build", num_classes=11,
                 train_cfg=dict(class_weight=[1.0] * 10 + [2.5]))

Segmenters are frozen only where ``frozen_eval`` freezes them: here the parameters are trained that their makers left
trainable, and batch normalisation is in training mode. Training, validation and attacks go one way to the logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.structures import PixelData
from torch import Tensor, nn
from torch.nn import functional as F

from segrobust.core.errors import UserError, unknown_name
from segrobust.datasets.labels import check_ids
from segrobust.models.adapters.mmseg import MMSegSegmenter, refuse_sharded, unwrapped
from segrobust.models.load import build_segmenter
from segrobust.models.segmenter import Segmenter

if TYPE_CHECKING:
    from mmengine import Config

CHANNEL_SWAP = [2, 1, 0]  # loaders deliver BGR in 0..255
OPTIONS = ("class_weight",)  # of train_cfg


def from_loader(image: Tensor) -> Tensor:
    """An image in the loader's format -> RGB ``[3, H, W]`` in [0, 1]."""
    return image.float()[CHANNEL_SWAP] / 255


class LoaderPixels(BaseDataPreprocessor):
    """A loader's images as one batch ``[N, 3, H, W]`` in [0, 1].

    In training, smaller images get black pixels at the right and the bottom, whose labels are void.
    """

    def __init__(self, num_classes: int, ignore_index: int) -> None:
        super().__init__()
        self.num_classes, self.ignore_index = num_classes, ignore_index

    def forward(self, data: Mapping[str, Any], training: bool = False) -> dict[str, Any]:
        """Raises UserError: in training, labels are missing or do not fit; in validation, sizes differ."""
        if training:
            for image, sample in zip(data["inputs"], data["data_samples"], strict=True):
                self._check(image, sample)
        data = self.cast_data(dict(data))
        images = [from_loader(image) for image in data["inputs"]]
        if not training and len({image.shape for image in images}) > 1:
            raise UserError("images of one batch have different sizes; set batch_size=1 in val_dataloader")
        return {"inputs": padded(images, 0), "data_samples": data.get("data_samples")}

    def _check(self, image: Tensor, sample: Any) -> None:
        """One image's label, as it comes from the loader."""
        if "gt_sem_seg" not in sample:
            raise UserError("training needs labels, but the data samples have no gt_sem_seg; "
                            "add LoadAnnotations (or LoadPair) to the pipeline")  # fmt: skip
        label, name = sample.gt_sem_seg.data, f"of {sample.metainfo.get('img_path', 'a training image')}"
        if label.shape[-2:] != image.shape[-2:]:
            raise UserError(f"label {name} is {tuple(label.shape[-2:])} and its image {tuple(image.shape[-2:])}; in "
                            "the training pipeline, load annotations before resizing")  # fmt: skip
        check_ids(label.numpy(), self.num_classes, self.ignore_index, name)


class TrainableSegmenter(BaseModel):
    """A segmenter as mmengine trains it: cross-entropy of the logits at image size, averaged over the labelled pixels.

    Auxiliary outputs of a network take no part. Checkpoints hold the weights under the network's own names, so they are
    loaded wherever a checkpoint of that network is.

    Args:
        class_weight: one number for each class; the average is weighted, as torch's ``cross_entropy`` does.

    Raises:
        UserError: weights that are no such numbers, or parameters of the segmenter outside its ``network``, which a
            checkpoint would lack.
    """

    def __init__(self, segmenter: Segmenter, *, class_weight: Sequence[float] | None = None) -> None:
        super().__init__(LoaderPixels(segmenter.num_classes, segmenter.ignore_index))
        self.segmenter = segmenter
        self.register_buffer("class_weight", _checked_weights(class_weight, segmenter.num_classes), persistent=False)
        inside = {id(value) for value in segmenter.network.state_dict(keep_vars=True).values()}
        outside = [key for key, value in segmenter.state_dict(keep_vars=True).items() if id(value) not in inside]
        if outside:
            raise UserError(f"{segmenter.name}: {outside[0]} lies outside of its network, whose weights a checkpoint "
                            "holds; make it a part of that, or a buffer with persistent=False")  # fmt: skip
        self._place = next(name for name, part in self.named_modules() if part is segmenter.network)

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = "tensor") -> Any:
        """Images ``[N, 3, H, W]`` in [0, 1] -> logits, ``mode="loss"`` a loss, ``mode="predict"`` samples with
        ``pred_sem_seg`` at their ``ori_shape``."""
        logits = self.segmenter(inputs)
        if mode == "loss":
            return {"loss_ce": self.loss(logits, data_samples)}
        return self._predicted(logits, data_samples) if mode == "predict" else logits

    def loss(self, logits: Tensor, samples: Sequence[Any]) -> Tensor:
        """The mean cross-entropy of the labelled pixels; 0 where there is none."""
        void = self.segmenter.ignore_index
        labels = padded([sample.gt_sem_seg.data.squeeze(0).long() for sample in samples], void)
        losses = F.cross_entropy(logits, labels, weight=self.class_weight, ignore_index=void, reduction="none")
        weights = (labels != void).to(losses)
        if self.class_weight is not None:
            weights = weights * self.class_weight[labels.where(labels != void, 0)]
        return losses.sum() / weights.sum().clamp_min(torch.finfo(losses.dtype).tiny)

    def _predicted(self, logits: Tensor, samples: Sequence[Any]) -> list[Any]:
        corners = self.segmenter.align_corners
        for one, sample in zip(logits, samples, strict=True):
            size = tuple(sample.metainfo.get("ori_shape", one.shape[-2:]))
            if size != tuple(one.shape[-2:]):
                one = F.interpolate(one[None], size, mode="bilinear", align_corners=corners)[0]
            sample.pred_sem_seg = PixelData(data=one.argmax(0, keepdim=True))
        return list(samples)

    def init_weights(self) -> None:
        """The segmenter brings its weights, random ones or a file's; mmengine would ask its parts to begin anew."""

    def load_weights(self, weights: Mapping[str, Tensor], source: Any) -> None:
        """Take the weights of a checkpoint as evaluation does; UserError: they do not fit."""
        self.segmenter.load_weights(weights, source)

    def state_dict(self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> dict[str, Any]:
        """The network's own."""
        return self.segmenter.network.state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        for key in [key for key in state_dict if key.startswith(prefix)]:
            state_dict[f"{prefix}{self._place}.{key.removeprefix(prefix)}"] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def build_trainable(config: Config) -> TrainableSegmenter:
    """The model of a config whose ``model`` is a registered segmenter; its ``train_cfg`` is what training alone reads.

    Raises:
        UserError: the segmenter cannot be built, or an option of ``train_cfg`` is wrong.
    """
    options = dict(config.model.get("train_cfg") or {})
    for name in options:
        if name not in OPTIONS:
            raise unknown_name("entry of model.train_cfg", name, OPTIONS)
    return TrainableSegmenter(build_segmenter(config), **options)


def live_segmenter(model: nn.Module) -> Segmenter:
    """The segmenter that is trained, shared and not copied; ``model`` is one of mmseg's or a
    :class:`TrainableSegmenter`, plain or in its distributed wrapper.

    Raises:
        UserError: another model, or one sharded by FSDP.
    """
    refuse_sharded(model)
    inside = unwrapped(model)
    if isinstance(inside, TrainableSegmenter):
        return inside.segmenter
    from mmseg.models import BaseSegmentor

    if not isinstance(inside, BaseSegmentor):
        raise UserError(
            f"attacks in training need a segmentor of mmseg or a segmenter of segrobust, got {type(inside).__name__}; "
            'for a network of your own set model=dict(type="PythonSegmenter", factory="my_net.py:build", ...)'
        )
    return MMSegSegmenter.live(inside)


def padded(maps: Sequence[Tensor], value: float) -> Tensor:
    """Maps ``[..., h, w]`` as one batch of the largest height and width, with ``value`` at the right and the bottom."""
    height, width = (max(lengths) for lengths in zip(*(one.shape[-2:] for one in maps), strict=True))
    return torch.stack([F.pad(one, (0, width - one.shape[-1], 0, height - one.shape[-2]), value=value) for one in maps])


def _checked_weights(values: Sequence[float] | None, num_classes: int) -> Tensor | None:
    if values is None:
        return None
    try:
        weights = torch.tensor([float(value) for value in values])
    except (TypeError, ValueError):
        raise UserError(f"class_weight: expected a number for each class, got {values!r}") from None
    if len(weights) != num_classes:
        raise UserError(f"class_weight: expected a number for each of the {num_classes} classes, got {len(weights)}")
    if not weights.isfinite().all() or weights.min() < 0 or not weights.any():
        raise UserError(f"class_weight: expected finite numbers >= 0 and one above 0, got {list(values)}")
    return weights
