"""Runs of other studies than attacks, of several, and runs that have grown, are looked at for what they are."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest

from segrobust.attacks.bounded import CEPGD
from segrobust.attacks.patch import UniversalPatch
from segrobust.attacks.universal import UniversalPerturbation
from segrobust.checks.attack import something_attacked
from segrobust.checks.context import Context
from segrobust.checks.integrity import every_image_once, within_budget
from segrobust.checks.runner import run_checks
from segrobust.checks.verdicts import NotApplicable
from segrobust.core.rows import Condition
from segrobust.models.segmenter import Segmenter
from segrobust.report.trust import load_trust
from segrobust.runs.folder import RunFolder
from segrobust.studies.attack import plan_attacks
from segrobust.studies.base import Perturbed, Study
from segrobust.studies.clean import Clean
from segrobust.studies.corruption import CorruptionStudy
from segrobust.studies.universal import UniversalStudy
from tests.attacks.toys import SmallNet
from tests.checks.looking import BLIND, DIFFER, LARGE, MONOTONE, SINGLE, VOID, finished, levels, verdicts
from tests.checks.models import segmenter
from tests.checks.test_badge import ATTACKED, Scenes
from tests.runs.toy_run import K, ToySource

FOG = [Clean(), CorruptionStudy("fog", 1), CorruptionStudy("fog", 5)]
PGD = plan_attacks(["CEPGD"], ["8/255"], steps=60)
OF_ATTACKS = {ATTACKED, BLIND, DIFFER, LARGE, MONOTONE, SINGLE, VOID, "gradient correct", "enough steps"}


def checked(folder, studies, source=None, model="small"):
    executor = finished(segmenter(model), folder, source or Scenes(), studies)
    run_checks(Context(executor, json.loads((folder / "summary.json").read_text())))
    return verdicts(folder)


def test_a_run_of_corruptions_alone_is_verified_and_nothing_of_attacks_is_left_open(tmp_path):
    found = checked(tmp_path, FOG)
    assert load_trust(tmp_path).sentence == "verified"
    assert levels(found, "skipped") >= OF_ATTACKS and not any(found[name]["open"] for name in OF_ATTACKS)
    assert "the run has no attack, but corruption" in found[ATTACKED]["evidence"]
    assert "no attack or universal" in found["gradient correct"]["evidence"]


def test_corruptions_say_the_same_of_a_model_without_gradients(tmp_path):
    """Which no attack may conclude anything from."""
    assert levels(checked(tmp_path / "fog", FOG, model="quantised"), "fail", "warn") == set()
    assert "gradient usable" in levels(checked(tmp_path / "pgd", [Clean(), *PGD], model="quantised"), "fail")


def test_in_a_mixed_run_attacks_are_compared_with_attacks(tmp_path):
    alone = checked(tmp_path / "alone", [Clean(), *PGD])
    mixed = checked(tmp_path / "mixed", [*FOG, *PGD])
    differing = {name for name in alone if alone[name]["numbers"] != mixed[name]["numbers"]}
    assert differing == {"every image once"} and load_trust(tmp_path / "mixed").sentence == "verified"
    assert mixed["every image once"]["numbers"]["rows"] == 240


def test_clean_images_alone_are_no_attack(tmp_path):
    found = checked(tmp_path, [Clean()])
    assert found[ATTACKED]["verdict"] == "warn" and "the run has nothing" in found[ATTACKED]["evidence"]


def test_a_run_that_has_grown_is_looked_at_anew_and_as_a_whole(tmp_path):
    source = Scenes()
    before = checked(tmp_path, [Clean(), *PGD], source)
    executor = finished(segmenter("small"), tmp_path, source, FOG)
    trust = load_trust(tmp_path)
    assert trust.level == "not trustworthy"
    assert "made for other rows, conditions.json and summary.json; run the evaluation again" in trust.failed
    run_checks(Context(executor, json.loads((tmp_path / "summary.json").read_text())))
    assert load_trust(tmp_path).sentence == "verified"
    after = verdicts(tmp_path)
    attacks = OF_ATTACKS | {"best image returned"}  # the attack is made again from what conditions.json says of it
    assert {name: after[name]["numbers"] for name in attacks} == {name: before[name]["numbers"] for name in attacks}


@dataclass(frozen=True, kw_only=True)
class Unregistered(CEPGD):
    """Known to nobody but the start that was given it."""


def test_an_attack_that_only_an_earlier_start_knew_is_left_open(tmp_path):
    source = Scenes()
    assert checked(tmp_path, [Clean(), *plan_attacks([Unregistered()], ["8/255"], steps=60)], source)
    found = checked(tmp_path, FOG, source)
    assert found[ATTACKED]["verdict"] == "pass" and "Unregistered by" in found[ATTACKED]["evidence"]
    opened = {name for name, check in found.items() if check["open"]}
    assert {SINGLE, BLIND, VOID, "enough steps"} <= opened and load_trust(tmp_path).level == "with warnings"
    assert "name them again" in found[SINGLE]["evidence"]


def test_attacks_on_another_model_do_not_count_among_those_on_this_one(tmp_path):
    """Where they take more than the run's own, which are weak on purpose, it is no reason to call these strong."""
    other = Segmenter.wrap(SmallNet(K, seed=5), num_classes=K, name="other").eval()
    weak = CEPGD(optimiser="pgd", radius_reduction=False, step_size=1e-7, random_start=False)
    own = plan_attacks([weak], ["16/255"], steps=10)
    found = checked(tmp_path, [Clean(), *own, *plan_attacks(["CEPGD"], ["16/255"], steps=10, surrogate=other)])
    assert {name: found[name]["verdict"] for name in (SINGLE, BLIND)} == {SINGLE: "fail", BLIND: "warn"}
    assert found[SINGLE]["numbers"]["attack"] == "CEPGD"
    assert found[ATTACKED]["numbers"]["moved"]["CEPGD@other"] * 255 == pytest.approx(16, abs=0.01)


