"""What the page says of a training first: its best checkpoint, whether it overfitted, and what it cost."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

from segrobust.report.runs import shorten_paths
from segrobust.report.texts import count, duration, percent
from segrobust.report.training import CLEAN, DISTANCE, ROBUST, Training
from segrobust.report.training_scalars import Line

FALL = 0.05  # of the best robust score, from which on its fall counts as overfitting
RULE = (
    f"the last {ROBUST} is more than {FALL:.0%} of the best one below it, while the training loss (its mean since the "
    "validation before) is lower than it was at the best"
)


@dataclass(frozen=True)
class Overfitting:
    """Robust overfitting (Rice et al., 2020): the best and the last validation, and the training losses before them."""

    best: Line
    last: Line
    losses: tuple[float, float]


def overfitting(training: Training) -> Overfitting | None:
    """Whether the training overfitted, by ``RULE``."""
    scored = [line for line in training.validations if math.isfinite(line.values.get(ROBUST, math.nan))]
    best = max(scored, key=lambda line: line.values[ROBUST], default=None)
    if best is None or scored[-1].values[ROBUST] >= (1 - FALL) * best.values[ROBUST]:
        return None
    losses = _loss_before(training, best), _loss_before(training, scored[-1])
    return Overfitting(best, scored[-1], losses) if losses[1] < losses[0] else None


def _loss_before(training: Training, line: Line) -> float:
    """The mean training loss since the validation before; NaN where none was logged."""
    before = max((one.iteration for one in training.validations if one.iteration < line.iteration), default=0)
    losses = [value for at, value in training.points("loss") if before < at <= line.iteration]
    return fmean(losses) if losses else math.nan


def training_verdict(training: Training) -> list[str]:
    """Sentences on the best checkpoint and its scores."""
    best = training.best
    if best is None:
        return ["No validation yet: there is no best checkpoint."]
    name = training.checkpoint_of(best)
    kept = name or "no checkpoint was kept (save_best in CheckpointHook keeps it)"
    last = training.validations[-1]
    said = [f"Best by {training.judged_by}, after {count(best.iteration)} iterations: {kept}"]
    said.append(f"There: {scores_in_words(best)}")
    if last.iteration != best.iteration:
        said.append(f"The last validation, after {count(last.iteration)} iterations: {scores_in_words(last)}")
    if training.judged_by == CLEAN:
        said.append("No robust validation: RobustValidationHook in custom_hooks measures what an attack leaves")
    return [f"{one}." for one in said]


def scores_in_words(line: Line) -> str:
    """``clean 54.46 % mIoU, 88.90 % aAcc; under attack ...``."""
    values, said = line.values, []
    for prefix, title in (("", "clean"), ("robust/", "under attack")):
        found = [f"{percent(values[prefix + name])} % {name}" for name in (CLEAN, "aAcc") if prefix + name in values]
        said += [f"{title} {', '.join(found)}"] if found else []
    if DISTANCE in values:
        said.append(f"median minimum norm {values[DISTANCE]:.3g}")
    return "; ".join(said) or "no scores"


def next_command(training: Training) -> tuple[str, ...]:
    """How to evaluate the best checkpoint that was kept, word by word; empty where there is none."""
    kept = [line for line in training.validations if training.checkpoint_of(line) and training.config.name]
    scores = [(line.values.get(training.judged_by, -math.inf), line) for line in kept]
    scored = [(score, line) for score, line in scores if not math.isnan(score)]
    _, best = max(scored, key=lambda one: one[0], default=(None, None))
    if best is None:
        return ()
    folder = training.path.resolve().name
    words = ["segrobust", "evaluate", f"{folder}/{training.config.name}", f"{folder}/{training.checkpoint_of(best)}"]
    words += ["--attack", "standard", *_radius(training)]
    return tuple(shlex.quote(word) for word in words)


def _radius(training: Training) -> Iterator[str]:
    """``--eps`` of the training's attack, where it is a radius as evaluation takes it."""
    attack = training.config.attack
    eps = attack.get("eps", attack.get("eps_max")) if isinstance(attack, dict) else None
    if isinstance(eps, str | float) and attack.get("norm", "Linf") == "Linf":
        yield from ("--eps", shorten_paths(str(eps)))


def training_costs(training: Training) -> dict[str, str]:
    """What the training took, by what it is; only what is known."""
    log, times, attacks = training.log, dict(training.points("time")), dict(training.points("adv_time"))
    passes = [value for _, value in training.points("adv_passes")]
    found = {"iterations": count(training.iterations)}
    if len(training.starts) > 1:
        found["starts"] = count(len(training.starts))
    if log.seconds:
        found["time, all starts"] = duration(log.seconds)
    if times:
        found["seconds per iteration"] = f"{fmean(times.values()):.2f}"
    if attacks and (whole := sum(times.values())) > 0:  # lines without an attack are of iterations without one
        found["share of the attack in them"] = f"{sum(attacks.get(at, 0.0) for at in times) / whole:.0%}"
    if passes:
        found["passes of the attack per image and iteration"] = f"{fmean(passes):.1f}"
    if log.seconds and log.validating:
        found["share of robust validation in the time"] = f"{log.validating / log.seconds:.1%}"
    if log.skipped:
        found["robust validations skipped for their time"] = count(log.skipped)
    return found
