"""*Verified* can be had by an honest run of enough images, and by none that lacks what the badge says."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace

import pytest
import torch

from segrobust.attacks.bounded import CEPGD
from segrobust.checks.integrity import one_version
from segrobust.checks.results import enough_images
from segrobust.datasets.source import Sample
from segrobust.datasets.survey import Survey
from segrobust.report.trust import load_trust
from tests.checks.looking import FEW, SINGLE, context, levels, look, look_again, verdicts
from tests.checks.models import segmenter
from tests.runs.toy_run import ToySource

ATTACKED = "something was attacked"
HONEST = {"attacks": ["CEPGD"], "eps": ["8/255"], "steps": 60, "batch_size": 30}


class Scenes(ToySource):
    """Sixty images of 16x16 pixels."""

    def __init__(self) -> None:
        super().__init__(90)
        self.samples = [sample for sample in self.samples if sample.label.shape == (16, 16)]


@pytest.fixture(scope="module")
def verified(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr("segrobust.commands.evaluation.build_report", lambda *_: None)
    folder = tmp_path_factory.mktemp("honest") / "run"
    look(segmenter("small"), folder, Scenes(), **HONEST)
    patch.undo()
    return folder


@pytest.fixture
def folder(verified, tmp_path):
    """A copy of the honest run, to be changed."""
    return shutil.copytree(verified, tmp_path / "copy")


def test_an_honest_run_of_enough_images_is_verified(folder):
    assert load_trust(folder).sentence == "verified"


@pytest.mark.parametrize("eps", ["0", "1e-9"])
def test_a_radius_of_nothing(eps, tmp_path):
    found = look(segmenter("small"), tmp_path, Scenes(), **{**HONEST, "eps": [eps], "steps": 2})
    assert found[ATTACKED]["verdict"] == "fail" and "nothing was attacked" in found[ATTACKED]["evidence"]
    assert load_trust(tmp_path).level == "not trustworthy"


def test_a_radius_below_what_matters(tmp_path):
    found = look(segmenter("small"), tmp_path, Scenes(), **{**HONEST, "eps": ["0.05/255"]})
    assert found[ATTACKED]["verdict"] == "warn" and "0.05/255" in found[ATTACKED]["evidence"]
    found = look(segmenter("small"), tmp_path / "some", Scenes(), **{**HONEST, "eps": ["0", "0.5/255"], "steps": 2})
    assert found[ATTACKED]["verdict"] == "pass" and found[ATTACKED]["numbers"]["moved"]["CEPGD"] * 255 > 0.49


def test_noise_alone(tmp_path):
    found = look(segmenter("small"), tmp_path, Scenes(), **{**HONEST, "attacks": ["UniformNoise"]})
    assert found[ATTACKED]["verdict"] == "warn" and "UniformNoise" in found[ATTACKED]["evidence"]
    assert load_trust(tmp_path).level == "with warnings"


@dataclass(frozen=True, kw_only=True)
class Idle(CEPGD):
    """Returns what it was given."""

    def run(self, problem):
        return problem.clean, problem.engine.measure(problem.clean).error


def test_an_attack_that_does_nothing(tmp_path):
    found = look(segmenter("small"), tmp_path, **{**HONEST, "attacks": [Idle()]})
    assert found[ATTACKED]["verdict"] == "fail" and found[SINGLE]["verdict"] == "fail"
    found = look(segmenter("small"), tmp_path / "one", **{**HONEST, "attacks": [Idle(), "CEPGD"]})
    assert found[ATTACKED]["verdict"] == "warn" and "Idle by 0/255" in found[ATTACKED]["evidence"]


class Same(Scenes):
    """One image under many names."""

    def __init__(self) -> None:
        super().__init__()
        self.samples = [Sample(self.samples[0].image, self.samples[0].label, f"{n}") for n in range(60)]


def test_one_image_many_times(tmp_path):
    found = look(segmenter("small"), tmp_path, Same(), **{**HONEST, "steps": 2})[FEW]
    assert found["verdict"] == "warn" and found["numbers"]["images"] == 1
    assert found["numbers"]["half_width_points"]["clean"] == 0  # which alone would pass


def test_equal_counts_are_no_equal_images(folder):
    """Images without an error all have the same row, and differ."""
    looked = context(segmenter("small"), folder, Scenes())
    counts = {"classes": [0], "tp": [256], "fp": [0], "fn": [0]}
    looked.rows = [replace(row, counts=counts) for row in looked.rows]
    assert enough_images(looked).numbers["images"] == 60


@pytest.mark.parametrize(("count", "side"), [(15, 40), (60, 12)])
def test_too_few_images_and_too_few_pixels(count, side, tmp_path):
    class Few(Scenes):
        def __init__(self):
            super().__init__()
            at = [sample for n, sample in enumerate(self.samples) if n < count]
            crop = (..., slice(side), slice(side))
            if side > 16:
                at = [Sample(s.image.repeat(1, 3, 3), s.label.repeat(3, 3), s.name) for s in at]
            self.samples = [Sample(s.image[crop], s.label[crop], s.name) for s in at]

    found = look(segmenter("small"), tmp_path, Few(), **{**HONEST, "steps": 2})[FEW]
    assert found["verdict"] == "warn" and found["numbers"]["images"] == count
    assert (found["numbers"]["labelled_pixels"] < 10_000) == (side == 12)


def test_nothing_but_void(tmp_path, monkeypatch):
    monkeypatch.setattr("segrobust.commands.evaluation.survey", lambda *_: Survey(""))  # which refuses it at the start
    source = Scenes()
    for sample in source.samples:
        sample.label.fill_(255)
    found = look(segmenter("small"), tmp_path, source, **{**HONEST, "steps": 2})
    assert found[FEW]["verdict"] == "fail" and "nothing was measured" in found[FEW]["evidence"]
    assert levels(found, "fail") == {FEW} and load_trust(tmp_path).level == "not trustworthy"


def test_another_runs_checks(folder, tmp_path):
    other = tmp_path / "other"
    look(segmenter("small"), other, ToySource(), **HONEST)
    shutil.copy(folder / "checks.json", other / "checks.json")
    trust = load_trust(other)
    assert trust.level == "not trustworthy" and "belongs to another run" in trust.failed
    assert "rows, images.json and summary.json" in trust.why
    assert look(segmenter("small"), other, ToySource(), **HONEST)[FEW]["numbers"]["images"] == 7  # made anew


@pytest.mark.parametrize("name", ["rows/rank-0.jsonl", "summary.json", "run.json"])
def test_results_that_changed_after_the_checks(name, folder):
    text = (folder / name).read_text()
    old, new = ('"seed": 0', '"seed": 1') if name == "run.json" else ("9", "8")
    (folder / name).write_text(text.replace(old, new, 1))
    trust = load_trust(folder)
    assert trust.level == "not trustworthy"
    assert f"made for other {name.split('/')[0]}; run the evaluation again" in trust.sentence


def test_a_stripped_date_is_no_other_run(folder):
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**run, "about": {}}))
    assert load_trust(folder).level == "verified"


def test_edited_checks(folder):
    look(segmenter("small"), folder, Scenes(), **HONEST)
    content = json.loads((folder / "checks.json").read_text())
    content["checks"] = [one for one in content["checks"] if one["name"] != FEW]
    (folder / "checks.json").write_text(json.dumps(content))
    assert "was edited" in load_trust(folder).failed and load_trust(folder).level == "not trustworthy"
    assert FEW in look_again(segmenter("small"), folder, source=Scenes())  # made anew


def test_rows_of_another_version(folder):
    run = json.loads((folder / "run.json").read_text())
    run["accepted_different"] = [{"what": "code", "stored": "a" * 64, "now": "b" * 64, "date": "2026-11-26"}]
    (folder / "run.json").write_text(json.dumps(run))
    assert load_trust(folder).level == "not trustworthy"  # the checks were made before
    found = look_again(segmenter("small"), folder, source=Scenes())["rows of one version"]
    assert found["verdict"] == "warn"
    assert "code was aaaaaaaaaaaa... and is bbbbbbbbbbbb... since 2026-11-26" in found["evidence"]
    run["accepted_different"] = []
    (folder / "run.json").write_text(json.dumps(run))
    assert one_version(context(segmenter("small"), folder, Scenes())).level == "pass"


def test_a_failed_run_leaves_essential_checks_open(tmp_path):
    with pytest.raises(RuntimeError):
        look(segmenter("detached"), tmp_path, **HONEST)
    assert {one["name"] for one in verdicts(tmp_path).values() if one["open"]} >= {FEW, ATTACKED, SINGLE}


def test_transfer_and_targets(tmp_path):
    look(segmenter("small"), tmp_path / "targeted", Scenes(), **{**HONEST, "target": "background", "steps": 2})
    trust = load_trust(tmp_path / "targeted")
    assert "not made" not in trust.why  # noise has no target, which leaves nothing open
    torch.manual_seed(3)
    other = segmenter("linear")
    look(segmenter("small"), tmp_path / "transfer", Scenes(), **{**HONEST, "surrogate": other, "steps": 2})
    assert "essential, but not made: " in load_trust(tmp_path / "transfer").why
