"""Every bad model and every weak attack is caught by the check that is made for it, and honest ones by none."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from segrobust.attacks.bounded import CEPGD
from segrobust.attacks.gradient import ModelError
from segrobust.checks.again import call
from segrobust.checks.gradient import correct
from segrobust.checks.runner import CHECKS
from segrobust.checks.verdicts import trust_of
from segrobust.core.errors import UserError
from segrobust.datasets.source import Sample
from segrobust.datasets.survey import Survey
from segrobust.models.segmenter import Segmenter
from segrobust.runs.folder import RunFolder
from tests.attacks.toys import SmallNet
from tests.checks.looking import (
    BATCH,
    BEST,
    BLIND,
    CLEAN,
    CORRECT,
    DIFFER,
    FEW,
    LARGE,
    LOGITS,
    MONOTONE,
    ONCE,
    PATHS,
    PLAIN,
    REPEATS,
    SINGLE,
    STATE,
    USABLE,
    VOID,
    context,
    levels,
    look,
    verdicts,
)
from tests.checks.models import HONEST, Changed, Forgetful, segmenter
from tests.runs.toy_run import K, ToySource

ROOT = Path(__file__).parents[2]


class LinearSource(ToySource):
    """Images whose labels are those of the linear model, but for a few."""

    def __init__(self) -> None:
        from tests.attacks.toys import PixelLinear, batch

        super().__init__(0)
        made = (batch(PixelLinear(K), count=1, size=12, seed=i) for i in range(7))
        self.samples = [Sample(images[0], labels[0], f"scene {i}") for i, (images, labels) in enumerate(made)]


@pytest.mark.parametrize("name", HONEST)
def test_honest_models_are_caught_by_no_check(name, tmp_path):
    source = LinearSource() if name == "linear" else ToySource()
    found = look(segmenter(name), tmp_path, source, attacks=["CEPGD", "UniformNoise"], steps=60)
    few_images = {FEW} & levels(found, "warn")  # seven of them
    assert levels(found, "warn", "fail") == few_images
    assert levels(found, "skipped") <= {CLEAN, DIFFER}
    assert set(found) == {check.name for check in CHECKS}


CAUGHT = [
    ("quantised", {USABLE: "fail", CORRECT: "warn", LARGE: "fail"}),
    ("straight_through", {USABLE: "pass", CORRECT: "warn"}),
    ("saturated", {USABLE: "fail"}),
    ("noisy", {REPEATS: "warn", PLAIN: "warn", STATE: "pass"}),
    ("purified", {PLAIN: "warn"}),
    ("probabilities", {LOGITS: "warn"}),
    ("sigmoid", {LOGITS: "warn"}),
    ("batch_dependent", {BATCH: "warn", REPEATS: "pass"}),
    ("batch_statistics", {BATCH: "warn", STATE: "pass"}),
    ("learning_norm", {STATE: "fail"}),
    ("training_mode", {STATE: "fail"}),
    ("two_paths", {PATHS: "fail", REPEATS: "pass"}),
]


@pytest.mark.parametrize(("name", "expected"), CAUGHT, ids=[name for name, _ in CAUGHT])
def test_bad_models_are_caught_by_their_check(name, expected, tmp_path):
    torch.manual_seed(0)
    found = look(segmenter(name), tmp_path)
    assert {name: found[name]["verdict"] for name in expected} == expected
    assert all(found[name]["remedy"] for name in levels(found, "warn", "fail"))
    assert trust_of(found.values()) != "verified"


@pytest.mark.parametrize(
    ("name", "source"), [("noisy_by_numpy", "numpy.random"), ("noisy_by_python", "random"), ("noisy_by_its_own", "")]
)
def test_it_is_told_where_random_numbers_come_from_and_whether_starts_agree(name, source, tmp_path):
    found = look(segmenter(name), tmp_path)
    assert found[REPEATS]["verdict"] == "warn" and found[PLAIN]["verdict"] == ("warn" if source else "pass")
    own = "under one seed too, so another start of this run finds other numbers"
    assert (own in found[REPEATS]["evidence"]) == (name == "noisy_by_its_own")
    assert found[PLAIN]["numbers"]["random_operations"] == [source] * bool(source)


def test_images_without_a_label_do_not_weigh(tmp_path, monkeypatch):
    source = ToySource()
    for image in (0, 2, 4):
        source.samples[image].label.fill_(255)
    found = look(segmenter("small"), tmp_path, source)
    assert levels(found, "fail") == set()
    for sample in source.samples:
        sample.label.fill_(255)
    with pytest.raises(UserError, match="nothing can be measured"):
        look(segmenter("small"), tmp_path / "refused", source)
    # the checks see some of the images, which may have no label where others have one
    monkeypatch.setattr("segrobust.commands.evaluation.survey", lambda *_: Survey(""))
    found = look(segmenter("small"), tmp_path / "none", source)
    assert {SINGLE, LARGE, BEST, BLIND} <= levels(found, "skipped")


def test_a_saturated_model_is_told_from_a_flat_one(tmp_path):
    numbers = look(segmenter("saturated"), tmp_path)[USABLE]["numbers"]
    assert numbers["saturated_pixels_percent"] > 80


def whole_images_only(images):
    if images.shape[-1] < 80:
        raise ValueError("expected images of 80 x 80")
    return images


def test_a_model_of_one_size_has_its_gradient_checked_on_whole_images(tmp_path):
    source = ToySource(2)
    source.samples = [Sample(s.image.repeat(1, 5, 5), s.label.repeat(5, 5), s.name) for s in ToySource(3).samples[1:]]
    net = Segmenter.wrap(Changed(before=whole_images_only), num_classes=K).eval()
    look(net, tmp_path, source, checks=False, steps=1, eps=["8/255"])
    assert correct(context(net, tmp_path, source)).level == "pass"


def test_a_detached_model_fails_the_run_and_is_reported(tmp_path):
    with pytest.raises(ModelError, match="do not depend on the images"):
        look(segmenter("detached"), tmp_path)
    found = verdicts(tmp_path)
    assert found[USABLE]["verdict"] == "fail" and "autograd" in found[USABLE]["evidence"]
    assert levels(found, "fail") == {USABLE}
    assert all("failed" in found[name]["evidence"] for name in (ONCE, MONOTONE, FEW))
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["detached", "blinded"])  # on both processes, and on the second alone
def test_a_failing_run_on_two_processes_reports_and_ends(name, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    done = subprocess.run(
        [*command, "-m", "tests.checks.models", str(tmp_path), name],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    told = [line for line in done.stderr.splitlines() if re.search(r"gradient\.(Model|NotFinite)Error: the ", line)]
    assert done.returncode == 1 and len(told) >= 2 and "rows are missing" not in done.stderr
    found = verdicts(tmp_path)
    assert found[USABLE]["verdict"] == "fail" and "failed" in found[ONCE]["evidence"]


def test_wrong_normalisation_misses_the_declared_score(tmp_path):
    def clean(folder, model, score, images):
        declared = {"mIoU": score, "images": images}
        return look(model, tmp_path / folder, ToySource(16), steps=2, declared=declared)[CLEAN]

    right, wrong = segmenter("small"), segmenter("small", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    score = clean("right", right, 82.0, 16)["numbers"]["measured"]
    assert clean("right", right, score - 0.2, 16)["verdict"] == "pass"
    assert clean("right", right, score - 0.5, 16)["verdict"] == "warn"
    assert clean("wrong", wrong, score, 16)["verdict"] == "fail"
    # on a part of the images chance explains some of the gap
    part = clean("right", right, score - 0.5, 233)
    assert part["verdict"] == "pass" and "95 % interval" in part["evidence"]
    assert clean("wrong", wrong, score, 233)["verdict"] == "fail"


def test_a_few_images_say_nothing_about_a_score_on_others(tmp_path):
    found = look(segmenter("small"), tmp_path, declared={"mIoU": 10.0, "images": 233})
    assert found[CLEAN]["verdict"] == "skipped" and "7 are too few" in found[CLEAN]["evidence"]


@dataclass(frozen=True, kw_only=True)
class Meddles(CEPGD):
    """Changes a weight of the model that it attacks."""

    def run(self, problem):
        model = problem.engine.model
        with torch.no_grad():
            next(model.parameters()).add_(1e-2)
        return super().run(problem)


@pytest.mark.parametrize("channels_last", [False, True])
def test_an_attack_that_changes_the_model(channels_last, tmp_path):
    def judged():
        form = torch.channels_last if channels_last else torch.contiguous_format
        model = segmenter("small").to(memory_format=form)
        return look(model, tmp_path, attacks=[Meddles(eps="8/255", steps=5)])[STATE]

    found = judged()
    assert found["verdict"] == "fail" and "during the run" in found["evidence"]
    assert judged()["verdict"] == "fail"  # the rows are the same


def test_transfer_proves_nothing_and_is_no_failure(tmp_path):
    other = Segmenter.wrap(SmallNet(K, seed=5), num_classes=K, name="other").eval()
    found = look(segmenter("small"), tmp_path, surrogate=other, attacks=["CosPGD"], steps=20)
    assert levels(found, "fail") == set()
    assert {"survives 8 bits", "enough steps", BEST, BLIND} <= levels(found, "skipped")
    assert found[SINGLE]["verdict"] == "warn" and "saw other, not this model" in found[SINGLE]["evidence"]


def test_a_randomised_model_is_checked_as_it_was_attacked(tmp_path):
    found = look(segmenter("noisy"), tmp_path, eot=8)
    assert {REPEATS, PLAIN} <= levels(found, "warn") and BEST in levels(found, "skipped")
    assert levels(found, "fail") == set()
    looked = context(segmenter("noisy"), tmp_path)
    looked.bench.eot = 2
    assert call(looked, CEPGD(eps="8/255", steps=2), looked.singles(1)[0]).backwards.tolist() == [4]


def test_every_start_says_the_same_of_a_randomised_model(tmp_path):
    def told(seed):
        model, source = segmenter("noisy"), ToySource()
        torch.manual_seed(seed)  # the toys have set their own
        found = look(model, tmp_path / str(seed), source, steps=12)
        return {name: (one["evidence"], one["numbers"]) for name, one in found.items()}

    first, again = told(1), told(2)
    assert [name for name in first if first[name] != again[name]] == []
    assert (
        first[REPEATS][1]["changed_percent"] > 1 and first[CORRECT][1]["wrong_directions"] > 1
    )  # forwards differ still


def test_void_is_looked_at_under_equal_draws(tmp_path):
    found = look(segmenter("noisy"), tmp_path)
    assert found[VOID]["verdict"] == "pass" and found[BEST]["verdict"] == "skipped"


@dataclass(frozen=True, kw_only=True)
class CountsVoid(CEPGD):
    """Balances by class counts that include the void pixels."""

    def weight(self, pixels):
        counts = torch.stack([labels.flatten().bincount(minlength=K) for labels in pixels.labels]).float()
        return counts.clamp_min(1).reciprocal().gather(1, pixels.labels.flatten(1)).view_as(pixels.log_p)


def test_an_attack_that_looks_at_void_labels(tmp_path):
    found = look(segmenter("small"), tmp_path, attacks=[CountsVoid(eps="8/255", steps=5)])
    assert found[VOID]["verdict"] == "fail" and "CountsVoid" in found[VOID]["evidence"]


def test_an_attack_that_looks_at_void_labels_beside_another(tmp_path):
    found = look(segmenter("small"), tmp_path, attacks=["CEPGD", CountsVoid()], steps=5)[VOID]
    assert found["verdict"] == "fail" and found["numbers"]["attacks"] == ["CEPGD", "CountsVoid"]
    assert found["numbers"]["moved"] == ["CountsVoid"]


def test_a_model_with_another_void(tmp_path):
    found = look(segmenter("small", ignore_index=0), tmp_path)
    assert found[VOID]["verdict"] == "warn" and found[VOID]["numbers"]["void_of_model"] == 0


def test_an_attack_that_hardly_moves(tmp_path):
    weak = CEPGD(optimiser="pgd", radius_reduction=False, step_size=1e-7, random_start=False, steps=10)
    found = look(segmenter("small"), tmp_path, attacks=[weak], eps=["16/255"])
    assert {name: found[name]["verdict"] for name in (SINGLE, BLIND)} == {SINGLE: "fail", BLIND: "warn"}
    assert "UniformNoise" in found[BLIND]["evidence"] and found[BLIND]["numbers"]["tried"]["UniformNoise"] > 1


def test_an_attack_that_returns_its_last_image(tmp_path):
    wild = CEPGD(optimiser="pgd", radius_reduction=False, step_size=0.5, keep="last")
    assert look(segmenter("small"), tmp_path, attacks=[wild], eps=["32/255"])[BEST]["verdict"] == "warn"


def test_an_attack_that_returns_where_it_began(tmp_path):
    found = look(segmenter("small"), tmp_path, attacks=[Forgetful()], eps=["32/255"])[BEST]
    assert found["verdict"] == "fail" and found["numbers"]["missed"] > 10


def test_a_run_of_single_steps(tmp_path):
    assert look(segmenter("small"), tmp_path, attacks=["FGSM"])[SINGLE]["verdict"] == "warn"


@pytest.mark.parametrize("steps", [1, 12])
def test_too_few_steps_and_a_random_result(steps, tmp_path):
    short = CEPGD(optimiser="pgd", radius_reduction=False, step_size=0.004, keep="last")
    found = look(segmenter("small"), tmp_path, attacks=[short], eps=["32/255"], steps=steps)
    assert (found["enough steps"]["verdict"], found[SINGLE]["verdict"]) == ("warn", "fail")


@dataclass(frozen=True, kw_only=True)
class Twin(CEPGD):
    """The same under another name."""


def test_the_same_attack_under_two_names(tmp_path):
    found = look(segmenter("small"), tmp_path, attacks=["CEPGD", Twin()])
    assert found[DIFFER]["verdict"] == "warn" and found[DIFFER]["numbers"]["most_equal_percent"] == 100


def autocast(net):
    class Autocast(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, images):
            with torch.autocast("cpu", torch.bfloat16):
                return self.net(images).float()

    return Autocast()


class Rounding(torch.nn.Module):
    """Lets torch round the factors of products, inside its forward alone."""

    def __init__(self):
        super().__init__()
        self.net = SmallNet(K)

    def forward(self, images):
        torch.backends.cuda.matmul.fp32_precision, before = "tf32", torch.backends.cuda.matmul.fp32_precision
        logits = self.net(images)
        torch.backends.cuda.matmul.fp32_precision = before
        return logits


AMP, WEIGHTS, COMPUTES, ROUNDS = (
    "the attacks compute in bf16 (--precision bf16)",
    "the model has weights in bfloat16",
    "the model computes in bfloat16",
    "the model lets products be rounded to tf32",
)


@pytest.mark.parametrize(
    ("net", "amp", "reduced"),
    [
        (SmallNet(K), False, []),
        (SmallNet(K).double(), False, []),
        (SmallNet(K), True, [AMP]),
        (SmallNet(K).bfloat16(), False, [WEIGHTS, COMPUTES]),
        (Changed(net=autocast(SmallNet(K))), False, [COMPUTES]),
        (Rounding(), False, [ROUNDS]),
    ],
    ids=["float32", "float64", "amp", "half weights", "autocast inside", "products inside"],
)
def test_reduced_precision_is_told_wherever_it_is(net, amp, reduced, tmp_path):
    found = look(Segmenter.wrap(net, num_classes=K).eval(), tmp_path, amp=amp)["full precision"]
    assert found["verdict"] == ("warn" if reduced else "pass") and found["numbers"]["reduced"] == reduced
    assert found["evidence"] == ("; ".join(reduced) or "float32 throughout")


def test_weights_that_change_during_the_run(tmp_path):
    look(segmenter("small"), tmp_path, checks=False)
    model = segmenter("small")
    with torch.no_grad():
        model.net.last.bias[0] += 1e-3
    looked = context(model, tmp_path)
    from segrobust.checks.integrity import traceable
    from segrobust.checks.model import unchanged

    assert unchanged(looked).level == "fail" and traceable(looked).numbers["changed"] == ["weights_sha256"]
    assert RunFolder(tmp_path).read_json("run.json")["identity"]["model"] == "small"


def test_what_stands_below_void_is_changed_for_attacks_that_weigh_classes_too(tmp_path):
    """Standard counts the pixels of each class of an image."""
    found = look(segmenter("small"), tmp_path, attacks=["Standard"], steps=8)[VOID]
    assert found["verdict"] == "pass" and found["numbers"]["attacks"] == ["Standard"] and found["numbers"]["images"] > 0
