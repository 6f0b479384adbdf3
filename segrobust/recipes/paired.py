"""Losses that see each image twice, clean and attacked: TRADES and MART, per pixel.

A loss is ``loss(clean, attacked, labels, valid) -> dict``; adding one is a class and its decorator. Terms whose name
contains ``loss`` are summed, as everywhere in mmengine, and all are logged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from segrobust.attacks.configured import Configured
from segrobust.core.errors import UserError, unknown_name
from segrobust.core.registry import Registry


class Seen(NamedTuple):
    """What a segmentor in training made of some images.

    losses: its own, those of auxiliary heads among them.
    logits: of its last head, at the size of the labels, ``[N, K, H, W]`` float32.
    """

    losses: dict[str, Any]
    logits: Tensor


@dataclass(frozen=True, kw_only=True)
class PairedLoss(Configured):
    """Base of the losses over clean images and the attacked ones of the same batch.

    Args:
        beta: weight of the divergence between the two predictions.
    """

    beta: float = 6.0

    paper: ClassVar[str] = ""

    def __post_init__(self) -> None:
        self._numbers("beta", least=0)

    def __call__(self, clean: Seen, attacked: Seen, labels: Tensor, valid: Tensor) -> dict[str, Any]:
        """The terms.

        Args:
            labels: ``[N, H, W]`` long, 0 at void pixels.
            valid: ``[N, H, W]`` bool.
        """
        raise NotImplementedError


PAIRED_LOSSES: Registry[type[PairedLoss]] = Registry("paired_loss")


def register_paired_loss(cls: type[PairedLoss]) -> type[PairedLoss]:
    """Make a loss known by the name of its class; as a decorator, it also makes the class a frozen dataclass."""
    return PAIRED_LOSSES.add(dataclass(frozen=True, kw_only=True)(cls))


def build_paired_loss(spec: str | Mapping[str, Any] | PairedLoss) -> PairedLoss:
    """A paired loss from its name or a config with ``type=``.

    Raises:
        UserError: unknown name or field, or a value outside its range.
    """
    if isinstance(spec, PairedLoss):
        return spec
    given = {"type": spec} if isinstance(spec, str) else dict(spec) if isinstance(spec, Mapping) else {}
    if not isinstance(given.get("type"), str):
        raise UserError(f"loss: expected a name or a config with type=..., got {spec!r}")
    cls = PAIRED_LOSSES.find(given.pop("type"))
    known = {field.name for field in fields(cls)}
    for name in given:
        if name not in known:
            raise unknown_name(f"field of {cls.__name__}", name, known)
    return cls(**given)


def kl(clean: Tensor, attacked: Tensor) -> Tensor:
    """KL(softmax(clean) || softmax(attacked)) per pixel, ``[N, H, W]``, of logits ``[N, K, H, W]``."""
    log_p, log_r = clean.log_softmax(1), attacked.log_softmax(1)
    return (log_p.exp() * (log_p - log_r)).sum(1)


def mean(values: Tensor, valid: Tensor) -> Tensor:
    """Over the valid pixels of the batch; 0 where there is none."""
    return (values * valid).sum() / valid.sum().clamp_min(1)


def log_not_rival(logits: Tensor, labels: Tensor) -> Tensor:
    """log(1 - p_r) per pixel, ``[N, H, W]``, r being the most likely class other than the label.

    From the logits of all classes but r, so that it is finite however sure the network is.
    """
    own = labels.unsqueeze(1)
    rival = logits.detach().scatter(1, own, -math.inf).argmax(1, keepdim=True)
    return logits.scatter(1, rival, -math.inf).logsumexp(1) - logits.logsumexp(1)


@register_paired_loss
class TRADES(PairedLoss):
    """The segmentor's loss on the clean images plus beta times the mean KL divergence of the attacked prediction from
    the clean one (Zhang et al., 2019, arXiv 1901.08573; beta is its 1/lambda).

    Gradients flow into both predictions, as in the authors' code.
    """

    paper: ClassVar[str] = "arXiv 1901.08573"

    def __call__(self, clean: Seen, attacked: Seen, labels: Tensor, valid: Tensor) -> dict[str, Any]:
        divergence = mean(kl(clean.logits, attacked.logits), valid)
        return {**clean.losses, "loss_kl": self.beta * divergence, "kl": divergence.detach()}


@register_paired_loss
class MART(PairedLoss):
    """The boosted cross-entropy of the attacked images, -log p_y - log(1 - max over k != y of p_k), plus beta times
    the KL divergence weighted by 1 - p_y of the clean image (Wang et al., ICLR 2020; beta is its lambda).

    The first term is the segmentor's own loss on the attacked images. Gradients flow through the weight too, as in the
    authors' code.
    """

    beta: float = 5.0

    paper: ClassVar[str] = "ICLR 2020, rklOg6EFwS"

    def __call__(self, clean: Seen, attacked: Seen, labels: Tensor, valid: Tensor) -> dict[str, Any]:
        unsure = 1 - clean.logits.softmax(1).gather(1, labels.unsqueeze(1)).squeeze(1)
        divergence = mean(unsure * kl(clean.logits, attacked.logits), valid)
        margin = mean(-log_not_rival(attacked.logits, labels), valid)
        return {**attacked.losses, "loss_margin": margin, "loss_kl": self.beta * divergence, "kl": divergence.detach()}