def test_more_images_make_checks_outdated(tmp_path):
    few, more = ToySource(7), ToySource(9)
    checked(tmp_path, FOG, few)
    finished(segmenter("small"), tmp_path, more, FOG)
    assert "images.json" in load_trust(tmp_path).failed
    assert checked(tmp_path, FOG, more)["enough images"]["numbers"]["images"] == 9


def test_a_condition_that_an_earlier_start_did_not_finish_is_left_out(tmp_path):
    source = ToySource(7)
    finished(segmenter("small"), tmp_path, source, [Clean(), *PGD])
    rows = tmp_path / "rows" / "rank-0.jsonl"
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:-1]))  # of the attack
    context = Context(finished(segmenter("small"), tmp_path, source, FOG), [])
    assert {one.study for one in context.conditions} == {"clean", "corruption"}
    assert every_image_once(context).level == "pass"
    with pytest.raises(NotApplicable):
        something_attacked(context)


@dataclass(frozen=True, eq=False)
class Patch(Study):
    """A grey square in the corner, whose pixels do not count; in two regions."""

    marked: bool = True
    study: str = "universal"
    passes = 1

    @property
    def conditions(self):
        return (Condition(self.study, "Patch", fields={"side": 4}),)

    def perturbed(self, bench, group):
        images, void = group.images.clone(), group.labels.new_zeros(group.labels.shape, dtype=bool)
        images[..., :4, :4], void[..., :4, :4] = 0.5, True
        extra = [{}] * len(group.ids)
        regions = {"regions": void.long()} if self.marked else {}
        yield Perturbed(self.conditions[0], images, extra, void, **regions)


def test_pixels_under_a_patch_do_not_count_and_all_others_must(tmp_path):
    source = ToySource(7)
    patched = Context(finished(segmenter("small"), tmp_path / "patch", source, [Clean(), Patch()]), [])
    assert every_image_once(patched).level == "pass"
    lost = Context(finished(segmenter("small"), tmp_path / "lost", source, [Clean(), Patch(marked=False)]), [])
    found = every_image_once(lost)
    assert found.level == "fail" and found.numbers["images_with_unequal_labels"] == 7
    own = finished(segmenter("small"), tmp_path / "own", source, [Clean(), Patch(marked=False, study="stickers")])
    assert every_image_once(Context(own, [])).level == "pass"


def fitted(universal):
    """A study that is fitted on eight other images."""
    source = ToySource(12, salt=1)
    source.samples = [sample for sample in source.samples if sample.label.shape == (16, 16)]
    return [Clean(), UniversalStudy(universal, source)]


@pytest.mark.parametrize("universal", [UniversalPerturbation(epochs=3), UniversalPatch(patch=(4, 4), epochs=3)])
def test_universal_perturbations_and_patches_are_honest(universal, tmp_path):
    found = checked(tmp_path, fitted(universal))
    assert levels(found, "fail", "warn") == set() and not any(one["open"] for one in found.values())
    assert found[ATTACKED]["verdict"] == ("skipped" if universal.covers else "pass")
    assert found["gradient usable"]["verdict"] == "pass" and found[SINGLE]["verdict"] == "skipped"


def test_a_perturbation_under_two_norms_is_told_under_each(tmp_path):
    both = fitted(UniversalPerturbation(epochs=1)), fitted(UniversalPerturbation(norm="L2", eps=1.0, epochs=1))
    evidence = checked(tmp_path, [*both[0], both[1][1]])[ATTACKED]["evidence"]
    assert "perturbation (epochs=1) by 4/255" in evidence and "perturbation (epochs=1) by L2 0.99" in evidence


def test_a_universal_perturbation_of_nothing(tmp_path):
    found = checked(tmp_path, fitted(UniversalPerturbation(eps=1e-9, epochs=1)))
    assert found[ATTACKED]["verdict"] == "fail" and "nothing was attacked" in found[ATTACKED]["evidence"]


def test_a_universal_perturbation_stays_within_its_radius_and_needs_gradients(tmp_path):
    @dataclass(frozen=True, eq=False)
    class Far(Patch):
        distance: float = 0.0

        @property
        def conditions(self):
            return (replace(super().conditions[0], norm="Linf", eps=4 / 255),)

        def perturbed(self, bench, group):
            for made in super().perturbed(bench, group):
                yield replace(made, extra=[{**one, "distance": self.distance} for one in made.extra])

    source = ToySource(7)
    for distance, level in ((4 / 255, "pass"), (5 / 255, "fail")):
        executor = finished(segmenter("small"), tmp_path / level, source, [Clean(), Far(distance=distance)])
        assert within_budget(Context(executor, [])).level == level
    content = run_checks(Context(executor, json.loads((tmp_path / "fail" / "summary.json").read_text())))
    found = {one["name"]: one for one in content["checks"]}
    assert {"gradient usable", "gradient correct", LARGE} <= levels(found, "pass")
    assert RunFolder(tmp_path / "fail").conditions()[1].study == "universal"
