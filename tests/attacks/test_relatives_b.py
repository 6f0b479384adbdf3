"""PDPGD, PDGD, ASMA, ALMACls and the ensemble: against exact optima of linear models, and what each one promises."""

from __future__ import annotations

import json
import math

import pytest
import torch

from segrobust.attacks.alma_cls import ALMACls
from segrobust.attacks.asma import ASMA, mean_iou
from segrobust.attacks.bounded import CosPGD
from segrobust.attacks.min_norm_ensemble import MinNormEnsemble
from segrobust.attacks.primal_dual import PDGD, PDPGD
from segrobust.attacks.registry import build_attack
from segrobust.attacks.segmentation import Goal
from segrobust.core.errors import UserError
from segrobust.core.threats import THREATS
from tests.attacks.toys import PixelLinear, SmallNet, batch, share_wrong

DUAL = {"Linf": lambda w: w.abs().sum(), "L2": lambda w: w.norm(), "L1": lambda w: w.abs().max()}


def scene(classes=3, size=12, void=0.15):
    """Images far from the ends of the range, that the model gets right."""
    model = PixelLinear(num_classes=classes)
    images, labels = batch(model, size=size, void=void)
    images = 0.25 + images / 2
    with torch.no_grad():
        return model, images, model(images).argmax(1).where(labels != 255, 255)


def optimum(model, images, labels, norm, apsr):
    """Smallest norm that takes ``apsr`` of the pixels over their nearest boundary, the box aside."""
    with torch.no_grad():
        logits = model(images)
    weight = model.weight[:, :, 0, 0].detach()
    smallest = []
    for image, classes in zip(logits, labels, strict=True):
        pixels = []
        for pixel, label in zip(image[:, classes != 255].T, classes[classes != 255].tolist(), strict=True):
            others = [k for k in range(len(weight)) if k != label]
            pixels.append(min((pixel[label] - pixel[k]) / DUAL[norm](weight[label] - weight[k]) for k in others))
        cheapest = torch.stack(pixels).sort().values[: math.ceil(apsr * len(pixels))]
        smallest.append(THREATS[norm].distance(cheapest.view(1, -1))[0])
    return torch.stack(smallest)


@pytest.mark.parametrize(
    ("attack", "factor"),
    [
        (PDPGD(norm="Linf"), 1.25),
        (PDPGD(norm="L2"), 1.8),
        (PDPGD(norm="L1"), 2.5),
        (PDGD(), 2.2),
        (ALMACls(), 1.2),
        (ALMACls(norm="L1"), 1.3),
    ],
    ids=lambda value: f"{value.name}-{value.norm}" if hasattr(value, "norm") else str(value),
)
def test_norm_against_the_exact_optimum(attack, factor):
    model, images, labels = scene()
    exact = optimum(model, images, labels, attack.norm, attack.apsr)
    result = attack(model, images, labels)
    assert result.found.all()
    ratio = result.distance / exact
    assert (ratio > 1 - 1e-4).all() and (ratio < factor).all(), ratio
    assert (share_wrong(model, result.images, labels) >= 0.99).all()
    assert (result.forwards[0], result.backwards[0]) == attack.passes() == (503, 500)


ATTACKS = [PDPGD(norm=norm, steps=120) for norm in THREATS] + [
    PDGD(steps=15),
    ASMA(steps=15),
    *(ALMACls(norm=norm, steps=15) for norm in ("L2", "L1")),
    build_attack("MinNormEnsemble", attacks=("FMN", "CosPGD"), radii=("8/255", "32/255"), steps=12),
]


def attack_id(attack):
    return f"{attack.name}-{attack.norm}"


@pytest.mark.parametrize("attack", ATTACKS, ids=attack_id)
class TestEach:
    def run(self, attack, model, images, labels, **more):
        targets = (labels + 1).remainder(model.num_classes).where(labels != 255, labels) if attack.targeted else None
        return attack(model, images, labels, targets=targets, **more)

    def test_batch_equals_singles_with_different_numbers_of_valid_pixels(self, attack):
        model, images, labels = scene()
        labels[0, :7] = labels[2, 1:] = 255
        together = self.run(attack, model, images, labels, seeds=[5, 6, 7], budgets=(0.02, 0.5))
        for n in range(3):
            part = slice(n, n + 1)
            alone = self.run(attack, model, images[part], labels[part], seeds=[5 + n], budgets=(0.02, 0.5))
            assert torch.equal(alone.images[0], together.images[n])
            assert alone.distance[0] == together.distance[n] and alone.forwards[0] == together.forwards[n]
            for one, all_of_them in zip(alone.candidates, together.candidates, strict=True):
                assert torch.equal(one.images[0], all_of_them.images[n])

    def test_void_and_images_without_valid_pixels(self, attack):
        model = SmallNet()
        images, labels = batch(model)
        labels[1] = 255
        first = self.run(attack, model, images, labels)
        targets = (labels + 1).remainder(4).where(labels != 255, -1) if attack.targeted else None
        second = attack(model, images, labels.where(labels != 255, -1), ignore_index=-1, targets=targets)
        assert torch.equal(first.images, second.images) and torch.isfinite(first.images).all()
        assert torch.equal(first.images[1], images[1]) and first.distance[1] == 0 and not first.found[1]
        assert not torch.equal(first.images[0], images[0])

    def test_a_pixel_that_is_at_its_goal_everywhere_costs_nothing(self, attack):
        model, images, labels = scene()
        with torch.no_grad():
            wrong = model(images).argmin(1).where(labels != 255, 255)
        targets = model(images).argmax(1).where(labels != 255, 255) if attack.targeted else None
        result = attack(model, images, wrong, targets=targets)
        assert result.found.all() and (result.distance == 0).all()

    def test_json_and_hash(self, attack):
        again = build_attack(json.loads(json.dumps(attack.fields())))
        assert again == attack and hash(again) == hash(attack)


