"""Verdicts are stored, serve again where nothing has changed, and are made anew where something has."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path

import pytest
import torch

from segrobust.attacks import build_attack
from segrobust.checks import runner
from segrobust.checks.again import Recorder, shortened
from segrobust.checks.context import Context
from segrobust.checks.runner import CHECKS, HERE, run_checks
from segrobust.checks.verdicts import Check, NotApplicable, Skip, graded, trust_of, verdict
from segrobust.core.errors import UserError
from segrobust.report.trust import load_trust
from segrobust.runs.environment import code_sha256
from tests.checks.looking import (
    BEST,
    BLIND,
    DIFFER,
    MONOTONE,
    SINGLE,
    context,
    levels,
    look,
)
from tests.checks.models import segmenter
from tests.runs.toy_run import ToySource


@pytest.fixture
def folder(tmp_path):
    look(segmenter("small"), tmp_path, eps=["2/255", "8/255"], steps=10, checks=False)
    return tmp_path


class Counted:
    """Three checks that count how often each is made."""

    def __init__(self, stop_at: str | None = None) -> None:
        self.made: list[str] = []
        self.stop_at = stop_at
        self.checks = tuple(Check(name, self.check(name)) for name in ("one", "two", "three"))

    def check(self, name):
        def run(looked):
            if name == self.stop_at:
                raise KeyboardInterrupt
            self.made.append(name)
            return verdict("pass", f"made {name}", images=len(looked.ids))

        return run

    def run(self, folder, **more):
        return run_checks(context(segmenter("small"), folder, **more), self.checks)


def test_checks_that_were_interrupted_are_made_again_and_finished_ones_are_not(folder):
    stopped = Counted(stop_at="three")
    with pytest.raises(KeyboardInterrupt):
        stopped.run(folder)
    assert stopped.made == ["one", "two"] and not (folder / "checks.json").exists()
    whole = Counted()
    content = whole.run(folder)
    assert whole.made == ["one", "two", "three"]
    assert [one["verdict"] for one in content["checks"]] == ["pass", "pass", "pass"]
    assert content["trust"] == "verified" and content == json.loads((folder / "checks.json").read_text())
    again = Counted()
    assert again.run(folder) == content and again.made == []


def test_changed_rows_or_claims_are_looked_at_anew(folder):
    Counted().run(folder)
    claimed = Counted()
    claimed.run(folder, declared={"mIoU": 50.0})
    assert claimed.made == ["one", "two", "three"]
    rows = folder / "rows" / "rank-0.jsonl"
    rows.write_text(rows.read_text().replace('"distance":0.0', '"distance":0.1', 1))
    changed = Counted()
    changed.run(folder, declared={"mIoU": 50.0})
    assert changed.made == ["one", "two", "three"]


def test_a_mended_check_is_made_anew(folder, tmp_path_factory, monkeypatch):
    code = tmp_path_factory.mktemp("code") / "checks"
    shutil.copytree(runner.HERE, code)
    monkeypatch.setattr(runner, "HERE", code)
    first, again, mended = Counted(), Counted(), Counted()
    first.run(folder)
    again.run(folder)
    assert first.made == ["one", "two", "three"] and again.made == []
    code_sha256.cache_clear()  # as in another start
    (code / "strength.py").write_text((code / "strength.py").read_text() + "\n")
    mended.run(folder)
    assert mended.made == first.made
    assert all(Path(inspect.getfile(check.run)).is_relative_to(HERE) for check in CHECKS)


def test_a_damaged_file_is_replaced(folder):
    (folder / "checks.json").write_text('{"format": 1, "checks": 7}')
    assert Counted().run(folder)["trust"] == "verified"


def test_a_check_that_breaks_is_a_warning_and_the_others_are_made(folder):
    def breaks(looked):
        raise RuntimeError("no such size\nand more")

    def skips(looked):
        raise Skip("not here")

    checks = (Check("breaks", breaks), Check("skips", skips), Check("holds", lambda _: verdict("info", "x")))
    content = run_checks(context(segmenter("small"), folder), checks)
    assert [one["verdict"] for one in content["checks"]] == ["warn", "skipped", "info"]
    assert content["checks"][0]["evidence"] == "could not be made: RuntimeError: no such size"
    assert content["trust"] == "with warnings"


def test_evaluate_refuses_what_it_cannot_check(tmp_path):
    with pytest.raises(
        UserError, match=r"checks: expected True or False \(--no-checks on the command line\), got 'off'"
    ):
        look(segmenter("small"), tmp_path, checks="off")
    for declared in (61.2, {"miou": 61.2}, {"mIoU": "61.2"}):
        with pytest.raises(UserError, match="declared: expected dict"):
            look(segmenter("small"), tmp_path, declared=declared)


def test_attacks_are_shortened_as_far_as_they_can_be():
    assert shortened(build_attack("CEPGD", steps=50), 10) == build_attack("CEPGD", steps=10)
    assert shortened(build_attack("CEPGD", steps=5), 10) == build_attack("CEPGD", steps=5)
    assert shortened(build_attack("FGSM"), 10) == build_attack("FGSM")
    assert shortened(build_attack("MinNormEnsemble"), 10).steps == 10  # its own is None


def test_levels_of_trust():
    def trust(*levels, opened=False):
        return trust_of({"verdict": level, "open": opened and level == "skipped"} for level in levels)

    assert trust("pass", "info", "skipped") == "verified"
    assert trust("pass", "info", "skipped", opened=True) == "with warnings"
    assert trust("pass", "warn", "info") == "with warnings"
    assert trust("warn", "fail", "pass") == "not trustworthy"
    assert trust("skipped", "fail", opened=True) == "not trustworthy"
    assert trust() == "incomplete"
    values = (1.0, 1.5, 2.5, float("nan"))
    assert [graded(value, warn=1, fail=2) for value in values] == ["pass", "warn", "fail", "fail"]
    numbers = verdict("pass", "x", "never shown", a=float("inf"), b=1 / 3, c=2.0)
    assert numbers.remedy == "" and numbers.numbers == {"a": "inf", "b": 0.333333, "c": 2}


def test_names_are_unique():
    assert len({check.name for check in CHECKS}) == len(CHECKS)


def test_an_essential_check_that_cannot_be_made_is_left_open(folder):
    def does_not_apply(looked):
        raise NotApplicable("no target")

    def skips(looked):
        raise Skip("not here")

    def trust(check):
        content = run_checks(
            context(segmenter("small"), folder), (Check("holds", lambda _: verdict("pass", "x")), check)
        )
        return content["trust"], content["checks"][1]["open"]

    assert trust(Check("skips", skips)) == ("verified", False)
    assert trust(Check("does not apply", does_not_apply, essential=True)) == ("verified", False)
    assert trust(Check("essential", skips, essential=True)) == ("with warnings", True)
    found = load_trust(folder)
    assert found.sentence == "with warnings (essential, but not made: essential)"


def test_the_images_are_whole_batches_evenly_spaced(tmp_path):
    look(segmenter("small"), tmp_path, ToySource(60), checks=False, attacks=["FGSM"])
    looked = context(segmenter("small"), tmp_path, ToySource(60))
    assert [batch.start for batch in looked.batches] == [3, 15, 24, 33, 45, 54]
    assert len(looked.ids) == 18 and [group.ids[0] for group in looked.singles(2)] == [looked.ids[4], looked.ids[13]]


def test_the_recorder_notes_what_an_attack_saw(folder):
    looked = context(segmenter("small"), folder)
    group = looked.singles(1)[0]
    recorder = Recorder(looked.model, group, looked.bench.task, looked.own)
    points = torch.cat([group.images, (group.images + 0.1).clamp(0, 1)])
    recorder(points)
    valid = group.labels != looked.void
    wrong = (looked.bench.predict(points) != group.labels) & valid
    assert recorder.shares == pytest.approx([100 * float(one.sum() / valid.sum()) for one in wrong])
    assert recorder.distances == pytest.approx([0, 0.1], abs=1e-6)


def test_targeted_and_minimum_norm_runs(tmp_path):
    targeted = look(segmenter("small"), tmp_path / "targeted", target="background", steps=40)
    assert levels(targeted, "fail") == set() and "target" in targeted[BLIND]["evidence"]
    nearest = look(segmenter("small"), tmp_path / "nearest", attacks=["ALMAProx"], steps=60)
    assert levels(nearest, "fail") == set()
    assert nearest[BEST]["verdict"] == "pass"


def test_a_folder_without_results_cannot_be_compared(tmp_path):
    found = look(segmenter("small"), tmp_path, attacks=["UniformNoise"])
    assert {SINGLE, MONOTONE, BLIND, DIFFER} <= levels(found, "skipped")
    assert isinstance(context(segmenter("small"), tmp_path), Context)
