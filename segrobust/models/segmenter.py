"""The one contract every model meets: RGB images in [0, 1] in, logits at image size out.

For example::

    net = torchvision.models.segmentation.lraspp_mobilenet_v3_large(num_classes=11, weights_backbone=None)
    model = Segmenter.wrap(net, num_classes=11, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    with frozen_eval(model):
        logits = model(images)      # images [N,3,H,W] RGB in [0,1] -> logits [N,K,H,W]
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segrobust.core.digest import config_sha256
from segrobust.core.errors import UserError
from segrobust.core.palette import default_palette
from segrobust.models.checkpoint.loading import load_strict
from segrobust.models.failures import network_errors
from segrobust.models.network_io import decision_logit, in_network_type, main_output, to_image_size, two_logits
from segrobust.models.recomputing import blocks, recomputing
from segrobust.models.wrapping import (
    channel_values,
    checked_channels,
    checked_divisor,
    checked_order,
    checked_range,
    kept,
)

# what decides the logits of a wrapped network and lies in none of its weights or buffers, with its defaults
TOLD = {"size_divisor": 1, "threshold": None, "channel_order": "rgb", "input_range": 1, "keep_classes": None}


class Segmenter(nn.Module):
    """A differentiable map from RGB pixels in [0, 1] to logits; all between the two is its own business.

    Subclasses implement ``logits(images)``; ``name`` is for people; ``palette`` holds an RGB colour (0..255) per class.
    With ``checkpointing`` set, gradients with respect to the images take less memory and about half more time: the
    network's blocks (its windows, in slide inference) are computed anew in the backward pass. Nothing else changes.
    """

    num_classes: int
    class_names: tuple[str, ...]
    palette: list[tuple[int, int, int]]
    ignore_index: int
    name: str
    checkpointing: bool = False
    align_corners: bool = False  # of a resize of its logits to labels of another size
    config_sha256: str | None = None  # of what decides the logits and is no weight: a config, or options of wrap
    envelope: str | None = None  # the entry of a checkpoint that holds its weights, where that cannot be told
    files_sha256: Mapping[str, str] = {}  # by name, of files that decide its logits and hold no weights
    brings_weights: bool = False  # whether it has them without a checkpoint
    reduce_labels: bool = False  # whether it was trained on labels whose 0 is void, and whose 1 is its class 0
    made_by: Mapping[str, str] = {}  # sha256 of a user's own modules that made it by their names, for a run's identity
    padding_advice: str = "pad to multiples of {divisor} in logits(images), and crop"
    classes_advice: str = "Leave out in logits(images) what is no class."  # where there are too many
    trained_size: tuple[int, int] | None = None  # (height, width), told where a network refuses another

    def __init__(
        self,
        *,
        num_classes: int,
        class_names: Sequence[str] | None = None,
        palette: Sequence[Sequence[int]] | None = None,
        ignore_index: int = 255,
        name: str | None = None,
    ) -> None:
        super().__init__()
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
            raise UserError(f"num_classes: expected an integer of at least 2 (a logit per class), got {num_classes!r}")
        self.num_classes = num_classes
        numbered = tuple(f"class_{index}" for index in range(num_classes))
        self.class_names = _per_class("class_names", class_names, num_classes) or numbered
        colours = _per_class("palette", palette, num_classes) or default_palette(num_classes)
        self.palette = [tuple(int(value) for value in colour) for colour in colours]
        if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
            raise UserError(f"ignore_index: expected the id of void pixels, such as 255 or -1, got {ignore_index!r}")
        self.ignore_index = ignore_index
        self.name = name or type(self).__name__

    @classmethod
    def built(cls, options: Mapping[str, Any], folder: Path | None = None) -> Segmenter:
        """From the entries of a config's ``model`` besides ``type``; ``folder`` is the config's, if it has one."""
        return cls(**options)

    @property
    def network(self) -> nn.Module:
        """The module inside whose keys a checkpoint has."""
        return self

    def load_weights(self, weights: Mapping[str, Tensor], source: str | os.PathLike) -> None:
        """Take the weights of a checkpoint; UserError: they do not fit."""
        load_strict(self.network, weights, source)

    def logits(self, images: Tensor) -> Tensor:
        """Images ``[N,3,H,W]`` in [0, 1], already checked, in float32 or float64 -> logits ``[N,K,H,W]``."""
        raise NotImplementedError(f"{type(self).__name__} must implement logits(images)")

    def recomputing(self) -> AbstractContextManager:
        """The context in which ``logits`` keeps little for the backward pass."""
        return recomputing(blocks(self))

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[N,3,H,W]``, RGB in [0, 1] -> logits ``[N,K,H,W]`` at image size, in float32 or as exact as those.

        Raises:
            UserError: not a floating tensor ``[N,3,H,W]``, a gradient wanted inside ``torch.inference_mode``, a network
                that does not return ``num_classes`` channels, or an error of the network, which is the cause then.
        """
        check_images(images)
        exact = torch.promote_types(images.dtype, torch.float32)
        saving = self.checkpointing and images.requires_grad and not self.training  # statistics would count twice
        named = network_errors(self.name, images, self._tried, self.padding_advice, self.trained_size)
        with named, self.recomputing() if saving else nullcontext():
            logits = self.logits(images.to(exact)).to(exact)
        expected = (images.shape[0], self.num_classes, *images.shape[-2:])
        if tuple(logits.shape) != expected:
            got = tuple(logits.shape)
            raise UserError(
                f"{self.name}: expected logits {expected}, got {got}; is num_classes={self.num_classes} right?"
                + (f" {self.classes_advice}" if len(got) == 4 and got[1] > self.num_classes else "")
            )
        return logits

    def _tried(self, images: Tensor) -> Tensor:
        with frozen_eval(self):
            return self.logits(images.float())

    @staticmethod
    def wrap(
        net: nn.Module,
        *,
        num_classes: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        size_divisor: int = 1,
        threshold: float | None = None,
        channel_order: str = "rgb",
        input_range: float = 1,
        keep_classes: Sequence[int] | None = None,
        **identity: Any,
    ) -> Segmenter:
        """Make a segmenter of any live module that maps normalised images to logits, without copying it.

        ``net`` returns a tensor, a mapping with ``"out"`` (torchvision) or ``"logits"``, or several of which the first
        are the logits; those of lower resolution are resized bilinearly. It gets a copy of the images in the type of
        its parameters, so it may work in place and in half precision.

        Args:
            mean, std: in units of ``input_range`` and in the network's channel order; None means raw pixels.
            size_divisor: pad height and width to multiples of this, with zeros after normalisation at the right and
                the bottom as mmseg does; the logits are cropped.
            threshold: of a net with one sigmoid channel and ``num_classes=2``, whose logits become [0, z - logit(t)]:
                class 1 where the sigmoid is above it; None means 0.5.
            channel_order: ``"bgr"`` for a network that was trained on what OpenCV reads.
            input_range: 1 or 255, the largest value of the images that the network sees, before ``mean`` and ``std``.
            keep_classes: which of the network's output channels are the classes, in their order; others, such as one
                for void, are left out.
            identity: ``class_names``, ``palette``, ``ignore_index`` (255 unless told) and ``name``.
        """
        given = {"channel_order": channel_order, "input_range": input_range, "keep_classes": keep_classes, **identity}
        return WrappedNet(net, mean, std, size_divisor, threshold, num_classes=num_classes, **given)


