"""Two ways in which adversarial training fails without a sign in its own numbers; both are told in a warning.

*Catastrophic overfitting* (Wong et al., 2020, arXiv 2001.03994): within a few iterations the model learns to fool an
attack of one or a few steps, and is no longer robust. *Robust overfitting* (Rice et al., 2020, arXiv 2002.11569): from
some point on more training only lowers the robust accuracy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from segrobust.attacks import Attack, build_attack
from segrobust.core.errors import UserError
from segrobust.core.seeds import seed_of
from segrobust.hooks.adversarial_training import AdversarialTrainingHook, equal_batches
from segrobust.models.adapters.mmseg import unwrapped

FEW = 3  # backward passes of an attack that a model may learn to fool
PROBE_STEPS = 5
PROBE_IMAGES = 4
RATIO, DIFFERENCE = 0.6, 0.1
FALL, VALIDATIONS = 2.0, 3


class Validation(NamedTuple):
    """What robust overfitting is seen from: a validation's robust mIoU and the mean training loss before it."""

    iteration: int
    miou: float
    loss: float


def fooled(weak: float, strong: float) -> bool:
    """Whether the training attack leaves far fewer pixels wrong (a share) than a stronger one at the same radius."""
    return weak <= RATIO * strong and strong - weak >= DIFFERENCE


def overfitted(history: list[Validation]) -> Validation | None:
    """The best validation, where the last three all lie 2 points of mIoU below it and the training loss still fell."""
    best = max(history, key=lambda validation: validation.miou, default=None)
    later = [validation for validation in history if best and validation.iteration > best.iteration]
    if len(later) < VALIDATIONS or later[-1].loss >= best.loss:
        return None
    return best if all(one.miou < best.miou - FALL for one in later[-VALIDATIONS:]) else None


@HOOKS.register_module()
class OverfittingHook(Hook):
    """Warns of catastrophic and of robust overfitting in adversarial training; it changes nothing.

    Every ``interval`` iterations, where the training attack has at most 3 backward passes, up to half of the batch and
    at most 4 images are attacked by it and by PGD with 5 steps at the same radius, which takes less than 2 % of the
    time and is logged as ``adv_probe_error`` (share of wrong pixels). Robust overfitting is judged from the
    ``robust/mIoU`` of a RobustValidationHook.

    Args:
        interval: iterations between two probes.

    Raises:
        UserError: ``interval`` is no integer of at least 1.
    """

    priority = "ABOVE_NORMAL"  # the batch is still clean: AdversarialTrainingHook is NORMAL

    def __init__(self, interval: int = 150) -> None:
        if isinstance(interval, bool) or not isinstance(interval, int) or interval < 1:
            raise UserError(f"OverfittingHook: expected interval to be an integer >= 1, got {interval!r}")
        self.interval = interval
        self.trainer: AdversarialTrainingHook | None = None  # of a training, once it has begun

    def before_train(self, runner: Any) -> None:
        self.trainer = next((hook for hook in runner.hooks if isinstance(hook, AdversarialTrainingHook)), None)
        self.history = [Validation(*one) for one in runner.message_hub.runtime_info.get("robust_history", [])]
        self.seen = _losses(runner).size
        self.warned = {"catastrophic": False, "robust": False}

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: dict[str, Any] | None = None) -> None:
        if self.trainer is None or (runner.iter + 1) % self.interval:
            return
        attack = self.trainer.attack_at(runner.iter)
        if attack is None or attack.minimum_norm or attack.passes()[1] > FEW:
            return
        weak, strong = self._probe(runner, attack, data_batch)
        runner.message_hub.update_scalar("train/adv_probe_error", strong)
        caught = fooled(weak, strong)
        if caught and not self.warned["catastrophic"]:
            runner.logger.warning(
                f"catastrophic overfitting in iteration {runner.iter + 1}: {attack.name} at eps {attack.eps:.4g} makes "
                f"{weak:.1%} of the pixels wrong, PGD with {PROBE_STEPS} steps {strong:.1%}, on the same images; "
                "the model has learned to fool its training attack and loses its robustness. Go back to an earlier "
                "checkpoint and train with more steps and a smaller step size, for instance "
                "attack=dict(type='CEPGD', steps=3, optimiser='pgd', radius_reduction=False)"
            )
        self.warned["catastrophic"] = caught

    def _probe(self, runner: Any, attack: Attack, batch: dict[str, Any]) -> tuple[float, float]:
        """Shares of wrong pixels under the training attack and under the stronger one, on the same images."""
        segmenter = self.trainer.segmenter
        device = next(segmenter.parameters()).device
        count = min(PROBE_IMAGES, max(1, len(batch["inputs"]) // 2))
        plain = dict(steps=PROBE_STEPS, optimiser="pgd", radius_reduction=False)
        attacks = (attack, build_attack("CEPGD", norm=attack.norm, eps=attack.eps, **plain))
        errors = []
        with runner.optim_wrapper.optim_context(unwrapped(runner.model)):
            for group, images, labels in equal_batches(batch, range(count), device):
                seeds = [seed_of(runner.seed, "probe", runner.iter, runner.rank, index) for index in group]
                given = dict(ignore_index=segmenter.ignore_index, seeds=seeds)
                errors.append([one(segmenter, images, labels, **given).pixel_error for one in attacks])
        weak, strong = (float(torch.cat(values).float().mean()) for values in zip(*errors, strict=True))
        return weak, strong

    def after_val_epoch(self, runner: Any, metrics: dict[str, Any] | None = None) -> None:
        miou = (metrics or {}).get("robust/mIoU")
        losses = _losses(runner)
        if self.trainer is None or miou is None or losses.size <= self.seen:
            return
        self.history.append(Validation(runner.iter, miou, float(losses[self.seen :].mean())))
        self.seen = losses.size
        runner.message_hub.update_info("robust_history", [list(one) for one in self.history])
        best = overfitted(self.history)
        if best and not self.warned["robust"]:
            now = self.history[-1]
            runner.logger.warning(
                f"robust overfitting: robust/mIoU was {best.miou:.2f} after {best.iteration} iterations and has stayed "
                f"more than {FALL:g} points below in the last {VALIDATIONS} validations, now {now.miou:.2f}, while the "
                f"training loss fell from {best.loss:.4g} to {now.loss:.4g}; stop here and take {_kept(runner, best)}"
            )
        self.warned["robust"] = best is not None


def _losses(runner: Any) -> np.ndarray:
    """Every training loss so far."""
    scalar = runner.message_hub.log_scalars.get("train/loss")
    return scalar.data[0] if scalar else np.empty(0)


def _kept(runner: Any, best: Validation) -> str:
    """The checkpoint of the best validation (``best_...`` before ``iter_...``), or how to have one next time."""
    saved = sorted(map(str, Path(runner.work_dir).glob(f"*_{best.iteration}.pth")))
    return saved[0] if saved else "an earlier checkpoint (save_best='robust/mIoU' in CheckpointHook keeps the best one)"
