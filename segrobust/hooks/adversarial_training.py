"""Adversarial training on any mmengine Runner: each batch is attacked before the model learns from it::

    custom_hooks = [
        dict(
            type="AdversarialTrainingHook",
            attack=dict(type="TsallisPGD", eps="4/255", steps=3, optimiser="pgd", radius_reduction=False),
            clean_ratio=0.5,        # half of each batch stays clean
            start=1000,             # standard training up to there
            eps_warmup=2000,        # then eps grows to its full value
        )
    ]

A minimum-norm attack stops where an image has been fooled: each image gets a radius of its own, up to a cap::

    attack = dict(type="ALMAProx", steps=5, eps_max="4/255", target_apsr=0.5)

A loss over the clean images and the attacked ones, of an mmseg model (``segrobust.recipes``)::

    dict(type="AdversarialTrainingHook", attack=dict(type="KLPGD", ...), loss=dict(type="TRADES", beta=6.0))

A segmentor with such a loss of its own (``segrobust.recipes.ddcat``) gets both by itself.

One setting of any config with an mmseg model or a segmenter of segrobust; loop and the other hooks stay what they are,
and without ``loss`` so does the loss.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from segrobust.attacks import Attack, AttackResult, build_attack
from segrobust.core.errors import UserError
from segrobust.core.seeds import seed_of
from segrobust.hooks.batches import equal_batches, to_loader
from segrobust.hooks.cheaper import AttackForm
from segrobust.models.adapters.mmseg import unwrapped
from segrobust.models.folded import Folding
from segrobust.models.replayed import Replayed
from segrobust.models.trainable import live_segmenter
from segrobust.recipes.paired import PairedLoss, build_paired_loss
from segrobust.recipes.pairs import PairedSegmentor, Pairs

KEPT = "kept_perturbations"  # their entry in a checkpoint


@HOOKS.register_module()
class AdversarialTrainingHook(Hook):
    """Replaces the images of every training batch by attacked ones (Madry et al., 2018, arXiv 1706.06083).

    The attack sees the model in eval mode, on the images as they leave the pipeline: before normalisation and padding.
    Modes, gradients and buffers of the model are left as they were; under AMP it runs in the runner's autocast,
    else in true float32, without TF32. On a CPU batch normalisation is folded into convolutions.
    Logs ``adv_eps`` (radius or cap, in image units), ``adv_passes`` (forwards and backwards per attacked image),
    ``adv_time`` (seconds) and ``adv_pixel_error`` (share of the attacked images' valid pixels that are wrong; every so
    many iterations where that takes a forward of its own); for a minimum-norm attack also ``adv_distance`` (mean norm
    of the change, in image units like ``adv_eps``) and ``adv_found`` (share of the attacked images that reached the
    goal).

    Args:
        attack: name or config of an untargeted attack; see ``segrobust.attacks.build_attack``. A minimum-norm attack
            needs a cap, ``eps_max``; where it misses its goal, training goes on with its best image within the cap.
        clean_ratio: share of the images of each batch that stay clean, in [0, 1). Which ones follows from (seed,
            iteration, rank); a share that is no whole number of images is met on average.
        start: first iteration (not epoch) with attacks, counted from 0; before it, training is standard.
        eps_warmup: number of iterations over which eps (or the cap) grows linearly from 0 at ``start`` to its full
            value.
        steps_warmup: number of iterations over which the attack's steps grow from 1 at ``start`` to all of them, which
            makes the first iterations cheaper.
        loss: name or config of a loss over the clean images and the attacked ones, such as ``dict(type="TRADES",
            beta=6.0)``; both halves go through the network on their own. None: the model's loss on attacked images.
        error_interval: iterations between two forwards for ``adv_pixel_error`` alone, with an attack whose last points
            are its answer (``keep="last"``); between them a minimum-norm attack logs what it counted itself.
        precision: of the attack's passes, such as ``"bf16"``; the training step computes as it did. None: as above.
        scale: the attack sees images and labels at this share of their height and width, and its change is resized.
            Such smooth changes make nothing robust: at 0.5 ``Standard`` left no pixel (``benchmarks/README.md``).
        keep_perturbations: the attack begins where it ended at the image's last visit. The pipeline may flip images,
            not move them otherwise; six bytes per pixel of the data set, in memory and in every checkpoint.
        seed: of the attack's random numbers, which follow from (seed, iteration, rank, image); None: the runner's.
        cuda_graphs: on a GPU, replay the attack's passes as CUDA graphs, which changes nothing but the time.

    Raises:
        UserError: a value outside its range, a targeted attack, a minimum-norm attack without a cap, an attack that a
            cheaper form does not fit, a model under FSDP, or one that the ``loss`` does not fit, or that has one of its
            own beside ``loss`` or ``clean_ratio``.
    """

    def __init__(
        self,
        attack: str | Mapping[str, Any] | Attack,
        clean_ratio: float = 0.0,
        start: int = 0,
        eps_warmup: int = 0,
        seed: int | None = None,
        cuda_graphs: bool = True,
        steps_warmup: int = 0,
        loss: str | Mapping[str, Any] | PairedLoss | None = None,
        error_interval: int = 10,
        precision: str | None = None,
        scale: float = 1.0,
        keep_perturbations: bool = False,
    ) -> None:
        self.attack = build_attack(attack)
        if self.attack.targeted:
            raise UserError(f"AdversarialTrainingHook: {self.attack.name} must be untargeted; set targeted=False")
        self.radius = "eps_max" if self.attack.minimum_norm else "eps"
        if getattr(self.attack, self.radius, None) is None:
            raise UserError(f"AdversarialTrainingHook: {self.attack.name} looks for the smallest change at any radius; "
                            'give it a cap to train with, for instance eps_max="4/255"')  # fmt: skip
        if not 0 <= clean_ratio < 1:
            raise UserError(f"AdversarialTrainingHook: expected 0 <= clean_ratio < 1, got {clean_ratio!r}")
        for name, value in (
            ("start", start),
            ("eps_warmup", eps_warmup),
            ("steps_warmup", steps_warmup),
            ("seed", seed or 0),
        ):
            if not isinstance(value, int) or value < 0:
                raise UserError(f"AdversarialTrainingHook: expected {name} to be an integer >= 0, got {value!r}")
        if steps_warmup and not isinstance(getattr(self.attack, "steps", None), int):
            raise UserError(
                f"AdversarialTrainingHook: {self.attack.name} has no steps to warm up; leave steps_warmup out"
            )
        if loss is not None and clean_ratio:
            raise UserError("AdversarialTrainingHook: a loss over clean and attacked images has all clean ones in it; "
                            "leave clean_ratio out")  # fmt: skip
        self.form = AttackForm(self.attack, error_interval, precision, scale, keep_perturbations)
        self.loss = None if loss is None else build_paired_loss(loss)
        self.pairs: Pairs | PairedSegmentor | None = None  # what has a loss over both, while training lasts
        self.clean_ratio = clean_ratio
        self.start = start
        self.eps_warmup = eps_warmup
        self.steps_warmup = steps_warmup
        self.seed = seed
        self.cuda_graphs = cuda_graphs

    @property
    def norm(self) -> str:
        """Of the radius."""
        return self.attack.norm

    def attack_at(self, iteration: int) -> Attack | None:
        """The attack of an iteration; None where there is nothing to attack with."""
        done = iteration - self.start
        if done < 0 or (done == 0 and self.eps_warmup):
            return None
        less = {}
        if done < self.eps_warmup:
            less[self.radius] = getattr(self.attack, self.radius) * done / self.eps_warmup
        if done < self.steps_warmup:
            less["steps"] = 1 + (self.attack.steps - 1) * done // self.steps_warmup
        return dataclasses.replace(self.attack, **less) if less else self.attack

    def choose(self, count: int, seed: int, iteration: int, rank: int) -> list[int]:
        """The images of a batch of ``count`` that are attacked."""
        generator = np.random.default_rng(seed_of(seed, "clean images", iteration, rank))
        clean = math.floor(self.clean_ratio * count + generator.random())
        return sorted(generator.permutation(count)[clean:].tolist())

    def before_train(self, runner: Any) -> None:
        self.segmenter = self._attacked = live_segmenter(runner.model)
        self._folding = Folding(self.segmenter)
        self.form.check(runner, next(self.segmenter.parameters()).device)
        model = unwrapped(runner.model)
        if isinstance(model, PairedSegmentor):
            if self.loss is not None or self.clean_ratio:
                raise UserError(f"AdversarialTrainingHook: {type(model).__name__} has a loss of its own over clean and "
                                "attacked images; leave loss and clean_ratio out")  # fmt: skip
            self.pairs = model
        elif self.loss is not None:
            self.pairs = Pairs(model, self.loss)

    def after_train(self, runner: Any) -> None:
        if self.pairs is not None:
            self.pairs.remove()
            self.pairs = None

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: dict[str, Any] | None = None) -> None:
        attack = self.attack_at(runner.iter)
        runner.message_hub.update_scalar("train/adv_eps", getattr(attack, self.radius) if attack else 0.0)
        measures = attack is None or self.form.measures(attack, runner.iter - self.start)
        if (passes := _passes(attack, measures)) is not None:
            runner.message_hub.update_scalar("train/adv_passes", passes)
        if self.pairs is not None:
            self.pairs.active = attack is not None
        if attack is None:
            return
        begin = time.perf_counter()
        try:
            results = self._replace(runner, attack, data_batch, measures)
        except TypeError as problem:  # mmengine would raise it anew without its traceback
            raise RuntimeError(f"{type(self).__name__}: {problem}") from problem
        if results and (measures or attack.minimum_norm):  # which count themselves
            for name in ("pixel_error", "distance", "found") if attack.minimum_norm else ("pixel_error",):
                values = torch.cat([getattr(result, name) for result in results])
                runner.message_hub.update_scalar(f"train/adv_{name}", float(values.float().mean()))
        runner.message_hub.update_scalar("train/adv_time", time.perf_counter() - begin)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        if self.form.kept is not None:
            checkpoint[KEPT] = self.form.kept.changes

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        changes = checkpoint.pop(KEPT, {})
        if self.form.kept is not None and runner._resume:
            self.form.kept.changes = changes

    def as_attacked(self) -> AbstractContextManager[None]:
        """Inside, the network is what the attack in training sees."""
        return nullcontext() if self.pairs is None else self.pairs.under_attack()

    def _replace(self, runner: Any, attack: Attack, data_batch: dict[str, Any], measures: bool) -> list[AttackResult]:
        """Attack the chosen images in place or, for a loss over both, put them all behind the clean ones."""
        inputs = list(data_batch["inputs"])
        seed = runner.seed if self.seed is None else self.seed
        chosen = self.choose(len(inputs), seed, runner.iter, runner.rank)
        device, results = next(self.segmenter.parameters()).device, []
        context = runner.optim_wrapper.optim_context(unwrapped(runner.model))
        with self.as_attacked(), context, self.form.computing(device):
            for group, images, labels in equal_batches(data_batch, chosen, device):
                seeds = [seed_of(seed, "attack", runner.iter, runner.rank, index) for index in group]
                call = dict(ignore_index=self.segmenter.ignore_index, seeds=seeds, final_forward=measures)
                samples = [data_batch["data_samples"][index] for index in group]
                with self._folding(images):
                    result, change = self.form.attacked(attack, self._attacked, images, labels, samples, **call)
                self.form.keep(samples, change)
                results.append(result)
                for index, attacked in zip(group, result.images, strict=True):
                    inputs[index] = to_loader(attacked)
        if self.pairs is not None:
            inputs = [*data_batch["inputs"], *inputs]
            data_batch["data_samples"] = [*data_batch["data_samples"]] * 2
        data_batch["inputs"] = inputs
        if self.cuda_graphs and self._attacked is self.segmenter:  # from now on a training step's memory is known
            self._attacked = Replayed(self.segmenter)
        return results


def _passes(attack: Attack | None, measures: bool) -> int | None:
    """Forwards and backwards per attacked image, at most; None where the attack does not say."""
    try:
        return sum(attack.passes()) - (not measures) if attack else 0
    except NotImplementedError:
        return None
