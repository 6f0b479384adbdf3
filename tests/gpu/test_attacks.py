"""Attacks on a GPU: every one keeps its promises there, and finds what it finds on a CPU."""

from __future__ import annotations

import pytest
import torch

from segrobust.attacks import ATTACKS, build_attack
from segrobust.core.threats import THREATS, allowed
from segrobust.models.precision import computing_in
from tests.attacks.test_table import BOUNDED, GRADIENT, RADII, call, in_every_norm, make
from tests.attacks.toys import PixelLinear, SmallNet, batch, share_wrong

SAME = {"Linf": 1e-5, "L2": 2e-5, "L1": 1e-4}  # of pixels; sums over an image differ in their order
NOT_GREEDY = ("KLPGD", "SphericalPGD", "Square")  # they may leave a pixel that can be had: for others, or untried
DRAWS_LOTS = ("Square",)  # ties between candidates: its points may differ, not what they reach

pytestmark = pytest.mark.usefixtures("float32")


def on(device, seed=1, **options):
    """A network that normalises, and images and labels for it."""
    net = SmallNet().eval()
    images, labels = batch(net, seed=seed, **options)
    return net.to(device), images.to(device), labels.to(device)


@in_every_norm(ATTACKS)
def test_every_attack_keeps_its_promises(device, name, norm):
    net, images, labels = on(device)
    attack = make(name, norm)
    result = call(attack, net, images, labels)
    assert_images(result.images, images, norm, getattr(attack, "eps", None))
    assert torch.equal(THREATS[norm].distance(result.images - images), result.distance)
    assert result.pixel_error.device.type == device.type
    if not attack.targeted:
        torch.testing.assert_close(result.pixel_error, share_wrong(net, result.images, labels))
    for spent, announced in zip((result.forwards, result.backwards), attack.passes(), strict=True):
        assert (spent == announced).logical_or(result.found.cpu() & attack.minimum_norm & (spent > 0)).all()
        assert (spent <= announced).all()
    if attack.minimum_norm:  # its worst images within a radius
        found = call(attack, net, images, labels, budgets=(RADII[norm],))
        for candidate in found.candidates:
            assert_images(candidate.images, images, norm, candidate.eps)
    else:
        assert (result.distance > 0).all()


def assert_images(points, clean, norm, eps):
    """What is returned are images, on the device, and within a radius where there is one."""
    assert points.device == clean.device and points.dtype == torch.float32
    assert torch.isfinite(points).all() and points.min() >= 0 and points.max() <= 1
    assert eps is None or (THREATS[norm].distance(points - clean) <= allowed(norm, eps)).all()


@in_every_norm(ATTACKS)
def test_on_a_gpu_it_finds_what_it_finds_on_a_cpu(device, name, norm):
    """On a model that is linear in every pixel, where rounding decides nothing."""
    net = PixelLinear().eval()
    images, labels = batch(net)
    seeds = [5, 6, 7]
    with computing_in("float32", torch.device("cpu")):
        expected = call(make(name, norm), net, images, labels, seeds=seeds)
    net = net.to(device)
    found = call(make(name, norm), net, images.to(device), labels.to(device), seeds=seeds)
    assert torch.equal(found.pixel_error.cpu(), expected.pixel_error)
    assert torch.equal(found.found.cpu(), expected.found)
    assert found.forwards.tolist() == expected.forwards.tolist()
    assert found.backwards.tolist() == expected.backwards.tolist()
    if name not in DRAWS_LOTS:
        torch.testing.assert_close(found.images.cpu(), expected.images, rtol=0, atol=SAME[norm])
        torch.testing.assert_close(found.distance.cpu(), expected.distance, rtol=1e-5, atol=SAME[norm])


