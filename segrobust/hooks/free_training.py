"""Free adversarial training (Shafahi et al., 2019, arXiv 1904.12843): every batch is trained on several times in a row,
and one backward gives both the step of the weights and the next step of the perturbation::

    sampler = dict(type="SeededInfiniteSampler", batch_size=8, repeats=4)       # of train_dataloader
    custom_hooks = [dict(type="FreeAdversarialTrainingHook", eps="4/255", replays=4)]

An iteration costs what one of ordinary training does. As many iterations see a fourth of the batches.
"""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor

from segrobust.core.errors import UserError, unknown_name
from segrobust.core.threats import THREATS
from segrobust.core.units import parse_eps
from segrobust.hooks.batches import to_loader
from segrobust.models.trainable import CHANNEL_SWAP, from_loader, live_segmenter

SAVED = "free_perturbation"


@HOOKS.register_module()
class FreeAdversarialTrainingHook(Hook):
    """Trains on images with a perturbation that takes one ascent step per iteration (Algorithm 1).

    The model is in training mode, as the loss sees it. The perturbation begins at zero and goes on from batch to batch,
    image by image in their order, as in the paper; unlike there it is also cut off where an image would leave [0, 1].
    On one process it is in the checkpoints, and a resume is bitwise; on several a resume begins it at zero, and says
    so. Logs ``adv_eps``.

    Args:
        eps: radius in image units, or a string such as ``"4/255"``.
        norm: ``"Linf"``, ``"L2"`` or ``"L1"``.
        replays: m, how often each batch comes in a row; the sampler's ``repeats``.
        step_size: of the perturbation, in image units; None: eps, as in the paper.

    Raises:
        UserError: a value outside its range, a sampler that does not repeat batches so, or a model under FSDP.
    """

    def __init__(
        self, eps: float | str, norm: str = "Linf", replays: int = 4, step_size: float | str | None = None
    ) -> None:
        if norm not in THREATS:
            raise unknown_name("norm", str(norm), THREATS)
        if isinstance(replays, bool) or not isinstance(replays, int) or replays < 1:
            raise UserError(f"FreeAdversarialTrainingHook: expected replays to be an integer >= 1, got {replays!r}")
        self.norm, self.threat, self.replays = norm, THREATS[norm], replays
        self.eps = parse_eps(eps, norm, "eps")
        self.step_size = self.eps if step_size is None else parse_eps(step_size, norm, "step_size")
        self.changes: list[Tensor] = []  # of the images of a batch, in their order

    def before_train(self, runner: Any) -> None:
        self.device = next(live_segmenter(runner.model).parameters()).device
        loader, sampler = runner.train_dataloader, runner.train_dataloader.sampler
        repeats = (getattr(sampler, "repeats", 1), getattr(sampler, "batch_size", 1))
        if self.replays > 1 and repeats != (self.replays, loader.batch_size):
            raise UserError(
                f"FreeAdversarialTrainingHook: replays={self.replays} needs train_dataloader.sampler=dict("
                f"type='SeededInfiniteSampler', batch_size={loader.batch_size}, repeats={self.replays})"
            )
        if runner.world_size > 1:
            runner.logger.warning("the perturbation of free training is not in the checkpoints of several processes: "
                                  "a resumed training begins it at zero")  # fmt: skip

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: dict[str, Any] | None = None) -> None:
        runner.message_hub.update_scalar("train/adv_eps", self.eps)
        self.clean = [from_loader(image.to(self.device)) for image in data_batch["inputs"]]
        starts = [self._start(index, image) for index, image in enumerate(self.clean)]
        self.fed = [to_loader(start).requires_grad_() for start in starts]
        self.changes = [start - image for start, image in zip(starts, self.clean, strict=True)]
        data_batch["inputs"] = list(self.fed)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        for index, (fed, image) in enumerate(zip(self.fed, self.clean, strict=True)):
            if fed.grad is None:
                raise UserError("FreeAdversarialTrainingHook: no gradient of the loss reaches the images; the model "
                                "detaches them, or no backward was made")  # fmt: skip
            gradient = fed.grad[CHANNEL_SWAP].nan_to_num(0, 0, 0)
            points = image + self.changes[index]
            size = points.new_full((1,), self.step_size)
            step = self.threat.step(points[None], gradient[None], size)[0]
            self.changes[index] = self._projected(points + step, image) - image
        self.fed = self.clean = []

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        if runner.world_size == 1:
            checkpoint[SAVED] = [change.cpu() for change in self.changes]

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.pop(SAVED, [])
        if runner._resume and runner.world_size == 1:
            self.changes = saved

    def _start(self, index: int, image: Tensor) -> Tensor:
        change = self.changes[index] if index < len(self.changes) else None
        if change is None or change.shape != image.shape:
            return image
        return self._projected(image + change.to(image), image)

    def _projected(self, points: Tensor, image: Tensor) -> Tensor:
        return self.threat.project(points[None], image[None], points.new_full((1,), self.eps))[0]
