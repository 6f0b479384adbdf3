"""The run as checks see it: its conditions, rows and attacks, and a small fixed part of its images."""

from __future__ import annotations

import contextlib
import functools
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from segrobust.analysis.broken import shares_of
from segrobust.analysis.summary import Record
from segrobust.attacks.base import Attack
from segrobust.attacks.registry import build_attack
from segrobust.checks.verdicts import Skip
from segrobust.core.errors import UserError
from segrobust.core.files import read_lines
from segrobust.core.rows import ATTACK, Condition, Row
from segrobust.datasets.source import evenly_spaced
from segrobust.runs.executor import Executor
from segrobust.runs.repeatability import FIELD, REPEATABLE
from segrobust.studies.attack import AttackStudy, strongest
from segrobust.studies.bench import Group
from segrobust.studies.clean import Clean

IMAGES = 16  # of the run: whole batches, evenly spaced
MOST_IMAGES = 32  # where a batch alone has more than that
FEWEST = 16  # whose interval says something about others: rare classes are missing on fewer


class Context:
    """A finished run; what is dear is computed once, when a check first asks for it.

    Args:
        executor: of this start. The run may hold conditions of earlier starts too; its rows are complete unless
            ``error`` says why they are not.
        summary: the records of ``summary.json``; none where the run failed.
        declared: the model's published score, ``{"mIoU": percent, "images": number}``; None where there is none.
        files: path by the name of the identity's field that holds its sha256.
        altered: a process found its models changed after its work.
        error: what an attack of the run failed with.
    """

    def __init__(
        self,
        executor: Executor,
        summary: Sequence[Record] = (),
        *,
        declared: Mapping[str, Any] | None = None,
        files: Mapping[str, Path] | None = None,
        altered: bool = False,
        error: Exception | None = None,
    ) -> None:
        self.executor, self.summary, self.error = executor, summary, error
        self.declared, self.files, self.altered = declared, files or {}, altered
        self.bench, self.folder = executor.bench, executor.folder
        self.model, self.source = self.bench.model, self.bench.source
        self.run: dict[str, Any] = self.folder.read_json("run.json")
        self.kept: dict[tuple, Any] = {}

    @property
    def identity(self) -> dict[str, Any]:
        return self.run["identity"]

    @property
    def repeatable(self) -> bool:
        """Whether an attack that is made again gives the same images, as far as the probe before the run has seen."""
        return self.identity.get(FIELD, REPEATABLE) == REPEATABLE

    @property
    def void(self) -> int:
        return self.source.ignore_index

    # --- images

    @cached_property
    def batches(self) -> list[range]:
        """The run's own batches that the checks use: of a finished run those with an image that is judged, if any."""
        judged: Collection[int] = ()
        with contextlib.suppress(UserError):  # rows that are damaged are for a check to tell
            judged = () if self.error else self.shares.get(self.clean, {}).keys()
        return chosen_batches(self.executor, judged)

    @cached_property
    def groups(self) -> list[Group]:
        """The images of ``batches``, grouped as the run groups them: those of one batch and size together."""
        return [one for batch in self.batches for one in self.bench.groups({i: self.source[i] for i in batch})]

    @property
    def ids(self) -> list[int]:
        return [image for batch in self.batches for image in batch]

    def singles(self, count: int, judged: bool = False) -> list[Group]:
        """``count`` of the images, one in each group: recordings then belong to one image, whatever the attack does.

        Args:
            judged: only images with a pixel that counts, which a run that failed cannot tell.
        """
        ids = self.judged_ids if judged else self.ids
        return [_single(self, ids[at]) for at in evenly_spaced(len(ids), count)]

    # --- conditions and rows

    @cached_property
    def conditions(self) -> list[Condition]:
        """Those of this start, and of earlier ones those that have a row for every image."""
        lines = [line for lines in self.raw.values() for line in lines]
        counts = Counter(condition for condition, _ in {(line["condition"], line["image"]) for line in lines})
        own = {condition for study in self.executor.studies for condition in study.conditions}
        return [one for one in self.folder.conditions() if one in own or counts[one.id] == len(self.source)]

    @cached_property
    def raw(self) -> dict[str, list[dict[str, Any]]]:
        """Every line of every row file as it stands there, by the name of the file."""
        return {path.name: read_lines(path)[0] for path in sorted(self.folder.path.glob("rows/rank-*.jsonl"))}

    @cached_property
    def all_rows(self) -> list[Row]:
        """Every row of the conditions."""
        conditions = set(self.conditions)
        return [row for row in self.folder.rows() if row.condition in conditions]

    @cached_property
    def rows(self) -> list[Row]:
        """Those of the studies' answers, without an ensemble's further candidates."""
        return [row for row in self.all_rows if not row.condition.candidate]

    @cached_property
    def shares(self) -> dict[Condition, dict[int, float]]:
        """Percent of each image's pixels at the goal, ``{condition: {image: percent}}``."""
        return shares_of(self.rows)

    @cached_property
    def attempts(self) -> list[Condition]:
        """The conditions of attacks that look for something: neither controls nor further candidates."""
        return [one for one in self.conditions if one.study == ATTACK and not one.control and not one.candidate]

    @cached_property
    def compared(self) -> list[Condition]:
        """The attempts that are compared with each other: those that saw the model itself, where there are any."""
        return [one for one in self.attempts if not one.surrogate] or self.attempts

    @cached_property
    def searches(self) -> set[str]:
        """Names of the minimum-norm attacks: those with a result that has no radius."""
        return {one.name for one in self.attempts if one.eps is None}

    @cached_property
    def radius(self) -> tuple[str, float]:
        """Norm and radius at which attacks are compared: the middle one of the strongest attack's norm."""
        norm = self.own.norm
        radii = sorted({one.eps for one in self.compared if self.shares.get(one) and one.norm == norm and one.eps})
        if not radii:
            raise Skip("no attack of the run has a result at a radius")
        return norm, radii[len(radii) // 2]

    @property
    def clean(self) -> Condition:
        """That of the images as they are."""
        return Clean.conditions[0]

    @cached_property
    def judged_ids(self) -> list[int]:
        """The images of the subset that have a labelled pixel and, in a targeted run, one with a target."""
        judged = self.shares.get(self.clean, {})
        if not judged.keys() & set(self.ids):
            raise Skip("no image of the subset has a labelled pixel" + " with a target" * bool(self.bench.target))
        return [image for image in self.ids if image in judged]

    def at_radius(self) -> dict[Condition, dict[int, float]]:
        """Percent at the goal, per image of the subset, under each of the ``compared`` attacks at ``radius``."""
        chosen = set(self.ids)
        return {
            one: {image: share for image, share in self.shares[one].items() if image in chosen}
            for one in self.compared
            if self.shares.get(one) and (one.norm, one.eps) == self.radius
        }

    # --- attacks

    @cached_property
    def attacks(self) -> list[AttackStudy]:
        """The run's attacks: those of this start, and those of earlier ones that their conditions tell all about."""
        found = [study for study in self.executor.studies if isinstance(study, AttackStudy)]
        own = {condition for study in found for condition in study.conditions}
        return found + [study for one in self.attempts if one not in own and (study := _described(one))]

    @cached_property
    def strongest(self) -> tuple[AttackStudy, Condition] | None:
        """The run's strongest attack, as the report's pictures choose it; of those that saw the model itself, where
        there are any."""
        if not self.summary:
            return None
        white_box = [study for study in self.attacks if not study.surrogate]
        return strongest(white_box, self.summary) or strongest(self.attacks, self.summary)

    @cached_property
    def own(self) -> Attack:
        """The strongest attack; in a run without results its first one."""
        if self.strongest:
            return self.strongest[0].attack
        real = [study.attack for study in self.attacks if not study.attack.control]
        if not real:
            unknown = "the run's attacks are those of an earlier start, and not known here: name them again"
            raise Skip(unknown if self.attempts else "the run has no attack that tries")
        return real[0]


def chosen_batches(executor: Executor, judged: Collection[int] = ()) -> list[range]:
    """Whole batches of a run, evenly spaced, for checks to look at: those with a judged image, where known."""
    batches = executor.batches()
    batches = [batch for batch in batches if any(image in judged for image in batch)] or batches
    count = math.ceil(IMAGES / executor.batch_size)
    return [batches[at][:MOST_IMAGES] for at in evenly_spaced(len(batches), count)]


def _described(condition: Condition) -> AttackStudy | None:
    """The attack that a condition describes; None where it does not say all, as of a surrogate."""
    radius = {} if condition.eps is None else {"eps": condition.eps}
    try:
        attack = build_attack({**condition.fields, "norm": condition.norm, **radius})
    except UserError:
        return None
    study = AttackStudy(condition.name, attack, (condition.eps,))
    return study if condition in study.conditions else None


def is_single_step(condition: Condition) -> bool:
    """Whether an attack takes one step, which may overshoot and stay behind any other."""
    return condition.fields.get("type") == "FGSM"


def once(look: Callable[..., Any]) -> Callable[..., Any]:
    """Keep what a function finds in a context, for all checks that ask for it."""

    @functools.wraps(look)
    def kept(context: Context, *arguments: Any) -> Any:
        key = (look, *arguments)
        if key not in context.kept:
            context.kept[key] = look(context, *arguments)
        return context.kept[key]

    return kept


@once
def _single(context: Context, image: int) -> Group:
    return context.bench.group([image], [context.source[image]])


def mean(values: Any) -> float:
    """Mean of a collection of numbers, or of a mapping's; NaN for none."""
    numbers = list(values.values()) if isinstance(values, Mapping) else list(values)
    return float(np.mean(numbers)) if numbers else math.nan
