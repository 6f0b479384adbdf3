"""What the checks look at: a run's model, rows and settings, and a small fixed part of its images."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from segrobust.analysis.broken import shares_of
from segrobust.analysis.summary import CLEAN, Record
from segrobust.attacks.base import Attack, AttackResult
from segrobust.attacks.registry import build_attack
from segrobust.attacks.segmentation import Segmentation
from segrobust.attacks.task import Task
from segrobust.checks.base import Skip
from segrobust.checks.probe import Probe, probe
from segrobust.checks.trace import Trace, percent_at_goal, trace
from segrobust.commands.pictures import strongest
from segrobust.core.errors import UserError
from segrobust.core.files import read_lines
from segrobust.core.rows import Row
from segrobust.core.seeds import image_seeds
from segrobust.datasets.source import evenly_spaced
from segrobust.models.checkpoint.noted import noted_classes
from segrobust.models.expectation import Expectation, drawing
from segrobust.studies.jobs import Job
from segrobust.studies.outcomes import Group

if TYPE_CHECKING:
    from segrobust.models.segmenter import Segmenter
    from segrobust.runs.executor import Evaluation

IMAGES = 16  # of the run: whole batches, evenly spaced
MOST_IMAGES = 32  # where a batch alone has more than that
FALLBACK = {"type": "CEPGD"}


class Context:
    """A run as the checks see it; what is dear is computed once, when a check first asks for it.

    Args:
        evaluation: the run. Its rows are complete unless ``error`` says why they are not.
        summary: the records of ``summary.json``; none where the run failed.
        full: look longer where a check can.
        declared: the model's published score, ``{"mIoU": percent, "images": number}``; None where there is none.
        files: path by the name of the identity's field that holds its sha256.
        original: the model that the run's identity describes, where the run attacks another form of it.
        altered: a process found its models changed after its work.
        error: what an attack of the run failed with.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        summary: Sequence[Record] = (),
        *,
        full: bool = False,
        declared: Mapping[str, Any] | None = None,
        files: Mapping[str, Path] | None = None,
        original: Segmenter | None = None,
        altered: bool = False,
        error: Exception | None = None,
    ) -> None:
        self.evaluation, self.summary, self.full, self.error = evaluation, summary, full, error
        self.declared, self.files, self.altered = declared, files or {}, altered
        self.model, self.source = evaluation.model, evaluation.source
        self.original = evaluation.model if original is None else original
        self.jobs, self.folder = evaluation.jobs, evaluation.folder
        self.run: dict[str, Any] = self.folder.read_json("run.json")
        self._singles: dict[int, Group] = {}
        self._traces: dict[tuple[int, int], list[Trace]] = {}

    @property
    def identity(self) -> dict[str, Any]:
        return self.run["identity"]

    @property
    def void(self) -> int:
        return self.source.ignore_index

    @property
    def task(self) -> Task:
        return Segmentation(self.source.num_classes, self.void)

    # --- images

    @cached_property
    def batches(self) -> list[range]:
        """The run's own batches that the checks use."""
        batches = self.evaluation.batches()
        count = math.ceil(IMAGES / self.evaluation.batch_size)
        return [batches[at][:MOST_IMAGES] for at in evenly_spaced(len(batches), count)]

    @cached_property
    def groups(self) -> list[Group]:
        """The images of ``batches``, grouped as the run groups them: those of one batch and size together."""
        return [one for batch in self.batches for one in self.evaluation.groups({i: self.source[i] for i in batch})]

    @property
    def ids(self) -> list[int]:
        return [image for batch in self.batches for image in batch]

    def singles(self, count: int, judged: bool = False) -> list[Group]:
        """``count`` of the images, one in each group: recordings then belong to one image, whatever the attack does.

        Args:
            judged: only images with a labelled pixel, which a run that failed cannot tell.
        """
        ids = self.judged_ids if judged else self.ids
        chosen = [ids[at] for at in evenly_spaced(len(ids), count)]
        for image in chosen:
            if image not in self._singles:
                self._singles[image] = self.evaluation.group([image], [self.source[image]])
        return [self._singles[image] for image in chosen]

    @cached_property
    def probe(self) -> Probe:
        """What five passes over the groups show."""
        return probe(self)

    # --- attacks

    @cached_property
    def strongest(self) -> tuple[Job, float | None] | None:
        """The run's strongest attack at its middle radius, as the report's pictures choose it."""
        return strongest(self.jobs, self.summary) if self.summary else None

    @cached_property
    def own(self) -> Attack:
        """That attack; in a run without results its first one, in a run of controls alone a plain PGD."""
        if self.strongest:
            return self.strongest[0].attack
        real = [job.attack for job in self.jobs if job.attack and not job.attack.control]
        return real[0] if real else build_attack(FALLBACK)

    def white_box(self, group: Group, seed: int | None = None) -> nn.Module:
        """The model as the run's attacks see it: itself, or the mean over draws that begin with the group's seed."""
        if self.evaluation.eot == 1:
            return self.model
        mean_of_draws = Expectation(self.model, self.evaluation.eot)
        mean_of_draws.begin(self.seeds(group, seed)[0])
        return mean_of_draws

    def seeds(self, group: Group, seed: int | None = None) -> list[int]:
        """The run's seeds for a group, or those of another ``seed``."""
        return image_seeds(self.evaluation.seed if seed is None else seed, group.ids)

    def call(
        self,
        attack: Attack,
        group: Group,
        model: nn.Module | None = None,
        seed: int | None = None,
        masked: bool = True,
    ) -> AttackResult:
        """Run an attack on a group, on the model itself unless another is given, in float32, behind the run's mask.

        A randomised model draws the same at every start.
        """
        seeds = self.seeds(group, seed)
        with drawing(tuple(seeds), self.evaluation.device):
            return attack(
                self.white_box(group, seed) if model is None else model,
                group.images,
                group.labels,
                task=self.task,
                targets=group.targets if attack.targeted else None,
                seeds=seeds,
                mask=self.evaluation.mask if masked else None,
            )

    def reported(self, attack: Attack, group: Group, images: Tensor) -> list[float]:
        """Percent at the attack's goal of every image, measured as the run measures what it reports."""
        prediction = self.evaluation.measured(images, group)
        return percent_at_goal(self.task, prediction, group.measured(), attack.targeted)

    def shares_under(self, attack: Attack, surrogate: Segmenter | None = None) -> dict[int, float]:
        """Percent at the goal of every judged image of the subset under an attack on the run's model or, measured on
        that all the same, on a surrogate."""
        found: dict[int, float] = {}
        for group in self.groups:
            images = self.call(attack, group, surrogate).images
            found |= dict(zip(group.ids, self.reported(attack, group, images), strict=True))
        return {image: found[image] for image in self.judged_ids}

    def traces(self, count: int, steps: int) -> list[Trace]:
        """What ``own``, shortened to ``steps``, sees on ``count`` images."""
        if (count, steps) not in self._traces:
            attack = shortened(self.own, steps)
            self._traces[count, steps] = [trace(self, attack, group) for group in self.singles(count, judged=True)]
        return self._traces[count, steps]

    @cached_property
    def noted_names(self) -> list[str]:
        """The classes noted in the checkpoint; none where there are not as many as in the data.

        Those of the model need no look here: a run under other names does not begin.
        """
        path = self.files.get("checkpoint_sha256")
        try:
            noted = noted_classes(path) if path else ()
        except UserError:  # a file that only --trust-checkpoint reads
            return []
        return list(noted) if len(noted) == self.source.num_classes else []

    # --- rows

    @cached_property
    def rows(self) -> list[Row]:
        """The rows of the attacks' answers, without an ensemble's further candidates."""
        return [row for row in self.all_rows if not row.get("candidate")]

    @cached_property
    def all_rows(self) -> list[Row]:
        """Every row of the run."""
        return self.folder.rows()

    @cached_property
    def raw(self) -> dict[str, list[dict[str, Any]]]:
        """Every line of every row file as it stands there, by the name of the file."""
        return {path.name: read_lines(path)[0] for path in sorted(self.folder.path.glob("rows/rank-*.jsonl"))}

    @cached_property
    def shares(self) -> dict[tuple[str, str | None, float | None], dict[int, float]]:
        """Percent of each image's pixels at the goal, ``{(attack, norm, eps): {image: percent}}``."""
        return shares_of(self.rows)

    @cached_property
    def attempts(self) -> dict[str, Job]:
        """The jobs by label whose attacks look for something: neither the clean images nor controls."""
        return {job.label: job for job in self.jobs if job.attack and not job.attack.control}

    @cached_property
    def radius(self) -> tuple[str, float]:
        """Norm and radius at which attacks are compared: the middle one of the strongest attack's norm."""
        norm = self.own.norm
        radii = sorted({key[2] for key in self.shares if key[0] in self.attempts and key[1] == norm and key[2]})
        if not radii:
            raise Skip("no attack of the run has a result at a radius")
        return norm, radii[len(radii) // 2]

    @cached_property
    def judged_ids(self) -> list[int]:
        """The images of the subset that have a labelled pixel."""
        judged = self.shares.get((CLEAN, None, None), {})
        if not judged.keys() & set(self.ids):
            raise Skip("no image of the subset has a labelled pixel")
        return [image for image in self.ids if image in judged]

    def at_radius(self) -> dict[str, dict[int, float]]:
        """Percent at the goal, per image of the subset, of each attack of the run at ``radius``."""
        norm, eps = self.radius
        chosen = set(self.ids)
        return {
            name: {image: share for image, share in shares.items() if image in chosen}
            for (name, of_norm, at), shares in self.shares.items()
            if name in self.attempts and (of_norm, at) == (norm, eps)
        }


def shortened(attack: Attack, steps: int) -> Attack:
    """The same attack with ``steps`` steps or the next possible number, where it has such a number and more of them."""
    own = getattr(attack, "steps", 0)
    for fewer in (steps, 2 * steps, 4 * steps, 8 * steps):
        if own is None or fewer < own:  # None: of an ensemble that leaves it to its members
            with contextlib.suppress(UserError):  # an ensemble needs a step for each member
                return dataclasses.replace(attack, steps=fewer)
    return attack


def saw_another(context: Context) -> str:
    """Which other model the run's attacks saw, in words; empty where it was this one."""
    other = context.identity.get("surrogate")
    return f"the run's attacks saw {other['model']}, not this model" if other else ""


def refuse_transfer(context: Context) -> None:
    """Skip a check that runs the run's attacks again, where these saw another model."""
    if reason := saw_another(context):
        raise Skip(reason)


def mean(values: Any) -> float:
    """Mean of a collection of numbers, or of a mapping's; NaN for none."""
    numbers = list(values.values()) if isinstance(values, Mapping) else list(values)
    return float(np.mean(numbers)) if numbers else math.nan
