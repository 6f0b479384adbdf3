"""The one contract every model meets: RGB images in [0, 1] in, logits at image size out.

For example::

    net = torchvision.models.segmentation.lraspp_mobilenet_v3_large(num_classes=11, weights_backbone=None)
    model = Segmenter.wrap(net, num_classes=11, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    with frozen_eval(model):
        logits = model(images)      # images [N,3,H,W] RGB in [0,1] -> logits [N,K,H,W]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segrobust.core.digest import config_sha256
from segrobust.core.errors import UserError
from segrobust.core.palette import default_palette
from segrobust.models.failures import network_errors
from segrobust.models.network_io import decision_logit, in_network_type, main_output, to_image_size, two_logits
from segrobust.models.recomputing import blocks, recomputing


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
    padding_advice: str = "pad to multiples of {divisor} in logits(images), and crop"

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
        named = network_errors(self.name, images, self._tried, self.padding_advice)
        with named, self.recomputing() if saving else nullcontext():
            logits = self.logits(images.to(exact)).to(exact)
        expected = (images.shape[0], self.num_classes, *images.shape[-2:])
        if tuple(logits.shape) != expected:
            got = tuple(logits.shape)
            raise UserError(
                f"{self.name}: expected logits {expected}, got {got}; is num_classes={self.num_classes} right?"
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
        **identity: Any,
    ) -> Segmenter:
        """Make a segmenter of any live module that maps normalised RGB to logits, without copying it.

        ``net`` returns a tensor or a mapping with ``"out"`` (torchvision) or ``"logits"``; logits of lower resolution
        are resized bilinearly. It gets a copy of the images in the type of its parameters, so it may work in place and
        in half precision.

        Args:
            mean, std: in units of [0, 1] images; None means raw pixels.
            size_divisor: pad height and width to multiples of this, with zeros after normalisation at the right and
                the bottom as mmseg does; the logits are cropped.
            threshold: of a net with one sigmoid channel and ``num_classes=2``, whose logits become [0, z - logit(t)]:
                class 1 where the sigmoid is above it; None means 0.5.
            identity: ``class_names``, ``palette``, ``ignore_index`` (255 unless told) and ``name``.
        """
        return WrappedNet(net, mean, std, size_divisor, threshold, num_classes=num_classes, **identity)


class WrappedNet(Segmenter):
    """A live module behind its normalisation; see :meth:`Segmenter.wrap`."""

    padding_advice = "set size_divisor={divisor} in Segmenter.wrap"

    def __init__(
        self,
        net: nn.Module,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        size_divisor: int = 1,
        threshold: float | None = None,
        *,
        name: str | None = None,
        **identity: Any,
    ) -> None:
        if not isinstance(net, nn.Module):
            raise UserError(f"wrap: expected a torch.nn.Module, got {type(net).__name__}")
        super().__init__(name=name or type(net).__name__, **identity)
        self.net = net
        start = next(net.parameters(), torch.empty(0))
        self.register_buffer("mean", _channels("mean", mean, 0.0, start.device), persistent=False)
        self.register_buffer("std", _channels("std", std, 1.0, start.device), persistent=False)
        self.normalise = mean is not None or std is not None
        if isinstance(size_divisor, bool) or not isinstance(size_divisor, int) or size_divisor < 1:
            raise UserError(f"size_divisor: expected a whole number of at least 1, such as 32, got {size_divisor!r}")
        if threshold is not None and self.num_classes != 2:
            raise UserError(f"threshold: one sigmoid channel means num_classes=2, got {self.num_classes}")
        self.size_divisor, self.threshold = size_divisor, threshold
        self._decision = decision_logit(0.5 if threshold is None else threshold)
        if size_divisor > 1 or threshold is not None:
            self.config_sha256 = config_sha256({"size_divisor": size_divisor, "threshold": threshold})

    def logits(self, images: Tensor) -> Tensor:
        # what the network gets is its own: it may work in place
        pixels = (images - self.mean.to(images)).div_(self.std.to(images)) if self.normalise else images.clone()
        height, width = images.shape[-2:]
        right, bottom = -width % self.size_divisor, -height % self.size_divisor
        if right or bottom:
            pixels = F.pad(pixels, (0, right, 0, bottom))
        logits = to_image_size(main_output(self.net(in_network_type(self.net, pixels))), pixels)
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


def _channels(what: str, values: Sequence[float] | None, default: float, device: torch.device) -> Tensor:
    try:
        values = [default] * 3 if values is None else [float(value) for value in values]
    except (TypeError, ValueError):
        raise UserError(f"{what}: expected three values (R, G, B), got {values!r}") from None
    if len(values) != 3:
        raise UserError(f"{what}: expected three values (R, G, B), got {len(values)}")
    if max(values) > 1:
        raise UserError(f"{what}: images lie in [0, 1], so expected values up to 1, got {values}; divide them by 255")
    if what == "std" and min(values) <= 0:
        raise UserError(f"std: expected positive values, got {values}")
    return torch.tensor(values, dtype=torch.float32, device=device).view(1, 3, 1, 1)