class WrappedNet(Segmenter):
    """A live module behind its normalisation; see :meth:`Segmenter.wrap`."""

    padding_advice = "set size_divisor={divisor} in Segmenter.wrap"
    classes_advice = "Where not all outputs are classes, such as one for void, keep_classes names those that are."

    def __init__(
        self,
        net: nn.Module,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        size_divisor: int = 1,
        threshold: float | None = None,
        *,
        name: str | None = None,
        channel_order: str = "rgb",
        input_range: float = 1,
        keep_classes: Sequence[int] | None = None,
        **identity: Any,
    ) -> None:
        if not isinstance(net, nn.Module):
            raise UserError(f"wrap: expected a torch.nn.Module, got {type(net).__name__}")
        super().__init__(name=name or type(net).__name__, **identity)
        self.net = net
        start = next(net.parameters(), torch.empty(0))
        self.channel_order, self.input_range = checked_order(channel_order), checked_range(input_range)
        top = self.input_range
        self.register_buffer("mean", channel_values("mean", mean, 0.0, top, start.device), persistent=False)
        self.register_buffer("std", channel_values("std", std, 1.0, top, start.device), persistent=False)
        self.normalise = mean is not None or std is not None
        self.keep_classes = checked_channels(keep_classes, self.num_classes)
        if threshold is not None and self.num_classes != 2:
            raise UserError(f"threshold: one sigmoid channel means num_classes=2, got {self.num_classes}")
        self.size_divisor, self.threshold = checked_divisor(size_divisor), threshold
        self._decision = decision_logit(0.5 if threshold is None else threshold)
        told = {name: getattr(self, name) for name in TOLD}
        if told != TOLD:
            self.config_sha256 = config_sha256(told)

    @property
    def network(self) -> nn.Module:
        return self.net

    def logits(self, images: Tensor) -> Tensor:
        # what the network gets is its own: it may work in place
        pixels = images.flip(1) if self.channel_order == "bgr" else images
        pixels = pixels * self.input_range if self.input_range > 1 else pixels
        pixels = (pixels - self.mean.to(images)).div_(self.std.to(images)) if self.normalise else pixels
        pixels = images.clone() if pixels is images else pixels
        height, width = images.shape[-2:]
        right, bottom = -width % self.size_divisor, -height % self.size_divisor
        if right or bottom:
            pixels = F.pad(pixels, (0, right, 0, bottom))
        logits = main_output(self.net(in_network_type(self.net, pixels)))
        logits = to_image_size(logits if self.keep_classes is None else kept(logits, self.keep_classes), pixels)
        return self._two_classes(logits[..., :height, :width] if right or bottom else logits)

    def _two_classes(self, logits: Tensor) -> Tensor:
        if logits.shape[1] == 1 and self.num_classes == 2:
            return two_logits(logits, self._decision)
        if self.threshold is not None:
            raise UserError(f"{self.name}: threshold is for a network with one channel, got {logits.shape[1]}")
        return logits