@pytest.mark.parametrize("attack", [PDPGD(), PDPGD(norm="L1"), PDGD(), ALMACls(), ASMA()], ids=attack_id)
def test_targets_are_reached(attack):
    model, images, labels = scene(classes=2)
    with torch.no_grad():  # the same margins from logits that sum to 0: ASMA raises that of the target alone
        model.weight -= model.weight.mean(0)
        model.bias -= model.bias.mean()
    targets = 1 - labels
    targets[labels == 255] = 255
    targets[:, :2] = 255  # any class will do there
    attack = build_attack(attack, targeted=True, apsr=0.9)
    result = attack(model, images, labels, targets=targets)
    with torch.no_grad():
        hit = (model(result.images).argmax(1) == targets).flatten(1).sum(1) / (targets != 255).flatten(1).sum(1)
    assert result.found.all() and (hit >= 0.9).all()
    exact = optimum(model, images, labels.where(targets != 255, 255), attack.norm, 0.9)
    assert (result.distance > exact * (1 - 1e-4)).all()
    assert (result.distance < 4 * exact).all(), result.distance / exact


def test_asma_steps_grow_with_the_overlap():
    model, images, labels = scene(classes=2)
    targets = (1 - labels).where(labels != 255, 255)
    slow = ASMA(steps=60, iou_step=0.0)(model, images, labels, targets=targets)
    fast = ASMA(steps=60, iou_step=1e-5)(model, images, labels, targets=targets)
    assert (fast.pixel_error > slow.pixel_error + 0.1).all() and (slow.pixel_error > 0).all()


def test_asma_iou_is_per_image_and_without_void():
    wanted = torch.tensor([[[0, 0, 1, 1]], [[2, 2, 2, 0]]])
    seen = torch.tensor([[[0, 1, 1, 1]], [[2, 2, 0, 1]]])
    valid = torch.tensor([[[True, True, True, True]], [[True, True, True, False]]])
    predicted = torch.nn.functional.one_hot(seen, 3).movedim(-1, 1).bool()
    iou = mean_iou(Goal(wanted, valid, True), predicted, (wanted == seen) & valid)
    torch.testing.assert_close(iou, torch.tensor([(1 / 2 + 2 / 3 + 0) / 3, (0 / 1 + 0 + 2 / 3) / 3]))


def test_alma_first_step_has_its_length():
    model, images, labels = scene()
    for norm, length in (("L2", 0.7), ("L1", 5.0)):
        attack = ALMACls(norm=norm, steps=1, init_lr_distance=length)
        torch.testing.assert_close(attack(model, images, labels).distance, torch.full((3,), length), rtol=1e-3, atol=0)


