"""One perturbation for many images: exact optima, the published step written out once more, bounds, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from segrobust.attacks.universal import UniversalPerturbation
from segrobust.core.errors import UserError
from tests.attacks.toys import PixelLinear, SmallNet, batch, share_wrong


def of_one_class(model, count=4, size=6, seed=0, low=0.3, high=0.7):
    """Images away from 0 and 1, and labels that are class 0 everywhere."""
    images = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return images * (high - low) + low, torch.zeros(count, size, size, dtype=torch.long)


def uphill(model):
    """What raises class 1 over class 0, per channel."""
    return (model.weight[1] - model.weight[0]).detach().view(3)


@pytest.mark.parametrize("weight", ["jensen_shannon", "ce", "cospgd", "segpgd"])
def test_the_best_perturbation_of_a_linear_model_in_linf(weight):
    model, eps = PixelLinear(), 0.05
    batches = [of_one_class(model, seed=seed) for seed in range(3)]
    fitted = UniversalPerturbation(eps=eps, epochs=3, weight=weight).fit(model, batches)
    best = eps * uphill(model).sign().view(3, 1, 1).expand(3, 6, 6)
    torch.testing.assert_close(fitted, best, atol=1e-6, rtol=0)


def test_the_best_perturbation_of_a_linear_model_in_l2():
    model, eps = PixelLinear(), 0.6
    images = torch.full((2, 3, 5, 4), 0.5)
    labels = torch.zeros(2, 5, 4, dtype=torch.long)
    attack = UniversalPerturbation(norm="L2", eps=eps, epochs=3)
    fitted = attack.fit(model, [(images, labels)])
    best = uphill(model).view(3, 1, 1).expand(3, 5, 4)
    torch.testing.assert_close(fitted, eps * best / best.norm(), atol=1e-6, rtol=0)


def test_it_does_as_much_to_images_it_was_not_fitted_on():
    model, eps = PixelLinear(), 0.05
    attack = UniversalPerturbation(eps=eps, epochs=2)
    fitted = attack.fit(model, [of_one_class(model)])
    images, labels = of_one_class(model, seed=9)
    with torch.no_grad():
        logits = model(images)
    flips = (logits[:, 0] < logits[:, 1] + eps * uphill(model).abs().sum()).flatten(1).float().mean(1)
    assert 0.2 < flips.mean() < 1 and flips.mean() > 1.2 * share_wrong(model, images, labels).mean()
    assert torch.equal(share_wrong(model, attack.apply(fitted, images, [0] * 4).images, labels), flips)
    noisy = attack.apply(attack.control(images), images, [0] * 4).images
    assert share_wrong(model, noisy, labels).mean() < flips.mean() - 0.05


def written_out(model, images, labels, eps, epochs):
    """The L2 fit on one batch with autograd, as its docstring tells it."""
    delta, momentum = torch.zeros(images.shape[1:]), torch.zeros(images.shape[1:])
    for step in range(epochs):
        at = delta.clone().requires_grad_()
        loss = F.cross_entropy(model((images + at).clamp(0, 1)), labels, ignore_index=255, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, at)
        momentum = 0.9 * momentum + gradient / gradient.abs().mean()
        size = eps * (1 + math.cos(math.pi * step / epochs)) / 2
        delta = delta + size * momentum / momentum.norm()
        delta = delta * min(1.0, eps / float(delta.norm()))
    return delta


def test_every_step_is_the_written_one():
    model = SmallNet().eval()
    images, labels = batch(model)
    images = images.clamp(0.2, 0.8)
    images[images == 0.8] = 0.9999  # some pixels are clipped from the second step on
    fitted = UniversalPerturbation(norm="L2", eps=1.5, epochs=5, weight="ce").fit(model, [(images, labels)])
    wanted = written_out(model, images, labels, 1.5, 5)
    torch.testing.assert_close(fitted, wanted, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(fitted, written_out(model, images, labels, 1.5, 4), atol=1e-3)


@pytest.mark.parametrize(("norm", "eps"), [("Linf", "8/255"), ("L2", 2.0), ("Linf", 1.0), ("L2", 6.0)])
def test_bounds(norm, eps):
    model = SmallNet()
    images, labels = batch(model)
    attack = UniversalPerturbation(norm=norm, eps=eps, epochs=2)
    for fitted in (attack.fit(model, [(images, labels)]), attack.control(images)):
        length = fitted.abs().max() if norm == "Linf" else fitted.norm()
        assert 0.95 * attack.eps < length <= attack.eps * (1 + 1e-6) + 1e-6
        attacked, covered = attack.apply(fitted, images.round(), [0] * 3)
        assert attacked.min() == 0 and attacked.max() == 1 and not covered.any()
        assert torch.equal(attacked, (images.round() + fitted).clamp(0, 1))


def test_noise_of_the_same_size():
    images = torch.zeros(2, 3, 8, 9)
    signs = UniversalPerturbation(eps="8/255").control(images)
    torch.testing.assert_close(signs.abs(), torch.full((3, 8, 9), 8 / 255), atol=1e-7, rtol=0)
    assert 0.3 < (signs > 0).float().mean() < 0.7 and not torch.equal(signs[0], signs[1])
    assert UniversalPerturbation(norm="L2", eps=0.7).control(images).norm() == pytest.approx(0.7, abs=1e-6)
    assert not torch.equal(signs, UniversalPerturbation(eps="8/255").control(images, seed=1))


def test_the_seed_decides_and_the_model_stays_as_it_was():
    model = SmallNet().train()
    batches = [batch(model, seed=seed) for seed in range(4)]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    first, again, other = (UniversalPerturbation(epochs=2).fit(model, batches, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert model.training and all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_void_pixels_and_void_images_have_no_influence():
    model = SmallNet()
    images, labels = batch(model)
    attack = UniversalPerturbation(epochs=2)
    fitted = attack.fit(model, [(images, labels)])
    other = attack.fit(model, [(images, labels.masked_fill(labels == 255, 77))], ignore_index=77)
    assert torch.equal(fitted, other)
    nothing = attack.fit(model, [(images, torch.full_like(labels, 255))])
    assert torch.equal(nothing, torch.zeros_like(nothing))


def test_images_of_another_size_are_refused_before_the_first_step():
    model = SmallNet()
    attack = UniversalPerturbation(epochs=1)
    batches = [batch(model, size=12), batch(model, size=10)]
    with pytest.raises(UserError, match="images of one size, 12x12, got one of 10x10; resize"):
        attack.fit(None, batches)
    with pytest.raises(UserError, match="12x12, got one of 10x10"):
        attack.apply(torch.zeros(3, 12, 12), batches[1][0], [0] * 3)
    with pytest.raises(UserError, match="at least one batch"):
        attack.fit(model, [])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"norm": "L1"}, "norm"),
        ({"eps": "8"}, 'did you mean "8/255"'),
        ({"epochs": 0}, "epochs >= 1"),
        ({"weight": "cosgpd"}, "cospgd"),
    ],
)
def test_fields_out_of_range_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        UniversalPerturbation(**fields)


def test_its_fields_are_plain_and_its_identity():
    attack = UniversalPerturbation(norm="L2", eps="1/2", epochs=4)
    assert attack.fields() == {
        "type": "UniversalPerturbation", "norm": "L2", "eps": 0.5, "epochs": 4, "weight": "jensen_shannon",
    }  # fmt: skip
