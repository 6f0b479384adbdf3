"""Too few steps are noticed on a few images, at a cost that does not grow with the steps."""

from __future__ import annotations

import pytest

from segrobust.attacks.bounded import CEPGD, MaskedPGD
from segrobust.checks.again import call
from segrobust.checks.strength import _gain, _stored, enough_steps
from segrobust.checks.verdicts import NotApplicable
from segrobust.studies.attack import plan_attacks
from segrobust.studies.clean import Clean
from tests.checks.looking import context, look
from tests.checks.models import segmenter
from tests.runs.toy_run import ToySource

SLOW = {"optimiser": "pgd", "radius_reduction": False, "keep": "last"}


def judged(folder, attack, **run):
    look(segmenter("small"), folder, ToySource(8), **{"attacks": [attack], "eps": ["8/255"], "checks": False, **run})
    studies = [Clean(), *plan_attacks([attack], run.get("eps", ["8/255"]), steps=run.get("steps", 10))]
    return enough_steps(context(segmenter("small"), folder, ToySource(8), studies))


def test_small_steps_are_too_few(tmp_path):
    found = judged(tmp_path, CEPGD(step_size=0.0003, **SLOW), steps=12)
    assert found.level == "warn" and found.numbers["gain"] == found.numbers["expected_gain"] > 0.5
    assert (found.numbers["steps"], found.numbers["compared_with"]) == (12, 40)
    assert found.evidence.startswith("40 instead of 12 steps win ") and "raise --steps" in found.remedy


def test_three_steps_are_too_few_whatever_an_image_shows(tmp_path):
    found = judged(tmp_path, CEPGD(), steps=3)
    assert found.level == "warn" and found.evidence.startswith("3 steps of CEPGD are too few")
    assert judged(tmp_path / "ten", CEPGD(), steps=10).numbers["compared_with"] == 40


@pytest.mark.parametrize(
    ("attack", "steps", "compared_with", "images"),
    [("CEPGD", 10, 40, 4), ("CEPGD", 25, 50, 3), ("CEPGD", 50, 100, 2), ("CEPGD", 51, 25, 4), ("FMN", 20, 100, 2)],
)
def test_no_verdict_stands_on_one_image_and_the_cost_is_bounded(
    attack, steps, compared_with, images, tmp_path, monkeypatch
):
    spent = []

    def counted(*args, **more):
        result = call(*args, **more)
        spent.append(int(result.forwards + result.backwards))
        return result

    monkeypatch.setattr("segrobust.checks.strength.call", counted)
    found = judged(tmp_path, attack, steps=steps)
    assert (found.numbers["compared_with"], found.numbers["images"]) == (compared_with, images)
    assert found.evidence.endswith(f"({attack}, {images} images)")
    assert len(spent) == images and 200 < sum(spent) < 420


def test_an_attack_that_has_come_to_rest_on_the_first_image_alone(tmp_path, monkeypatch):
    """The run's rows of all others are made worse: on one image the attack would seem to have enough steps."""
    looked_at = []

    def worse(*args):
        looked_at.append(args)
        return _stored(*args) - 4 * (len(looked_at) > 1)

    monkeypatch.setattr("segrobust.checks.strength._stored", worse)
    found = judged(tmp_path, CEPGD(), steps=12)
    assert found.level == "warn" and found.numbers["gain"] == pytest.approx(3, abs=0.5)


def test_many_steps_are_enough_and_are_not_repeated(tmp_path):
    found = judged(tmp_path, CEPGD(), steps=200)
    assert found.level == "pass" and found.numbers["compared_with"] == 25
    assert found.numbers["expected_gain"] == pytest.approx(found.numbers["gain"] * 25 / 350, abs=1e-5)


def test_many_steps_that_are_too_small(tmp_path):
    found = judged(tmp_path, CEPGD(step_size=0.0008, random_start=False, **SLOW), steps=120, eps=["64/255"])
    assert found.level == "warn" and "so that 240 may win" in found.evidence


def test_what_is_left_is_all_that_can_be_won(tmp_path):
    """All but a few pixels fall, half of them late; twice the steps cannot win what the gain so far promises."""
    attack = MaskedPGD(step_size=0.004, random_start=False, **{**SLOW, "keep": "best"})
    found = judged(tmp_path, attack, steps=120, eps=["255/255"])
    assert found.numbers["gain"] * 25 / 190 > 1.5 > found.numbers["expected_gain"] and found.level == "pass"


def test_minimum_norm_attacks(tmp_path):
    nothing = judged(tmp_path / "few", "ALMAProx", steps=10)
    assert nothing.level == "warn" and nothing.evidence == "10 steps of ALMAProx find nothing on 2 images"
    some = judged(tmp_path / "some", "PGDBisection", steps=60)
    assert some.level == "warn" and some.evidence.startswith("60 instead of 30 steps win ")
    assert "% of the norm" in some.evidence
    assert judged(tmp_path / "many", "ALMAProx", steps=300).level == "pass"


def test_a_single_step_has_no_number_of_steps(tmp_path):
    with pytest.raises(NotApplicable, match="FGSM has no number of steps"):
        judged(tmp_path, "FGSM", steps=None)


def test_what_counts_as_a_gain():
    assert _gain(False, 30.0, 32.5) == 2.5
    assert _gain(True, 4.0, 3.0) == 25.0
    inf = float("inf")
    assert (_gain(True, inf, 3.0), _gain(True, inf, inf), _gain(True, 0.0, 0.0)) == (100.0, 100.0, 0.0)
    assert _gain(True, 3.0, inf) == -100.0
