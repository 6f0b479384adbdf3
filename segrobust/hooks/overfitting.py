"""Two ways in which adversarial training fails without a sign in its own numbers; both are told in a warning, and the
first can be acted on.

*Catastrophic overfitting* (Wong et al., 2020, arXiv 2001.03994): within a few iterations the model learns to fool an
attack of one or a few steps, and is no longer robust. *Robust overfitting* (Rice et al., 2020, arXiv 2002.11569): from
some point on more training only lowers the robust accuracy.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor

from segrobust.attacks import Attack, build_attack
from segrobust.attacks.segmentation import Segmentation
from segrobust.core.errors import RunFailed, UserError, unknown_name
from segrobust.core.seeds import seed_of
from segrobust.hooks.adversarial_training import AdversarialTrainingHook
from segrobust.hooks.batches import equal_batches
from segrobust.hooks.free_training import FreeAdversarialTrainingHook
from segrobust.models.adapters.mmseg import unwrapped
from segrobust.models.precision import float32_unless_autocast
from segrobust.models.segmenter import Segmenter, frozen_eval

FEW = 3  # backward passes of an attack that a model may learn to fool
PROBE_STEPS = 5
PROBE_IMAGES = 4
RATIO, DIFFERENCE = 0.6, 0.1
FALL, VALIDATIONS = 2.0, 3
PLAIN = dict(optimiser="pgd", radius_reduction=False)
ACTIONS = ("warn", "steps", "stop")
RAISED = "attack_steps"  # what checkpoints remember of a change


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


def with_steps(attack: Attack, steps: int) -> Attack:
    """The attack with so many steps, each 2.5 / steps of the radius; of FGSM, which has none, PGD.

    Raises:
        UserError: the attack has no steps to raise, or as many already.
    """
    if attack.name == "FGSM":
        return build_attack("CEPGD", norm=attack.norm, eps=attack.eps, steps=steps, keep="last", **PLAIN)
    fields = {field.name for field in dataclasses.fields(attack)}
    if attack.minimum_norm or not {"steps", "step_size"} <= fields:
        raise UserError(
            f"OverfittingHook: {attack.name} has no steps that could be raised; set action='warn' or 'stop'"
        )
    if attack.steps >= steps:
        raise UserError(f"OverfittingHook: expected more steps than the attack's {attack.steps}, got steps={steps}")
    return dataclasses.replace(attack, steps=steps, step_size=None)


@HOOKS.register_module()
class OverfittingHook(Hook):
    """Warns of catastrophic and of robust overfitting in adversarial training, and acts on the first if told to.

    Every ``interval`` iterations, where the training attack has at most 3 backward passes, up to half of the batch and
    at most 4 images are attacked by it, as the training does (in its precision, at its size, from the perturbation that
    it kept), and by PGD with 5 steps at the same radius, which takes less than 2 % of the time and is logged as
    ``adv_probe_error`` (share of wrong pixels, the mean over all processes, which act as one).
    Free training is not probed, which is told: its perturbation comes from other images whenever a batch is new. Robust
    overfitting is judged from the ``robust/mIoU`` of a RobustValidationHook.

    Args:
        interval: iterations between two probes.
        action: on catastrophic overfitting: ``"warn"``; ``"steps"``: warn and train on with more steps, from this
            iteration to the end and after a resume too; ``"stop"``: end the training.
        steps: those of the attack after ``action="steps"``; its step size is then 2.5 / steps of the radius.

    Raises:
        UserError: a value outside its range, or before training an attack whose steps cannot be raised, or an action
            in free training.
        RunFailed: on catastrophic overfitting with ``action="stop"``.
    """

    priority = "ABOVE_NORMAL"  # the batch is still clean: AdversarialTrainingHook is NORMAL

    def __init__(self, interval: int = 150, action: str = "warn", steps: int | None = None) -> None:
        for name, value, least in (("interval", interval, 1), ("steps", 2 if steps is None else steps, 2)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(f"OverfittingHook: expected {name} to be an integer >= {least}, got {value!r}")
        if action not in ACTIONS:
            raise unknown_name("action of OverfittingHook", str(action), ACTIONS)
        if (action == "steps") != (steps is not None):
            raise UserError(f"OverfittingHook: action='steps' and steps=... go together, got {action!r} and {steps!r}")
        self.interval, self.action, self.steps = interval, action, steps
        self.trainer: AdversarialTrainingHook | None = None  # of a training, once it has begun
        self.adversarial = False  # whether a training has begun that is

    def before_train(self, runner: Any) -> None:
        self.trainer = next((hook for hook in runner.hooks if isinstance(hook, AdversarialTrainingHook)), None)
        free = any(isinstance(hook, FreeAdversarialTrainingHook) for hook in runner.hooks)
        self.adversarial = free or self.trainer is not None
        if free and self.trainer is None:
            self._leave_out_probe(runner)
        self.history = [Validation(*one) for one in runner.message_hub.runtime_info.get("robust_history", [])]
        self.seen = _losses(runner).size
        self.warned = {"catastrophic": False, "robust": False}
        self.stronger: Attack | None = None  # to train with from the next catastrophe on
        if self.action == "steps" and self.trainer is not None:
            self.stronger = with_steps(self.trainer.attack, self.steps)
            if RAISED in runner.message_hub.runtime_info:
                self._raise_steps()

    def _leave_out_probe(self, runner: Any) -> None:
        if self.action != "warn":
            raise UserError(f"OverfittingHook: free training is not probed for catastrophic overfitting, so action="
                            f"{self.action!r} would never act; leave action out")  # fmt: skip
        runner.logger.warning("free training is not probed for catastrophic overfitting; watch the robust scores of a "
                              "RobustValidationHook, which fall to zero then")  # fmt: skip

    def _raise_steps(self) -> None:
        self.trainer.attack, self.stronger = self.stronger, None

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: dict[str, Any] | None = None) -> None:
        if self.trainer is None or (runner.iter + 1) % self.interval:
            return
        attack = self.trainer.attack_at(runner.iter)
        if attack is None or attack.minimum_norm or attack.passes()[1] > FEW:
            return
        weak, strong = self._probe(runner, attack, data_batch)
        runner.message_hub.update_scalar("train/adv_probe_error", strong)
        caught = fooled(weak, strong)
        if caught and (self.action == "stop" or self.stronger is not None or not self.warned["catastrophic"]):
            self._act(
                runner,
                f"catastrophic overfitting in iteration {runner.iter + 1}: {attack.name} at eps {attack.eps:.4g} makes "
                f"{weak:.1%} of the pixels wrong, PGD with {PROBE_STEPS} steps {strong:.1%}, on the same images; "
                "the model has learned to fool its training attack and loses its robustness",
            )
        self.warned["catastrophic"] = caught

    def _act(self, runner: Any, told: str) -> None:
        if self.action == "stop":
            last = runner.message_hub.runtime_info.get("last_ckpt")
            raise RunFailed(f"training stopped by {told}; {_advice(last or 'an earlier checkpoint')}")
        if self.stronger is None:
            runner.logger.warning(f"{told}. {_advice('an earlier checkpoint')}")
            return
        runner.logger.warning(f"{told}; from here on it trains with {self.steps} steps")
        runner.message_hub.update_info(RAISED, self.steps)
        self._raise_steps()

    def _probe(self, runner: Any, attack: Attack, batch: dict[str, Any]) -> tuple[float, float]:
        """Shares of wrong pixels under the training attack and under the stronger one, on the same images."""
        segmenter, form = self.trainer.segmenter, self.trainer.form
        device = next(segmenter.parameters()).device
        count = min(PROBE_IMAGES, max(1, len(batch["inputs"]) // 2))
        stronger = build_attack("CEPGD", norm=attack.norm, eps=attack.eps, steps=PROBE_STEPS, **PLAIN)
        errors, context = [], runner.optim_wrapper.optim_context(unwrapped(runner.model))
        with self.trainer.as_attacked(), context, float32_unless_autocast(device):
            for group, images, labels in equal_batches(batch, range(count), device):
                seeds = [seed_of(runner.seed, "probe", runner.iter, runner.rank, index) for index in group]
                given = dict(ignore_index=segmenter.ignore_index, seeds=seeds)
                samples = [batch["data_samples"][index] for index in group]
                with form.computing(device):
                    weak, _ = form.attacked(attack, segmenter, images, labels, samples, **given)
                strong = stronger(segmenter, images, labels, **given)
                errors.append([_wrong(segmenter, weak.images, labels), strong.pixel_error])
        means = torch.stack([torch.cat(values).float().mean() for values in zip(*errors, strict=True)])
        all_reduce(means, "mean")
        return tuple(means.tolist())

    def after_val_epoch(self, runner: Any, metrics: dict[str, Any] | None = None) -> None:
        miou = (metrics or {}).get("robust/mIoU")
        losses = _losses(runner)
        if not self.adversarial or miou is None or losses.size <= self.seen:
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


def _wrong(segmenter: Segmenter, images: Tensor, labels: Tensor) -> Tensor:
    """Share of every image's valid pixels that are wrong; an attack on smaller images counts only those."""
    with frozen_eval(segmenter), torch.no_grad():
        predictions = segmenter(images).argmax(1)
    wrong, valid = Segmentation(ignore_index=segmenter.ignore_index).at_goal(predictions, labels)
    return (wrong / valid.clamp(min=1)).to(labels.device)


def _advice(checkpoint: str) -> str:
    return (
        f"Go back to {checkpoint} and train with more steps and a smaller step size, for instance "
        "attack=dict(type='CEPGD', steps=3, optimiser='pgd', radius_reduction=False)"
    )


def _losses(runner: Any) -> np.ndarray:
    """Every training loss so far."""
    scalar = runner.message_hub.log_scalars.get("train/loss")
    return scalar.data[0] if scalar else np.empty(0)


def _kept(runner: Any, best: Validation) -> str:
    """The checkpoint of the best validation (``best_...`` before ``iter_...``), or how to have one next time."""
    saved = sorted(map(str, Path(runner.work_dir).glob(f"*_{best.iteration}.pth")))
    return saved[0] if saved else "an earlier checkpoint (save_best='robust/mIoU' in CheckpointHook keeps the best one)"
