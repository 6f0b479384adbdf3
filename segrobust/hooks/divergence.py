"""Training that diverges stops at once, in one line, and keeps its last finite checkpoint."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS

from segrobust.attacks.gradient import ModelError, NotFiniteError
from segrobust.core.errors import RunFailed, UserError
from segrobust.models.adapters.mmseg import unwrapped
from segrobust.models.checkpoint.loading import not_finite


@HOOKS.register_module()
class DivergenceHook(Hook):
    """Stops where the weights are no longer finite, and before a checkpoint of them could replace a good one.

    The loss is looked at in every iteration, after mmengine has fetched it for its log, so nothing waits for the
    device once more; the weights where the loss is not finite, before every checkpoint and before every validation. A
    loss that leaves the weights finite (mixed precision leaves such a step out) is borne ``patience`` times in a row.
    On several processes all stop in the same iteration.

    Args:
        patience: iterations in a row whose loss is not finite while the weights are.

    Raises:
        UserError: before training, where it would go on from a checkpoint that is not finite; no room for a checkpoint.
        RunFailed: tells the iteration, what is not finite, the learning rate and the last finite checkpoint.
    """

    priority = "HIGH"  # after the loss was logged; before EMA, checkpoints and whatever else uses the weights

    def __init__(self, patience: int = 20) -> None:
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 0:
            raise UserError(f"DivergenceHook: expected patience to be an integer >= 0, got {patience!r}")
        self.patience = patience
        self.in_a_row = 0
        self.training = False

    def before_train(self, runner: Any) -> None:
        self.training = True

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        if broken := not_finite(checkpoint.get("state_dict", {})):
            raise UserError(f"{runner._load_from or 'the last checkpoint'}: {broken[0]} holds NaN or infinity; the "
                            "training that wrote it diverged: go on from an earlier checkpoint")  # fmt: skip

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        terms = _not_finite(outputs or {})
        if _anywhere(runner, bool(terms)):
            self.in_a_row += 1
            reason = terms or "the loss of another process is not finite"
            if _anywhere(runner, bool(_broken(runner))) or self.in_a_row > self.patience:
                raise stopped(runner, reason)
            if self.in_a_row == 1:
                runner.logger.warning(f"iteration {runner.iter + 1}: {reason}; the weights are still finite")
        else:
            self.in_a_row = 0
        if _is_saving(runner):
            self._check_weights(runner)
            _check_space(runner)

    def after_train_epoch(self, runner: Any) -> None:
        self._check_weights(runner, done=1)

    def before_val_epoch(self, runner: Any) -> None:
        if self.training:  # a Runner can validate alone, too
            self._check_weights(runner, done=1)

    def _check_weights(self, runner: Any, done: int = 0) -> None:
        broken = _broken(runner)
        if _anywhere(runner, bool(broken)):
            name = broken[0] if broken else "a tensor of another process"
            raise stopped(runner, f"the weights are not finite ({name})", done)


def _broken(runner: Any) -> list[str]:
    return not_finite(unwrapped(runner.model).state_dict())


def stopped(runner: Any, reason: str, done: int = 0) -> RunFailed:
    """The error of a training that diverged; ``done`` is 1 where the runner has counted the iteration already."""
    rates = ", ".join(f"{rate[0]:g}" for rate in runner.optim_wrapper.get_lr().values())
    last = runner.message_hub.runtime_info.get("last_ckpt")
    if last and Path(last).exists():
        advice = (f"the last finite checkpoint is {last}; start from it with a smaller learning rate: --cfg-options "
                  f"load_from={last} optim_wrapper.optimizer.lr=...")  # fmt: skip
    else:
        advice = "no checkpoint had been written; lower optim_wrapper.optimizer.lr"
    return RunFailed(f"training diverged in iteration {runner.iter + 1 - done}: {reason}, at learning rate {rates}; "
                     f"{advice}")  # fmt: skip


@contextmanager
def training_errors(runner: Any) -> Iterator[None]:
    """Around ``runner.train()``: what an attack in training finds wrong with the model.

    Raises:
        RunFailed: instead of the attack's ``ModelError``.
    """
    try:
        yield
    except NotFiniteError as error:
        validating = runner.message_hub.runtime_info.get("loop_stage") == "val"
        raise stopped(runner, str(error), done=int(validating)) from error
    except ModelError as error:
        raise RunFailed(f"training stopped after {runner.iter} iterations: {error}") from error


def _not_finite(outputs: dict[str, Any]) -> str:
    """The terms of the loss that are no finite numbers, in words; the sum is asked first, and mostly alone."""
    if "loss" in outputs and math.isfinite(_number(outputs["loss"])):
        return ""
    values = {name: _number(value) for name, value in outputs.items()}
    return ", ".join(f"{name} is {value}" for name, value in values.items() if not math.isfinite(value))


def _number(value: Any) -> float:
    return float(value.detach()) if isinstance(value, torch.Tensor) else float(value)


def _anywhere(runner: Any, here: bool) -> bool:
    """Whether it holds on any of the processes, which all ask."""
    if runner.world_size == 1:
        return here
    flag = torch.tensor(float(here))
    all_reduce(flag, "max")
    return bool(flag)


def _savers(runner: Any) -> list[CheckpointHook]:
    return [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]


def _is_saving(runner: Any) -> bool:
    """Whether mmengine will write a checkpoint after this iteration, for which it first removes an old one."""
    return any(
        hook.every_n_train_iters(runner, hook.interval, hook.save_begin)
        or (hook.save_last and hook.is_last_train_iter(runner))
        for hook in _savers(runner)
        if not hook.by_epoch
    )


def _check_space(runner: Any) -> None:
    """Stop while the last checkpoint is still there: mmengine would remove it and then find no room for the next."""
    last = Path(runner.message_hub.runtime_info.get("last_ckpt") or "")
    size = last.stat().st_size if last.is_file() else 0
    full = [hook for hook in _savers(runner) if 0 < hook.max_keep_ckpts == len(hook.keep_ckpt_ids)]
    room = shutil.disk_usage(runner.work_dir).free + (size if full else 0)
    if _anywhere(runner, room < size):
        raise UserError(f"training stopped after {runner.iter + 1} iterations: no room for another checkpoint of "
                        f"{size / 1e6:.0f} MB beside {last}; make room and go on with --resume")  # fmt: skip