def norms_that_flip(net, images, labels):
    """Per pixel the smallest Linf change that makes it wrong, in float64 ``[N, H, W]``: 0 for wrong ones, inf for void.

    The margin of a pixel with three channels falls by |slope| times the change, in each channel up to the box.
    """
    weight = net.weight.detach().cpu().double().flatten(1)
    slope = weight[1] - weight[0]
    direction = torch.where(labels == 1, -1.0, 1.0).double()  # towards the other class
    pixels = images.double()
    margin = (pixels * slope.view(1, 3, 1, 1)).sum(1) + (net.bias[1] - net.bias[0]).detach().cpu().double()
    ascent = direction.unsqueeze(1) * slope.view(1, 3, 1, 1)
    room = torch.where(ascent > 0, 1 - pixels, pixels)
    missing = -direction * margin

    def gained(radius):
        return (ascent.abs() * torch.minimum(room, radius.unsqueeze(1))).sum(1)

    low, high = torch.zeros_like(missing), torch.ones_like(missing)
    for _ in range(60):
        middle = (low + high) / 2
        enough = gained(middle) >= missing
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return high.masked_fill(missing < 0, 0).masked_fill(labels == 255, torch.inf)


@pytest.mark.parametrize("name", [name for name in GRADIENT if "Linf" in ATTACKS[name].norms])
def test_the_exact_optimum_within_a_radius(device, name):
    """A pixel's loss sees that pixel alone, so every ascent with signed steps takes all that can be taken."""
    net = PixelLinear().eval()
    images, labels = batch(net, size=24)
    flips = norms_that_flip(net, images, labels)
    valid = (labels != 255).flatten(1).sum(1)
    low, high = ((flips <= RADII["Linf"] * factor).flatten(1).sum(1) / valid for factor in (1 - 1e-5, 1 + 1e-5))
    result = call(make(name, "Linf", steps=40), net.to(device), images.to(device), labels.to(device))
    error = result.pixel_error.cpu()
    assert (error <= high + 1e-6).all() and (low > 0.3).all()
    assert name in NOT_GREEDY or (error >= low - 1e-6).all()


@pytest.mark.parametrize(("name", "excess"), [("ALMAProx", 0.02), ("FMN", 0.02), ("PGDBisection", 0.02)])
def test_the_exact_minimum_norm(device, name, excess):
    """The norm at which 90 % of the pixels are wrong, which no attack can beat and these come close to."""
    net = PixelLinear().eval()
    images, labels = batch(net, size=24)
    flips, valid = norms_that_flip(net, images, labels), (labels != 255).flatten(1).sum(1)
    needed = (0.9 * valid).ceil().long()
    best = flips.flatten(1).sort(1).values.gather(1, needed.unsqueeze(1) - 1).squeeze(1).float()
    result = call(make(name, "Linf", steps=200), net.to(device), images.to(device), labels.to(device))
    assert result.found.all()
    assert (result.distance.cpu() >= best - 1e-5).all()
    assert (result.distance.cpu() <= best * (1 + excess)).all()


@pytest.mark.parametrize("norm", THREATS)
@pytest.mark.parametrize("size", [12, 37])
def test_random_starts_are_those_of_a_cpu(device, norm, size):
    net, images, labels = on(torch.device("cpu"), size=size)
    noise = build_attack("UniformNoise", norm=norm, eps=RADII[norm])
    seeds = [1, 2**40 + 3, 2**62 + 5]
    expected = noise(net, images, labels, seeds=seeds).images
    found = noise(net.to(device), images.to(device), labels.to(device), seeds=seeds).images
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-6)
    assert (expected - images).abs().amax() > 1e-3
    other = noise(net, images.to(device), labels.to(device), seeds=[one + 1 for one in seeds]).images
    assert not torch.allclose(other, found, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", BOUNDED)
def test_neighbours_change_nothing_on_a_gpu(device, name):
    net = PixelLinear(num_classes=3).to(device).eval()
    images, labels = batch(PixelLinear(num_classes=3))
    images, labels = images.to(device), labels.to(device)
    together = call(make(name), net, images, labels, seeds=[5, 6, 7])
    alone = call(make(name), net, images[1:2], labels[1:2], seeds=[6])
    torch.testing.assert_close(alone.images[0], together.images[1], rtol=0, atol=1e-5)
    assert alone.pixel_error[0] == together.pixel_error[1]
