"""The one contract every model meets: RGB images in [0, 1] in, logits at image size out.

For example::

    net = torchvision.models.segmentation.lraspp_mobilenet_v3_large(num_classes=11, weights_backbone=None)
    model = Segmenter.wrap(net, num_classes=11, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    with frozen_eval(model):
        logits = model(images)      # images [N,3,H,W] RGB in [0,1] -> logits [N,K,H,W]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segrobust.errors import UserError
from segrobust.models.checkpointing import blocks, recomputing
from segrobust.palette import default_palette


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
    config_sha256: str | None = None  # of what a config says of the model, where there is one

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
            raise UserError(
                f"num_classes: expected an integer of at least 2 (one logit per class), got {num_classes!r}"
            )
        self.num_classes = num_classes
        self.class_names = _per_class("class_names", class_names, num_classes) or default_class_names(num_classes)
        colours = _per_class("palette", palette, num_classes) or default_palette(num_classes)
        self.palette = [tuple(int(value) for value in colour) for colour in colours]
        self.ignore_index = int(ignore_index)
        self.name = name or type(self).__name__

    def logits(self, images: Tensor) -> Tensor:
        """Images ``[N,3,H,W]`` in [0, 1], already checked -> logits ``[N,K,H,W]``."""
        raise NotImplementedError(f"{type(self).__name__} must implement logits(images)")

    def recomputing(self) -> AbstractContextManager:
        """The context in which ``logits`` keeps little for the backward pass."""
        return recomputing(blocks(self))

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[N,3,H,W]``, RGB in [0, 1] -> logits ``[N,K,H,W]`` at image size.

        Raises:
            UserError: not a floating tensor ``[N,3,H,W]``, a gradient wanted inside ``torch.inference_mode``, or a
                network that does not return ``num_classes`` channels.
        """
        check_images(images)
        saving = self.checkpointing and images.requires_grad and not self.training  # statistics would count twice
        with self.recomputing() if saving else nullcontext():
            logits = self.logits(images)
        expected = (images.shape[0], self.num_classes, *images.shape[-2:])
        if tuple(logits.shape) != expected:
            got = tuple(logits.shape)
            raise UserError(
                f"{self.name}: expected logits {expected}, got {got}; is num_classes={self.num_classes} right?"
            )
        return logits

    @staticmethod
    def wrap(
        net: nn.Module,
        *,
        num_classes: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        ignore_index: int = 255,
        class_names: Sequence[str] | None = None,
        palette: Sequence[Sequence[int]] | None = None,
        name: str | None = None,
    ) -> Segmenter:
        """Make a segmenter of any live module that maps normalised RGB to logits, without copying it.

        ``net`` returns a tensor or a mapping with ``"out"`` (torchvision) or ``"logits"``; logits of lower resolution
        are resized bilinearly. ``mean`` and ``std`` are in units of [0, 1] images; None means raw pixels.
        """
        return WrappedNet(
            net,
            mean,
            std,
            num_classes=num_classes,
            ignore_index=ignore_index,
            class_names=class_names,
            palette=palette,
            name=name,
        )


class WrappedNet(Segmenter):
    """A live module behind its normalisation; see :meth:`Segmenter.wrap`."""

    def __init__(
        self,
        net: nn.Module,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        *,
        name: str | None = None,
        **identity: object,
    ) -> None:
        if not isinstance(net, nn.Module):
            raise UserError(f"wrap: expected a torch.nn.Module, got {type(net).__name__}")
        super().__init__(name=name or type(net).__name__, **identity)
        self.net = net
        start = next(net.parameters(), torch.empty(0))
        self.register_buffer("mean", _channels("mean", mean, 0.0, start.device), persistent=False)
        self.register_buffer("std", _channels("std", std, 1.0, start.device), persistent=False)
        self.normalise = mean is not None or std is not None

    def logits(self, images: Tensor) -> Tensor:
        pixels = (images - self.mean.to(images)).div_(self.std.to(images)) if self.normalise else images
        return to_image_size(main_output(self.net(pixels)), images)


def main_output(output: object) -> Tensor:
    """The logits in what a network returns: a tensor, or a mapping with ``"out"`` or ``"logits"``."""
    if isinstance(output, Mapping):
        output = next((output[key] for key in ("out", "logits") if key in output), output)
    if not isinstance(output, Tensor) or output.ndim != 4:
        shown = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UserError(f'the network must return logits [N,K,h,w] or a mapping with "out" or "logits", got {shown}')
    return output


def to_image_size(logits: Tensor, images: Tensor) -> Tensor:
    """Logits resized bilinearly (align_corners False) to the size of ``images``, untouched where they have it."""
    if logits.shape[-2:] == images.shape[-2:]:
        return logits
    return F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)


def check_images(images: Tensor) -> None:
    """Refuse what is not a floating tensor ``[N,3,H,W]``, and a gradient wanted inside ``torch.inference_mode``."""
    if not isinstance(images, Tensor):
        raise UserError(f"images: expected a float tensor [N,3,H,W] in [0,1], got {type(images).__name__}")
    if not images.is_floating_point():
        raise UserError(f"images: expected floating point values in [0,1], got {images.dtype}; divide by 255 first")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise UserError(f"images: expected shape [N,3,H,W] (RGB), got {list(images.shape)}")
    if images.requires_grad and torch.is_inference_mode_enabled():
        raise UserError(
            "images require a gradient, but torch.inference_mode() records none; "
            "call the model outside it (torch.no_grad() is fine around an attack)"
        )


@contextmanager
def frozen_eval(module: nn.Module) -> Iterator[nn.Module]:
    """Eval mode, no parameter gradients, no gradient checkpointing, and everything exactly as before afterwards.

    Flags are saved and set per module and per parameter, not with ``module.eval()``: mixed states come back, and the
    side effects of overridden ``train()`` methods (frozen stages, merged weights) do not happen. ``with_cp`` (mmseg's
    reentrant checkpointing) cannot be combined with ``torch.autograd.grad``. May be nested.
    """
    parts = list(module.modules())
    saved = [(part, "training", part.training) for part in parts]
    saved += [(part, "with_cp", part.with_cp) for part in parts if hasattr(part, "with_cp")]
    saved += [(parameter, "requires_grad", parameter.requires_grad) for parameter in module.parameters()]
    try:
        for owner, flag, _ in saved:
            setattr(owner, flag, False)
        yield module
    finally:
        for owner, flag, value in saved:
            setattr(owner, flag, value)


def default_class_names(num_classes: int) -> tuple[str, ...]:
    """``class_0``, ``class_1``, ..."""
    return tuple(f"class_{index}" for index in range(num_classes))


def _per_class(what: str, values: Sequence | None, num_classes: int) -> tuple:
    if values is not None and len(values) != num_classes:
        raise UserError(f"{what}: expected one entry per class ({num_classes}), got {len(values)}")
    return tuple(values) if values is not None else ()


def _channels(what: str, values: Sequence[float] | None, default: float, device: torch.device) -> Tensor:
    values = [default] * 3 if values is None else [float(value) for value in values]
    if len(values) != 3:
        raise UserError(f"{what}: expected three values (R, G, B), got {len(values)}")
    if max(values) > 1:
        raise UserError(f"{what}: images lie in [0, 1], so expected values up to 1, got {values}; divide them by 255")
    if what == "std" and min(values) <= 0:
        raise UserError(f"std: expected positive values, got {values}")
    return torch.tensor(values, dtype=torch.float32, device=device).view(1, 3, 1, 1)
