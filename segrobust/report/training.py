"""A training's folder as the report sees it: numbers in order, log, config, checkpoints and pictures."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from segrobust.core.errors import UserError
from segrobust.report.runs import run_labels
from segrobust.report.training_config import TrainingConfig, config_of
from segrobust.report.training_log import Log, read_log
from segrobust.report.training_scalars import SCALARS, Line, Start, joined, starts_of

CLEAN, ROBUST, DISTANCE = "mIoU", "robust/mIoU", "min_norm/median"
_CHECKPOINT = re.compile(r"(best_)?.*?(iter|epoch)_(\d{1,15})\.pth")


@dataclass(frozen=True)
class Training:
    """One training; of some of its ``starts`` nothing may be left but the time that they took."""

    label: str
    path: Path
    starts: list[Start]
    log: Log
    config: TrainingConfig

    @cached_property
    def lines(self) -> list[Line]:
        """All that was logged, by iteration."""
        return joined(self.starts)

    @cached_property
    def validations(self) -> list[Line]:
        return [line for line in self.lines if line.validation]

    @property
    def iterations(self) -> int:
        """How far it came."""
        return self.lines[-1].iteration

    def points(self, name: str, validation: bool = False) -> list[tuple[int, float]]:
        """(iteration, value) of a number, where it was logged and is finite."""
        lines = self.validations if validation else [line for line in self.lines if not line.validation]
        found = ((line.iteration, line.values.get(name, math.nan)) for line in lines)
        return [(iteration, value) for iteration, value in found if math.isfinite(value)]

    @cached_property
    def judged_by(self) -> str:
        """The score that says which checkpoint is the best: a robust one where there is any."""
        known = {name for line in self.validations for name in line.values}
        return next((name for name in (ROBUST, DISTANCE) if name in known), CLEAN)

    @cached_property
    def best(self) -> Line | None:
        """The validation with the best of these scores, the first of equals; None where nothing was validated."""
        found = [line for line in self.validations if not math.isnan(line.values.get(self.judged_by, math.nan))]
        return max(found, key=lambda line: line.values[self.judged_by], default=None)

    @cached_property
    def checkpoints(self) -> dict[tuple[str, int], str]:
        """Names by what they were written after, ``("iter", 500)`` or ``("epoch", 3)``; ``best_...`` before others."""
        found: dict[tuple[str, int], str] = {}
        for path in sorted(self.path.glob("*.pth"), key=lambda path: path.name.startswith("best_")):
            if name := _CHECKPOINT.fullmatch(path.name):
                found[name[2], int(name[3])] = path.name
        return found

    def checkpoint_of(self, line: Line) -> str | None:
        """The checkpoint with the weights of a validation; None where none was kept."""
        by_epoch = line.step < line.iteration and self.checkpoints.get(("epoch", line.step))
        return by_epoch or self.checkpoints.get(("iter", line.iteration))


def trainings_alone(folders: Sequence[Path]) -> bool:
    """Whether all folders are those of trainings, or none; UserError: some are and others are evaluations."""
    kinds = {folder: not (folder / "run.json").is_file() for folder in folders}
    if len(set(kinds.values())) > 1:
        training, run = (next(folder for folder in folders if kinds[folder] is kind) for kind in (True, False))
        raise UserError(
            f"{str(training)!r} is a training and {str(run)!r} an evaluation; a report is about trainings or about "
            "evaluations: name one kind"
        )
    return all(kinds.values())


def load_trainings(paths: Sequence[Path]) -> list[Training]:
    """Read the folders of trainings to compare, called by the names that tell them apart.

    Raises:
        UserError: a folder without a line of numbers, or a file that cannot be read.
    """
    return [_load(path, label) for path, label in zip(paths, short_labels(run_labels(paths)), strict=True)]


def short_labels(labels: Sequence[str]) -> list[str]:
    """Labels without what all of them begin and end with, in whole words: configs' names are long and much alike."""
    words = [re.findall(r"[^-_]+[-_]?", label) for label in labels]
    if len(labels) < 2 or not all(words):
        return list(labels)
    shortest = min(map(len, words))
    first = next((n for n in range(shortest) if len({one[n] for one in words}) > 1), shortest)
    last = next((n for n in range(shortest - first) if len({one[-1 - n] for one in words}) > 1), shortest - first)
    short = ["".join(one[first : len(one) - last]).rstrip("-_") for one in words]
    return short if all(short) and len(set(short)) == len(short) else list(labels)


def _load(path: Path, label: str) -> Training:
    starts = starts_of(path)
    if not starts:
        raise UserError(f"{path}: the training has logged no numbers yet (nothing in */{SCALARS}); wait for its first "
                        "lines")  # fmt: skip
    return Training(label, path, starts, read_log(starts), config_of(path, starts[-1].folder))
