"""What reads or writes all logits on a GPU, as functions that a compiler turns into one kernel each.

Logits are many: 44 million at batch 8, 512x512 and 21 classes. Written out, softmax, statistics and gradient are some
thirty passes over them; here reading is one and writing is one, and what a weight makes of the pixels in between costs
a K-th of either. Nothing waits for the device, and nothing is added up in an order that may change.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segrobust.attacks.per_class import onehot, write
from segrobust.core.errors import first_line
from segrobust.models.failures import of_the_machine, out_of_memory

# gradients times pixels of a call, from which compiling is repaid by some twenty batches: 50 steps at batch 8, 512x512.
# It takes about ten seconds per process, for all attacks and sizes, and saves 2e-10 s per logit.
WORTH_COMPILING = 1e8
INDUCTOR = {"options": {"compile_threads": 1}}  # two small kernels need no processes of their own
VARIANTS = 64  # of one function: numbers of classes, one image or more, precisions, sharpened or not
_LOG = logging.getLogger(__name__)


class Softmax(NamedTuple):
    """Per pixel, ``[N, H, W]``.

    largest: logit. below: that of the label minus it, at most 0.
    log_p, sharp_log_p: log probability of the label, under softmax(logits) and softmax(sharpness * logits).
    log_sum: of exp(sharpness * (logits - largest)).
    """

    largest: Tensor
    below: Tensor
    log_p: Tensor
    sharp_log_p: Tensor
    log_sum: Tensor


def softmax(logits: Tensor, labels: Tensor, sharpness: Tensor | None) -> Softmax:
    """Of logits ``[N, K, H, W]`` at labels ``[N, H, W]``; ``sharpness``: of no dimension; None: 1."""
    largest = logits.amax(1)
    shifted = logits - largest.unsqueeze(1)
    below = logits.gather(1, labels.unsqueeze(1)).squeeze(1) - largest
    sharp_sum = None if sharpness is None else (shifted * sharpness).exp_().sum(1).log()
    log_sum = shifted.exp_().sum(1).log()
    if sharpness is None:
        return Softmax(largest, below, below - log_sum, below - log_sum, log_sum)
    return Softmax(largest, below, below - log_sum, below * sharpness - sharp_sum, sharp_sum)


def probabilities(logits: Tensor, largest: Tensor, log_sum: Tensor, sharpness: Tensor | None) -> Tensor:
    """All of them, ``[N, K, H, W]``."""
    shifted = logits - largest.unsqueeze(1)
    shifted = shifted if sharpness is None else shifted.mul_(sharpness)
    return shifted.sub_(log_sum.unsqueeze(1)).exp_()


def ascent(
    logits: Tensor, labels: Tensor, weights: Tensor, largest: Tensor, log_sum: Tensor, sharpness: Tensor | None
) -> Tensor:
    """``weights * (softmax - onehot)``, ``[N, K, H, W]``."""
    own = torch.where(onehot(labels, logits.shape[1]), weights.unsqueeze(1), 0.0)
    return probabilities(logits, largest, log_sum, sharpness) * weights.unsqueeze(1) - own


def lean_ascent(
    logits: Tensor, labels: Tensor, weights: Tensor, largest: Tensor, log_sum: Tensor, sharpness: Tensor | None
) -> Tensor:
    """The same in the memory of the probabilities, which a compiler does not need."""
    made = probabilities(logits, largest, log_sum, sharpness).mul_(weights.unsqueeze(1))
    return write(made, labels, made.gather(1, labels.unsqueeze(1)).squeeze(1) - weights)


def own_and_rival(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logit of the label, and the largest other one, ``[N, H, W]``."""
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    return own, torch.where(onehot(labels, logits.shape[1]), -math.inf, logits).amax(1)


def margin_ascent(logits: Tensor, labels: Tensor, rival: Tensor, factor: Tensor) -> Tensor:
    """``factor (onehot(label) - onehot(rival))``, ``[N, K, H, W]``; equal rivals all take part."""
    return torch.where(onehot(labels, logits.shape[1]), factor.unsqueeze(1), _at_rivals(logits, rival, factor))


def lean_margin_ascent(logits: Tensor, labels: Tensor, rival: Tensor, factor: Tensor) -> Tensor:
    """The same in memory for one map of that size."""
    return write(_at_rivals(logits, rival, factor), labels, factor)


def _at_rivals(logits: Tensor, rival: Tensor, factor: Tensor) -> Tensor:
    return torch.where(logits == rival.unsqueeze(1), -factor.unsqueeze(1), 0.0)


class Compiled:
    """A function of maps that is compiled at its first use, for any number and size of images; where that fails it
    runs as it is, and the log says why.

    Args:
        options: of ``torch.compile``.
    """

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        self.function, self.options = function, options or INDUCTOR
        self.fails = False

    @cached_property
    def _compiled(self) -> Callable[..., Any]:
        return torch.compile(self.function, fullgraph=True, dynamic=True, **self.options)  # imports for seconds

    def __call__(self, logits: Tensor, *maps: Any) -> Any:
        """
        Args:
            logits: ``[N, K, H, W]``; for every K there is a kernel of its own.
        """
        if self.fails:
            return self.function(logits, *maps)
        try:
            torch._dynamo.mark_static(logits, 1)
            with torch._dynamo.config.patch(recompile_limit=VARIANTS):
                return self._compiled(logits, *maps)
        except Exception as error:  # of a compiler there may be anything
            if out_of_memory(error) or of_the_machine(error):
                raise
            self.fails = True
            _LOG.info(
                "%s is not compiled: %s: %s", self.function.__name__, type(error).__name__, first_line(error)[:200]
            )
        return self.function(logits, *maps)


class Functions(NamedTuple):
    """The four that an attack needs."""

    softmax: Callable[..., Softmax]
    ascent: Callable[..., Tensor]
    own_and_rival: Callable[..., tuple[Tensor, Tensor]]
    margin_ascent: Callable[..., Tensor]


EAGER = Functions(softmax, lean_ascent, own_and_rival, lean_margin_ascent)
COMPILED = Functions(*map(Compiled, (softmax, ascent, own_and_rival, margin_ascent)))


def functions(logits: Tensor, compiled: bool) -> Functions | None:
    """Those for logits on this device; None: on a CPU, where steps in kept memory are faster."""
    if not logits.is_cuda:
        return None
    return COMPILED if compiled and logits.dtype == torch.float32 else EAGER
