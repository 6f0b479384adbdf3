"""Are two runs of an attack equal, where none may be equal to itself?

Sums in another order change a gradient's last digits, and a step along its sign then moves the pixels without much
gradient by a whole step to the other side: no largest difference tells this from another attack. It is few pixels
though: runs that should be equal are compared by the mean difference of their images, with repeats of themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from segrobust.checks.context import Context
from segrobust.checks.probe import probe

FACTOR = 3.0  # times what repeats differ by, before a difference counts
LEAST = 1e-3  # of the perturbation; less does not count where repeats differ: a few of them may be alike by chance
HIDES = 0.05  # of the perturbation; where repeats differ by more, they hide too much


def forwards_repeat(context: Context) -> bool:
    """Whether a forward gives the same bits again."""
    return not probe(context).repeated.largest


def attacks_repeat(context: Context) -> bool:
    """Whether an attack does."""
    return context.repeatable and forwards_repeat(context)


@dataclass(frozen=True)
class Apart:
    """Mean difference of attacked images, as a part of the mean perturbation.

    between: of the two runs; the least of every repeat of one and every repeat of the other.
    within: of repeats of the same run, the largest; 0 where the attack repeats.
    differs: the runs do, by more than their repeats explain.
    """

    between: float = 0.0
    within: float = 0.0
    differs: bool = False

    @property
    def hidden(self) -> bool:
        """Whether repeats differ so much that the two runs might as well."""
        return not self.differs and self.within > HIDES

    @property
    def text(self) -> str:
        return (
            f"{100 * self.between:.2g} % of its perturbation between the two, {100 * self.within:.2g} % between "
            f"repeats of the same, {FACTOR:g} times as much would count"
        )


def apart(runs: tuple[Callable[[], Tensor], Callable[[], Tensor]], clean: Tensor, repeats: bool) -> Apart:
    """How far two runs end apart; each is repeated only where their images are not the same bits.

    Args:
        runs: each gives attacked images ``[N, 3, H, W]``.
        repeats: attacks are known to, so that any difference counts, unless a repeat shows one too.
    """
    one, other = ([run()] for run in runs)
    if one[0].equal(other[0]):
        return Apart()
    for seen, run in zip((one, other), runs, strict=True):
        seen.append(run())
    scale = max(_mean(one[0], clean), 1e-12)
    within = max(_mean(*seen) for seen in (one, other)) / scale
    between = min(_mean(first, second) for first in one for second in other) / scale
    least = 0.0 if repeats and not within else LEAST
    return Apart(between, within, between > max(FACTOR * within, least))


def _mean(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).abs().mean())
