"""A quiet console for a training: a line of progress, a row per validation, warnings; the log file has everything."""

from __future__ import annotations

import io
import logging
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from numbers import Real
from typing import Any

from mmengine.hooks import Hook

from segrobust.core.errors import RunFailed, UserError
from segrobust.hooks.adversarial_training import AdversarialTrainingHook
from segrobust.hooks.free_training import FreeAdversarialTrainingHook
from segrobust.hooks.train_runner import TrainRunner
from segrobust.hooks.validations_before import validations_before
from segrobust.runs.progress import IterationProgress

COLUMNS = {  # of the table of validations, in order, by the names of the scores
    "mIoU": "mIoU",
    "robust/mIoU": "robust mIoU",
    "aAcc": "aAcc",
    "robust/aAcc": "robust aAcc",
    "min_norm/median": "median norm",
    "min_norm/found": "found",
}
ATTACKING = (AdversarialTrainingHook, FreeAdversarialTrainingHook)  # hooks with a radius
JUDGES = ("robust/mIoU", "min_norm/median", "mIoU")  # the first of them that there is says which row is the best
_NOISE = (  # warnings of mmengine and mmseg in every training, about their own insides
    "The prefix is not set in metric class",
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
)


class QuietTrainRunner(TrainRunner):
    """Logs to the console from warnings on; the log file is what it always is."""

    def build_logger(self, *given: Any, **options: Any) -> logging.Logger:
        logger = super().build_logger(*given, **options)
        for handler in _console(logger):
            handler.setLevel(max(handler.level, logging.WARNING))
            handler.addFilter(lambda record: not str(record.msg).startswith(_NOISE))
        return logger

    def load_checkpoint(self, *given: Any, **options: Any) -> Any:
        """What mmengine prints there goes to the log."""
        printed = io.StringIO()
        try:
            with redirect_stdout(printed):
                return super().load_checkpoint(*given, **options)
        finally:
            for line in printed.getvalue().splitlines():
                self.logger.info(line)


def train_quietly(runner: QuietTrainRunner) -> None:
    """``runner.train()`` with a line of progress, a row per validation, and where everything lies."""
    hook = ConsoleHook()
    runner.register_hook(hook)
    try:
        runner.train()
    finally:
        hook.stop(runner)
    if runner.rank == 0:
        for name in ("last", "best"):
            if path := runner.message_hub.runtime_info.get(f"{name}_ckpt"):
                print(f"{name} checkpoint: {path}")
        print(f"report: segrobust report {runner.work_dir}", flush=True)


class ConsoleHook(Hook):
    """One line of progress on the standard error, and on the standard output a row of scores after each validation."""

    priority = "LOWEST"  # after all who measure and keep

    def __init__(self) -> None:
        self.progress: IterationProgress | None = None
        self.norm = "Linf"  # of the radius that the training attacks at
        self.scores: dict[str, float] = {}
        self.columns: list[str] = []
        self.before: list[dict[str, Any]] = []  # validations up to where a resume begins
        self.judge: str | None = None
        self.best = -math.inf
        self.validated = 0

    def before_train(self, runner: Any) -> None:
        if runner.rank == 0:
            print(f"log: {runner.logger.log_file}", flush=True)
            self.before = validations_before(runner, JUDGES)
        self.norm = next((hook.norm for hook in runner.hooks if isinstance(hook, ATTACKING)), self.norm)
        self.validated = runner.iter
        self.progress = IterationProgress(runner.max_iters - runner.iter, show=runner.rank == 0)
        self.progress.__enter__()
        _write_to(runner, sys.stdout)  # the bar's own, which writes above it
        self.progress.begin("training", runner.max_iters, runner.iter)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        self.progress.iterated(_course(runner, self.scores, self.norm))

    def before_val_epoch(self, runner: Any) -> None:
        if self.progress:
            self.progress.running("validating")

    def after_val_epoch(self, runner: Any, metrics: dict[str, Any] | None = None) -> None:
        found = {name: value for name, value in (metrics or {}).items() if isinstance(value, Real)}
        self.scores |= found
        if self.progress is None or runner.rank != 0:
            return
        if not self.columns:
            self.columns = [name for name in COLUMNS if name in metrics] or list(found)
            titles = [COLUMNS.get(name, name) for name in self.columns]
            print("  ".join(["iteration", "    loss", *(f"{title:>8}" for title in titles)]))
            self.judge = next((name for name in JUDGES if name in self.columns), None)
            before = [scores.get(self.judge) for scores in self.before]
            self.best = max([one for one in before if isinstance(one, Real) and one == one], default=-math.inf)
        print(self._row(runner, found), flush=True)
        self.validated = runner.iter

    def _row(self, runner: Any, found: dict[str, float]) -> str:
        """Iteration, mean loss since the validation before, scores; which are the best so far."""
        cells = [f"{runner.iter:>9}", _loss(runner, runner.iter - self.validated)]
        for name in self.columns:
            width = max(8, len(COLUMNS.get(name, name)))
            cells.append(f"{found[name]:>{width}.2f}" if name in found else f"{'-':>{width}}")
        if best := found.get(self.judge, -math.inf) > self.best:
            self.best = found[self.judge]
        return "  ".join(cells) + ("  best" if best else "")

    def stop(self, runner: Any) -> None:
        """Take the bar away; what comes is written as before."""
        if self.progress:
            self.progress.__exit__()
            self.progress = None
            _write_to(runner, sys.stdout)


@contextmanager
def failure_in_log(runner: Any) -> Iterator[None]:
    """What ends a training is told in its log file too, where there is room; on the console it is the last line."""
    try:
        yield
    except (RunFailed, UserError) as error:
        record = runner.logger.makeRecord("mmengine", logging.WARNING, "", 0, str(error), (), None)
        for handler in runner.logger.handlers:
            if isinstance(handler, logging.FileHandler):
                with suppress(OSError):
                    handler.handle(record)
        raise


def _course(runner: Any, scores: Mapping[str, float], norm: str) -> str:
    """``loss 0.744, lr 0.001, eps 2.5/255, mIoU 54.5, robust 43.7``: what the training is doing now."""
    latest = {name: runner.message_hub.log_scalars.get(f"train/{name}") for name in ("loss", "adv_eps")}
    said = [f"loss {latest['loss'].current():.3g}"] if latest["loss"] else []
    said += [f"lr {next(iter(runner.optim_wrapper.get_lr().values()))[0]:.2g}"]
    if latest["adv_eps"]:
        eps = latest["adv_eps"].current()
        said.append(f"eps {255 * eps:.3g}/255" if norm == "Linf" else f"eps {eps:.3g}")
    names = {"mIoU": "mIoU", "robust/mIoU": "robust", "min_norm/median": "median norm"}
    return ", ".join([*said, *(f"{title} {scores[name]:.1f}" for name, title in names.items() if name in scores)])


def _loss(runner: Any, iterations: int) -> str:
    losses = runner.message_hub.log_scalars.get("train/loss")
    return f"{losses.mean(iterations):>8.4f}" if losses and iterations > 0 else f"{'-':>8}"


def _console(logger: logging.Logger) -> list[logging.StreamHandler]:
    return [handler for handler in logger.handlers if type(handler) is logging.StreamHandler]


def _write_to(runner: Any, stream: Any) -> None:
    for handler in _console(runner.logger):
        handler.setStream(stream)
