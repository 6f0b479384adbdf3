"""What a check is, what it may say, and what all verdicts together make of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from segrobust.core.rows import ATTACK, UNIVERSAL

PASS, INFO, SKIPPED, WARN, FAIL = "pass", "info", "skipped", "warn", "fail"
LEVELS = (PASS, INFO, SKIPPED, WARN, FAIL)

VERIFIED, WITH_WARNINGS, NOT_TRUSTWORTHY = "verified", "with warnings", "not trustworthy"
NOISE = 0.5  # points that two runs of the same attack may differ by
FOLLOWING = (ATTACK, UNIVERSAL)  # the studies that follow a gradient
INCOMPLETE = "incomplete"  # there are no verdicts, or none that this version reads


@dataclass(frozen=True)
class Verdict:
    """The outcome of one check.

    level: one of ``LEVELS``.
    evidence: what was seen, in one line with its numbers.
    remedy: what to do about it, in one line; empty unless the level is warn or fail.
    numbers: the evidence as JSON numbers and texts, for programs.
    open: what an essential check looks for is not known, since it could not be made.
    """

    level: str
    evidence: str
    remedy: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    open: bool = False


def verdict(level: str, evidence: str, remedy: str = "", **numbers: Any) -> Verdict:
    """A verdict that keeps its remedy only where there is something to remedy."""
    return Verdict(level, evidence, remedy if level in (WARN, FAIL) else "", _plain(numbers))


def graded(value: float, warn: float = math.inf, fail: float = math.inf) -> str:
    """The level of a value that should be small: fail or warn above its threshold; NaN, which hides anything, fails."""
    if math.isnan(value) or value > fail:
        return FAIL
    return WARN if value > warn else PASS


class Skip(Exception):
    """Raised by a check that cannot be made on this run; its text is the reason."""


class NotApplicable(Skip):
    """Raised by a check that has nothing to look for in this run, so that leaving it out leaves nothing open."""


@dataclass(frozen=True)
class Check:
    """One check.

    name: what is right when it passes, and what the check is called everywhere.
    run: from the run's :class:`segrobust.checks.context.Context` to a :class:`Verdict`; may raise :class:`Skip`.
    unfinished: can be made on a run whose attack failed, from model and images alone.
    essential: a run is never verified without it.
    studies: has something to look for only in a run that has one of these; none: in any.
    """

    name: str
    run: Callable[..., Verdict]
    unfinished: bool = False
    essential: bool = False
    studies: tuple[str, ...] = ()

    def skipped(self, reason: str) -> Verdict:
        """That it could not be made, which an essential check leaves open."""
        return Verdict(SKIPPED, reason, open=self.essential)


def trust_of(checks: Iterable[Mapping[str, Any]]) -> str:
    """The trust level of a run from its checks' ``verdict`` and ``open``: that of the worst verdict.

    What was skipped neither proves nor disproves anything, but a run without an essential check is not verified.
    """
    checks = list(checks)
    if not checks:
        return INCOMPLETE
    worst = max((check["verdict"] for check in checks), key=LEVELS.index)
    unsure = worst == WARN or any(check["open"] for check in checks)
    return NOT_TRUSTWORTHY if worst == FAIL else WITH_WARNINGS if unsure else VERIFIED


def _plain(value: Any) -> Any:
    """JSON values: floats to six digits, what is not finite as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    number = float(value)
    if number.is_integer():
        return int(number)
    return float(f"{number:.6g}") if math.isfinite(number) else str(number)
