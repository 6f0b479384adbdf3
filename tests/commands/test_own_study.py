"""A study of the user's own that does not keep to its conditions is told, before a row of it is stored."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from segrobust.commands.evaluation import evaluate
from segrobust.core.errors import UserError
from segrobust.core.rows import Condition
from segrobust.studies.base import Perturbed, Study
from tests.runs.toy_run import ToySource, lines, toy_model

DARK = Condition("darkened", "darkened", fields={"light": 0.5})


@dataclass(frozen=True, eq=False)
class Darkened(Study):
    """Half the light."""

    conditions: tuple = (DARK,)
    shown: tuple = (DARK,)
    extra: int = 1
    passes = 1

    def perturbed(self, bench, group):
        for one in self.shown:
            yield Perturbed(one, group.images / 2, [{}] * (self.extra * len(group.ids)))


def run(folder, *studies):
    return evaluate(toy_model(), ToySource(4), studies=studies, work_dir=folder, checks=False, pictures=False)


def test_without_passes_a_row_has_the_forward_that_is_reported(tmp_path):
    (record,) = (one for one in run(tmp_path, Darkened()) if one["study"] == "darkened")
    assert (record["forwards"], record["backwards"]) == (1, 0)


@pytest.mark.parametrize(
    ("studies", "told"),
    [
        ([Darkened], "studies: expected a Study of segrobust.studies.base, got <class"),
        ([Darkened(), Darkened()], "two studies have the condition darkened: what tells them apart belongs into"),
        ([Darkened(shown=(replace(DARK, severity=2),))], "darkened: its images are not those of its conditions"),
        ([Darkened(shown=())], "darkened: its images are not those of its conditions"),
        ([Darkened(extra=0)], "darkened: expected 2 of extra, got 0"),
        ([Darkened((replace(DARK, fields={"light": np.float32(0.5)}),))], "darkened: a condition holds what JSON can"),
    ],
)
def test_a_study_that_does_not_keep_to_its_conditions(tmp_path, studies, told):
    with pytest.raises(UserError, match=told):
        run(tmp_path, *studies)
    assert not any(b"darkened" in line for line in lines(tmp_path))