def check_images(images: Tensor) -> None:
    """Refuse what is not a floating tensor ``[N,3,H,W]``, and a gradient wanted inside ``torch.inference_mode``."""
    if not isinstance(images, Tensor):
        raise UserError(f"images: expected a float tensor [N,3,H,W] in [0,1], got {type(images).__name__}")
    if not images.is_floating_point():
        raise UserError(f"images: expected floating point values in [0,1], got {images.dtype}; divide by 255 first")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise UserError(f"images: expected shape [N,3,H,W] (RGB), got {list(images.shape)}")
    if images.requires_grad and torch.is_inference_mode_enabled():
        raise UserError("images require a gradient, but torch.inference_mode() records none; "
                        "call the model outside it (torch.no_grad() is fine around an attack)")  # fmt: skip


@contextmanager
def frozen_eval(module: nn.Module) -> Iterator[nn.Module]:
    """Eval mode, no parameter gradients, no gradient checkpointing, and everything exactly as before afterwards.

    Flags are saved and set per module and per parameter, not with ``module.eval()``: mixed states come back, and the
    side effects of overridden ``train()`` methods (frozen stages, merged weights) do not happen. ``with_cp`` (mmseg's
    reentrant checkpointing) cannot be combined with ``torch.autograd.grad``. May be nested.
    """
    saved = []
    for part in module.modules():
        saved.append((part, "training", part.training))
        if "with_cp" in part.__dict__ or hasattr(type(part), "with_cp"):  # hasattr(part) is slow where there is none
            saved.append((part, "with_cp", part.with_cp))
        saved += [(one, "requires_grad", one.requires_grad) for one in part._parameters.values() if one is not None]
    try:
        for owner, flag, value in saved:
            if value:
                setattr(owner, flag, False)
        yield module
    finally:
        for owner, flag, value in saved:
            if getattr(owner, flag) is not value:
                setattr(owner, flag, value)


def _per_class(what: str, values: Sequence | None, num_classes: int) -> tuple:
    if values is not None and len(values) != num_classes:
        raise UserError(f"{what}: expected one entry per class ({num_classes}), got {len(values)}")
    return tuple(values) if values is not None else ()
