"""PGD and APGD: checkpoints, stages, step rules, records."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from segrobust.attacks import ModelError, build_attack
from segrobust.attacks.gradient import NotFiniteError
from segrobust.attacks.optimise import checkpoints
from segrobust.core.errors import UserError
from tests.attacks.toys import PixelLinear, SmallNet, batch


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (90, [19, 36, 51, 64, 75, 84]),
        (120, [26, 49, 69, 86, 100, 111, 119]),
        (300, [66, 123, 171, 210, 240, 261, 279, 297]),
    ],
)
def test_apgd_looks_back_at_the_published_steps(steps, expected):
    assert checkpoints(steps) == expected


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(300, [90, 90, 120]), (100, [30, 30, 40]), (10, [3, 3, 4]), (3, [3]), (7, [2, 2, 3])],
)
def test_radius_reduction_stages(steps, expected):
    stages = build_attack("CEPGD", steps=steps).stages()
    assert [length for _, length in stages] == expected
    assert [radius for radius, _ in stages] == [2.0, 1.5, 1.0][-len(expected) :]


@pytest.mark.parametrize("first_step", [2.0, 1.0, 0.25])
def test_the_first_step_of_apgd_is_as_long_as_it_is_told(first_step):
    images = torch.full((1, 3, 6, 6), 0.5)
    labels = torch.zeros(1, 6, 6, dtype=torch.long)
    attack = build_attack("CEPGD", eps=0.1, steps=1, first_step=first_step, random_start=False, keep="last")
    result = attack(PixelLinear(), images, labels)
    assert result.distance.item() == pytest.approx(0.1 * min(first_step, 1), abs=1e-6)


def flips_possible(model, images, labels, eps):
    """Valid pixels that some change within eps and the box makes wrong, for two classes: exact, pixel by pixel."""
    weight = model.weight.detach()[:, :, 0, 0]
    towards = weight[1 - labels.clamp(0, 1)] - weight[labels.clamp(0, 1)]  # [N, H, W, 3], raises the other logit
    towards = towards.movedim(-1, 1)
    room = torch.where(towards > 0, (1 - images).clamp(max=eps), images.clamp(max=eps))
    with torch.no_grad():
        logits = model(images)
    own = logits.gather(1, labels.clamp(0, 1).unsqueeze(1)).squeeze(1)
    gap = own - (logits.sum(1) - own)
    return ((towards.abs() * room).sum(1) > gap + 1e-5).logical_and(labels != 255).flatten(1).sum(1)


@pytest.mark.parametrize("eps", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("name", ["CEPGD", "TsallisPGD", "SharpPGD", "FGSM"])
def test_on_a_linear_model_the_number_of_flipped_pixels_is_the_exact_optimum(name, eps):
    model = PixelLinear(num_classes=2)
    images, labels = batch(model, count=4, size=16)
    extra = {} if name == "FGSM" else {"steps": 40}
    result = build_attack(name, eps=eps, **extra)(model, images, labels)
    valid = (labels != 255).flatten(1).sum(1)
    exact = flips_possible(model, images, labels, eps)
    assert exact.min() > 0 and (exact < valid).any()
    assert torch.equal((result.pixel_error * valid).round().long(), exact)


@pytest.mark.parametrize(
    ("schedule", "sizes"),
    [
        ("constant", [0.01, 0.01, 0.01, 0.01]),
        ("linear", [0.01, 0.0075, 0.005, 0.0025]),
        ("cosine", [0.01, 0.0085355, 0.005, 0.0014645]),
    ],
)
def test_pgd_moves_by_its_schedule(schedule, sizes):
    class Ramp(torch.nn.Module):  # class 1 gains with brightness: every step goes up
        num_classes = 2

        def forward(self, images):
            return torch.stack([torch.zeros_like(images[:, 0]), images.sum(1) - 3], 1)

    images, labels = torch.full((1, 3, 4, 4), 0.2), torch.zeros(1, 4, 4, dtype=torch.long)
    attack = build_attack(
        "CEPGD", eps=0.5, optimiser="pgd", radius_reduction=False, random_start=False, steps=4, step_size=0.01
    )
    result = replace(attack, step_schedule=schedule, keep="last")(Ramp(), images, labels)
    torch.testing.assert_close(result.images, images + sum(sizes), rtol=0, atol=1e-6)


def test_restarts_never_lose_and_the_first_equals_a_single_run():
    model = SmallNet()
    images, labels = batch(model, size=20)
    attack = build_attack("CosPGD", eps=0.02, steps=6)
    one, three = (replace(attack, restarts=r)(model, images, labels) for r in (1, 3))
    assert (three.pixel_error >= one.pixel_error).all() and (three.pixel_error > one.pixel_error).any()
    assert three.backwards[0] == 18 and one.backwards[0] == 6


@pytest.mark.parametrize("field", [{"track": "error"}, {"handover": "ce"}, {"scope": "run"}, {"keep": "last"}])
def test_every_option_has_an_effect(field):
    model = SmallNet()
    images, labels = batch(model, count=6, size=24)
    attack = build_attack("TsallisPGD", eps=0.02, steps=40)
    base, other = attack(model, images, labels), replace(attack, **field)(model, images, labels)
    assert not torch.equal(base.images, other.images)


def test_kept_best_is_never_worse_than_kept_last():
    model = SmallNet()
    images, labels = batch(model, size=24)
    best, last = (
        build_attack("CEPGD", eps=0.03, steps=20, keep=keep)(model, images, labels).pixel_error
        for keep in ("best", "last")
    )
    assert (best >= last).all()


class FailsLater(PixelLinear):
    """In its third gradient, that of the second image is NaN."""

    def __init__(self):
        super().__init__()
        self.backwards = 0

    def forward(self, images):
        if images.requires_grad:
            images = images.clone()
            images.register_hook(self._spoil)
        return super().forward(images)

    def _spoil(self, gradient):
        self.backwards += 1
        return gradient if self.backwards != 3 else gradient.index_fill(0, torch.tensor([1]), math.nan)


@pytest.mark.parametrize(
    "attack",
    [
        build_attack("CEPGD", eps=0.1, steps=6),
        build_attack("SegPGD", norm="L1", eps=9.0, steps=6),
        build_attack("Standard", eps=0.1, steps=9),
        build_attack("FMN", steps=6, quantise=True, norm="L2"),
        build_attack("DAG", steps=6),
    ],
    ids=lambda attack: f"{attack.name} {attack.norm}",
)
def test_a_gradient_that_fails_later_ends_the_attack_without_a_result(attack):
    images, labels = batch(PixelLinear())
    with pytest.raises(NotFiniteError, match="the gradient with respect to the images is not finite"):
        attack(FailsLater(), images, labels)


def test_a_first_gradient_that_fails_is_refused_at_once():
    model = FailsLater()
    model.backwards = 2
    images, labels = batch(PixelLinear())
    with pytest.raises(NotFiniteError, match="the gradient with respect to the images is not finite"):
        build_attack("CEPGD", eps=0.1, steps=50)(model, images, labels)
    assert model.backwards == 3


def test_models_that_cannot_be_attacked_are_named():
    class Detached(PixelLinear):
        def forward(self, images):
            return super().forward(images).detach()

    class Broken(PixelLinear):
        def forward(self, images):
            return super().forward(images) * float("nan")

    images, labels = batch(PixelLinear())
    with pytest.raises(ModelError, match="do not depend on the images"):
        build_attack("CEPGD", steps=3)(Detached(), images, labels)
    with pytest.raises(ModelError, match="not finite"):
        build_attack("CEPGD", steps=3)(Broken(), images, labels)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"type": "CEPGD", "steps": 0}, "whole number steps >= 1"),
        ({"type": "CEPGD", "steps": 2.5}, "whole number"),
        ({"type": "CEPGD", "eps": "8"}, 'did you mean "8/255"'),
        ({"type": "CEPGD", "eps": "-1/255"}, "fraction such as"),
        ({"type": "CEPGD", "eps": -0.1}, ">= 0"),
        ({"type": "CEPGD", "norm": "L3"}, "unknown norm"),
        ({"type": "CEPGD", "track": "loss"}, "track"),
        ({"type": "CEPGD", "first_step": 0}, "first_step > 0"),
        ({"type": "CEPGD", "step_size": 0.01}, "APGD chooses"),
        ({"type": "CEPGD", "seed": 0.5}, "whole number seed >= 0"),
        ({"type": "BalancedPGD", "class_counts": 5}, "one per class"),
        ({"type": "TsallisPGD", "q_start": "a"}, "q_start to be a number"),
        ({"type": "TsallisPGD", "q_start": None}, "q_start to be a number, got None"),
        ({"type": "TsallisPGD", "p_start": 1}, "expected 0 < p_start < 1, got 1"),
        ({"type": "TsallisPGD", "end_fraction": -1}, "expected 0 <= end_fraction <= 1, got -1"),
        ({"type": "Square", "spacing": 0.5}, "expected spacing >= 1, got 0.5"),
        ({"type": "CEPGD", "halves_first": 1}, "halves_first to be True or False, got 1"),
        ({"type": "CEPGD", "stepz": 3}, "did you mean steps"),
        ({"type": "SegPDG"}, "did you mean seg-pgd"),
        ({"type": "cospgd:paper"}, "unknown preset"),
        ({}, "type="),
    ],
)
def test_bad_configs_are_told_in_one_line(spec, message):
    with pytest.raises(UserError) as caught:
        build_attack(spec)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_built_attack_takes_no_preset():
    with pytest.raises(UserError, match="keeps its settings"):
        build_attack(build_attack("CosPGD"), preset="published")


def test_the_three_spellings_build_the_same():
    assert build_attack("TsallisPGD") == build_attack("tsallis-pgd") == build_attack("tsallispgd")
    assert build_attack(build_attack("SegPGD"), eps="1/255").eps == pytest.approx(1 / 255)