class TestEnsemble:
    def test_no_member_finds_less_per_image(self):
        model, images, labels = scene(classes=4)
        members = [dict(type="PDPGD", steps=40), dict(type="FMN", steps=60), dict(type="CosPGD", steps=9)]
        radii = (4 / 255, 30 / 255, 60 / 255)
        whole = build_attack("MinNormEnsemble", attacks=members, radii=radii, apsr=0.9)(
            model, images, labels, seeds=[1, 2, 3]
        )
        norms = []
        for member in members[:2]:
            result = build_attack(member, apsr=0.9)(model, images, labels, seeds=[1, 2, 3])
            norms.append(result.distance.masked_fill(~result.found, torch.inf))
        for radius in radii:
            points = CosPGD(steps=9, eps=radius)(model, images, labels, seeds=[1, 2, 3]).images
            fooled = share_wrong(model, points, labels) >= 0.9
            norms.append(THREATS["Linf"].distance(points - images).masked_fill(~fooled, torch.inf))
        assert whole.found.all()
        torch.testing.assert_close(whole.distance, torch.stack(norms).amin(0), rtol=1e-4, atol=0)

    def test_bounded_members_leave_images_alone_that_are_closer_by_now(self):
        model, images, labels = scene()
        images[1] = 0.5 + (images[1] - 0.5) / 20  # near the boundaries
        with torch.no_grad():
            labels[1] = model(images[1:2]).argmax(1)[0].where(labels[1] != 255, 255)
        attack = build_attack("MinNormEnsemble", attacks=("FMN", "CosPGD"), radii=(0.05, 0.1, 0.3), steps=50, apsr=0.9)
        result = attack(model, images, labels)
        assert result.distance[1] < 0.05 < result.distance[0]
        assert result.backwards[1] == 50 < result.backwards[0] <= attack.passes()[1] == 200
        assert (result.forwards <= attack.passes()[0]).all()

    def test_all_passes_are_counted_where_nothing_is_found(self):
        model, images, labels = scene()
        attack = build_attack("MinNormEnsemble", attacks=("FMN", "CosPGD"), radii=(1e-4, 2e-4), steps=2)
        result = attack(model, images, labels)
        assert not result.found.any()
        assert (result.forwards[0], result.backwards[0]) == attack.passes()

    def test_budgets_take_the_worst_of_all_members(self):
        model, images, labels = scene()
        members = ("FMN", "PDPGD", "CosPGD")
        worst = [torch.zeros(3), torch.zeros(3)]
        for member in members[:2]:
            for n, budget in enumerate(
                build_attack(member, steps=20)(model, images, labels, budgets=(0.02, 0.1)).candidates
            ):
                worst[n] = torch.maximum(worst[n], share_wrong(model, budget.images, labels))
        attack = build_attack("MinNormEnsemble", attacks=members, radii=(0.02, 0.1), steps=20)
        bounded = CosPGD(steps=20, eps=0.02)(model, images, labels)
        worst[0] = torch.maximum(worst[0], share_wrong(model, bounded.images, labels))
        for n, budget in enumerate(attack(model, images, labels, budgets=(0.02, 0.1)).candidates):
            assert budget.eps == (0.02, 0.1)[n]
            assert (share_wrong(model, budget.images, labels) >= worst[n]).all()

    def test_configs_come_back_from_json(self):
        members = [PDPGD(steps=9), dict(type="BalancedPGD", class_counts=[1, 2, 3]), "CosPGD:published"]
        attack = build_attack(
            "MinNormEnsemble", attacks=[*members, dict(type="MinNormEnsemble", attacks=["FMN", {"type": "DAG"}])]
        )
        again = build_attack(json.loads(json.dumps(attack.fields())))
        assert again == attack and hash(again) == hash(attack) and again.fields() == attack.fields()
        assert attack.fields()["attacks"][0]["type"] == "PDPGD" and attack.fields()["attacks"][0]["steps"] == 9
        assert attack.members()[1].class_counts == (1.0, 2.0, 3.0)
        assert attack.members()[2].step_size == 0.01

    @pytest.mark.parametrize("norm", THREATS)
    def test_members_take_the_ensembles_settings(self, norm):
        for member in build_attack("MinNormEnsemble", norm=norm, targeted=True, apsr=0.7, steps=11).members():
            assert member.norm == norm and member.targeted and member.steps == 11
            assert getattr(member, "apsr", 0.7) == 0.7


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ASMA(targeted=False), "ASMA has no untargeted form"),
        (lambda: ASMA(step_size=0.0), "step_size > 0"),
        (lambda: PDGD(norm="Linf"), "PDGD has no Linf form"),
        (lambda: PDPGD(lr=-1.0), "expected lr > 0, got -1.0"),
        (lambda: PDGD(dual_lr=0), "dual_lr > 0"),
        (lambda: ALMACls(norm="Linf"), "ALMACls has no Linf form"),
        (lambda: ALMACls(init_lr_distance=0.0), "init_lr_distance > 0"),
        (lambda: build_attack("MinNormEnsemble", attacks=["PDGD"]), "PDGD has no Linf form; set norm to L2"),
        (lambda: build_attack("MinNormEnsemble", attacks=["FNM"]), "did you mean fmn"),
        (
            lambda: build_attack("MinNormEnsemble", attacks=[3]),
            "expected attacks, which build_attack makes of names, got 3",
        ),
        (lambda: MinNormEnsemble(attacks=["FMN"]), "expected attacks, which build_attack makes of names, got 'FMN'"),
        (lambda: build_attack("MinNormEnsemble", attacks=[]), r"expected attacks=\["),
        (lambda: build_attack("MinNormEnsemble", attacks="FMN"), r"expected attacks=\["),
        (
            lambda: build_attack("MinNormEnsemble", attacks=[{"type": "FMN", "apsr": 0.5}]),
            "sets apsr of its members itself",
        ),
        (lambda: build_attack("MinNormEnsemble", attacks=["FMN"], radii=(0.2, 0.1)), "radii above 0 that rise"),
        (lambda: build_attack("MinNormEnsemble", attacks=["FMN"], radii=("8",)), '"8/255"'),
        (lambda: build_attack("MinNormEnsemble", attacks=["ASMA"], norm="L2"), "ASMA has no untargeted form"),
    ],
)
def test_wrong_values_are_named_in_one_line(make, message):
    with pytest.raises(UserError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
