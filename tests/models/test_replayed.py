"""Passes that are replayed: the model's own numbers, and the model itself wherever a replay could not stand for it."""

from __future__ import annotations

import copy
import itertools
import logging

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from segrobust import Segmenter
from segrobust.attacks import build_attack
from segrobust.models import replayed as module
from segrobust.models.captured import CudaCapture, NotReplayed, Passes
from segrobust.models.replayed import EAGER_CALLS, MOST_CAPTURES, MOST_GRAPHS, Replayed
from segrobust.models.segmenter import frozen_eval
from tests.attacks.toys import SmallNet, batch
from tests.models.replaying import EAGER_MS, FULL, stand_in


@pytest.fixture
def net():
    return SmallNet()


def points(size=6, count=2, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def passes(model, at):
    """Logits and the input gradient of one loss."""
    at = at.clone().requires_grad_()
    logits = model(at)
    (gradient,) = torch.autograd.grad(logits, at, logits.detach().cos())
    return logits.detach(), gradient


def warmed(net, at, **changes):
    """A replayed model whose next pass at this shape is captured, and its capture."""
    capture = stand_in(**changes)
    model = Replayed(net, capture)
    for _ in range(EAGER_CALLS):
        passes(model, at)
    assert capture.told == []
    return model, capture


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def count(told, what):
    return told.count(what)


def replays(model, capture, at):
    """Whether a pass is replayed, forward and backward, after it was shown to be the model's own."""
    before = len(capture.told)
    assert equal(passes(model, at), passes(model._model, at))
    return capture.told[before:] == ["forward", "backward"]


def test_a_shape_is_captured_once_and_then_replayed_with_the_models_numbers(net):
    with frozen_eval(net):
        model, capture = warmed(net, points())
        passes(model, points())
        assert count(capture.told, "captured") == 1
        assert all(replays(model, capture, points(seed=seed)) for seed in range(3))
        before = len(capture.told)
        with torch.no_grad():
            assert torch.equal(model(points(seed=5)), net(points(seed=5)))
        assert capture.told[before:] == ["forward"]


def test_what_was_returned_stays_as_it_was(net):
    with frozen_eval(net):
        model, _ = warmed(net, points())
        first = passes(model, points(seed=1))
        kept = [one.clone() for one in first]
        passes(model, points(seed=2))
        with torch.no_grad():
            model(points(seed=3))
        assert equal(first, kept)


def test_every_shape_type_and_precision_has_graphs_of_its_own(net):
    with frozen_eval(net):
        model, capture = warmed(net, points())
        passes(model, points())
        for at in (points(7), points(count=3), points().contiguous(memory_format=torch.channels_last)):
            assert not replays(model, capture, at)
        assert replays(model, capture, points())
        with torch.autocast("cpu", torch.bfloat16):
            assert not replays(model, capture, points())
        torch.use_deterministic_algorithms(True)
        try:
            assert not replays(model, capture, points())
        finally:
            torch.use_deterministic_algorithms(False)
        precision = torch.backends.cudnn.conv.fp32_precision
        torch.backends.cudnn.conv.fp32_precision = "ieee" if precision != "ieee" else "tf32"
        try:
            assert not replays(model, capture, points())
        finally:
            torch.backends.cudnn.conv.fp32_precision = precision
        assert count(capture.told, "captured") == 1
        with torch.autocast("cpu", torch.bfloat16):
            for _ in range(EAGER_CALLS):
                passes(model, points())
            assert count(capture.told, "captured") == 2 and replays(model, capture, points())


def test_weights_that_change_in_place_are_seen(net):
    with frozen_eval(net):
        model, capture = warmed(net, points())
        passes(model, points())
        other = SmallNet(seed=4).state_dict()
        net.load_state_dict(other)
        assert replays(model, capture, points())
        with torch.no_grad():
            net.norm.running_mean += 0.3
        assert replays(model, capture, points())
        assert count(capture.told, "captured") == 1


def test_weights_elsewhere_are_captured_anew_and_not_for_ever(net, caplog):
    caplog.set_level(logging.INFO)
    with frozen_eval(net):
        model, capture = warmed(net, points())
        passes(model, points())
        for captures in range(2, MOST_CAPTURES + 2):
            net.last.bias.data = net.last.bias.data.clone() + 1
            for _ in range(EAGER_CALLS):
                assert not replays(model, capture, points())
            passes(model, points())
            again = captures <= MOST_CAPTURES
            assert count(capture.told, "captured") == min(captures, MOST_CAPTURES)
            assert replays(model, capture, points()) == again
    assert count(capture.told, "released") == MOST_CAPTURES
    assert f"it was captured {MOST_CAPTURES} times and had to go again" in caplog.text


def test_a_forward_is_eager_while_a_backward_may_come(net):
    with frozen_eval(net):
        model, capture = warmed(net, points())
        passes(model, points())
        at = points(seed=1).requires_grad_()
        logits = model(at)
        before = len(capture.told)
        between = passes(model, points(seed=2))
        with torch.no_grad():
            alone = model(points(seed=3))
        assert capture.told[before:] == []
        assert equal(between, passes(net, points(seed=2))) and torch.equal(alone, net(points(seed=3)))
        (gradient,) = torch.autograd.grad(logits, at, logits.detach().cos())
        assert equal((logits, gradient), passes(net, at.detach()))
        assert replays(model, capture, points(seed=4))
        logits = model(at)
        del logits  # nobody can ask for its gradient any more
        assert replays(model, capture, points(seed=5))


def test_a_second_backward_is_refused(net):
    with frozen_eval(net):
        model, _ = warmed(net, points())
        passes(model, points())
        at = points().requires_grad_()
        logits = model(at)
        torch.autograd.grad(logits.sum(), at, retain_graph=True)
        with pytest.raises(RuntimeError, match="one backward, before the next forward"):
            torch.autograd.grad(logits.sum(), at)


class Nothing(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def test_what_python_does_in_a_forward_is_done(net):
    with frozen_eval(net):
        model, capture = warmed(net, points())
        passes(model, points())
        for part in (net, net.norm):
            for register in ("register_forward_hook", "register_forward_pre_hook"):
                seen = []
                handle = getattr(part, register)(lambda *_, seen=seen: seen.append(1))
                assert not replays(model, capture, points()) and len(seen) == 2
                handle.remove()
        net.drop.training = True
        before = len(capture.told)
        passes(model, points())
        assert len(capture.told) == before
        net.drop.training = False
        net.first.bias.requires_grad_(True)
        logits = model(points())
        assert torch.autograd.grad(logits.sum(), net.first.bias)[0].abs().sum() > 0
        net.first.bias.requires_grad_(False)
        with Nothing():
            assert not replays(model, capture, points())
        with torch.inference_mode():
            before = len(capture.told)
            assert torch.equal(model(points()), net(points()))
            assert len(capture.told) == before
        net.checkpointing = True
        assert not replays(model, capture, points())
        net.checkpointing = False
        assert replays(model, capture, points())


class Draws(nn.Module):
    def forward(self, images):
        return images * 2 + 1e-6 * torch.rand(())


class Wanders(nn.Module):
    """Has a state of its own."""

    def __init__(self):
        super().__init__()
        self.steps = itertools.count()

    def forward(self, images):
        return images * next(self.steps)


DROPPED = {
    "capture raises": ({"fails": RuntimeError("no such\nkernel")}, None, "RuntimeError: no such"),
    "memory is full": ({"fails": torch.OutOfMemoryError("CUDA out of memory")}, None, "memory is full"),
    "memory is needed": ({"fails": FULL}, None, "20 are needed"),
    "another result": ({"wrong": 1e-6}, None, "a replay differs from the eager pass"),
    "not faster": ({"times": (EAGER_MS, 0.95 * EAGER_MS)}, None, "a replay takes 9.50 ms, an eager pass 10.00"),
    "random numbers": ({}, Draws(), "the model draws random numbers"),
    "a state": ({}, Wanders(), "two eager passes differ by"),
}


@pytest.mark.parametrize("why", DROPPED)
def test_no_graph_for_ever_with_one_reason(why, net, caplog):
    caplog.set_level(logging.INFO)
    changes, other, reason = DROPPED[why]
    net = other or net
    with frozen_eval(net):
        model, capture = warmed(net, points(), **changes)
        for _ in range(3):
            passes(model, points())
        before = len(capture.told)
        passes(model, points())
        assert len(capture.told) == before
    assert count(capture.told, "captured") == count(capture.told, "released") <= 1
    (line,) = [one.message for one in caplog.records if "passes stay eager" in one.message]
    assert reason in line and "\n" not in line


def test_a_little_faster_is_enough(net):
    with frozen_eval(net):
        model, capture = warmed(net, points(), times=(EAGER_MS, 0.9 * EAGER_MS))
        passes(model, points())
        assert replays(model, capture, points())


class Noisy(nn.Module):
    """Differs from itself by rounding, without drawing."""

    def __init__(self):
        super().__init__()
        self.signs = itertools.cycle([1, 1, -1])

    def forward(self, images):
        return images * (2 + 1e-6 * next(self.signs))


@pytest.mark.parametrize(("wrong", "kept"), [(3e-6, True), (1e-4, False)])
def test_a_model_that_does_not_repeat_is_repeated_as_well_as_it_does_itself(wrong, kept):
    net = Noisy()
    with frozen_eval(net):
        model, capture = warmed(net, points(), wrong=wrong)
        passes(model, points())
        assert ("released" in capture.told) == (not kept)


def test_few_graphs_are_kept_and_the_one_not_used_goes(net):
    sizes = range(6, 6 + MOST_GRAPHS + 1)
    with frozen_eval(net):
        model, capture = warmed(net, points(sizes[0]))
        for size in sizes:
            for _ in range(EAGER_CALLS + 1):
                passes(model, points(size))
            if size == sizes[1]:
                passes(model, points(sizes[0]))
        assert count(capture.told, "captured") == MOST_GRAPHS + 1 and count(capture.told, "released") == 1
        assert replays(model, capture, points(sizes[0])) and not replays(model, capture, points(sizes[1]))


def test_memory_is_given_back_on_demand(net):
    with frozen_eval(net):
        model, capture = warmed(net, points())
        passes(model, points())
        model.release()
        assert capture.told[-1] == "released"
        assert not replays(model, capture, points())


def test_it_is_the_model_everywhere_else(net):
    segmenter = Segmenter.wrap(net, num_classes=4, ignore_index=7, name="mine")
    model = Replayed(segmenter, stand_in())
    assert (model.ignore_index, model.num_classes, model.name) == (7, 4, "mine")
    assert dict(model.named_modules()) == dict(segmenter.named_modules())
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in segmenter.named_parameters()]
    assert model.state_dict().keys() == segmenter.state_dict().keys()
    assert not model.eval().training and not segmenter.training and not net.drop.training
    assert model.train().training and segmenter.training
    with frozen_eval(model):
        assert not segmenter.training and not any(one.requires_grad for one in net.parameters())
    assert segmenter.training
    with pytest.raises(AttributeError, match="nothing"):
        model.nothing  # noqa: B018


def test_on_a_cpu_nothing_is_captured(net):
    with frozen_eval(net):
        model = Replayed(net)
        for _ in range(EAGER_CALLS + 2):
            assert equal(passes(model, points()), passes(net, points()))
    assert not CudaCapture.serves(points()) and not model._graphs and not model._calls


ATTACKS = {
    "TsallisPGD": {"steps": 12},
    "SharpPGD": {"steps": 12, "norm": "L2", "eps": 0.5},
    "SEA": {"steps": 8},
    "ALMAProx": {"steps": 20},
    "FMN": {"steps": 20},
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_give_the_same_images(name):
    net = SmallNet()
    images, labels = batch(net)
    attack = build_attack(name, **ATTACKS[name])
    capture = stand_in()
    expected, found = attack(copy.deepcopy(net), images, labels), attack(Replayed(net, capture), images, labels)
    assert count(capture.told, "backward") > 4 and count(capture.told, "captured") >= 1
    for field in ("images", "distance", "pixel_error", "forwards", "backwards"):
        assert torch.equal(getattr(found, field), getattr(expected, field))


def test_tensors_that_a_module_forgets_are_kept_for_the_graph():
    class Cached(nn.Module):
        grid = torch.full((6, 6), 2.0)

        def forward(self, images):
            return images * self.grid

    net = Cached()
    with frozen_eval(net):
        model, _ = warmed(net, points())
        passes(model, points())
        (graph,) = model._graphs.values()
        kept = {tensor.data_ptr() for tensor in graph.passes.kept}
        assert net.grid.data_ptr() in kept and len(kept) == 2  # and the points of that pass
    assert module.EAGER_CALLS >= 2  # by then the module has it


def test_the_largest_need_is_remembered_between_captures(net):
    """Each log of mmengine forgets the peak so far."""
    with frozen_eval(net):
        model, capture = warmed(net, points(), needs=[70, 0, 0, 5, 0])
        passes(model, points())
        for _ in range(EAGER_CALLS + 1):
            passes(model, points(7))
    assert capture.told_needs == [70, 70]


MEBI = 2**20


@pytest.mark.parametrize(
    ("free", "fraction", "kept"), [(1000, 1.0, True), (390, 1.0, False), (1000, 0.7, True), (1000, 0.68, False)]
)
def test_a_graph_leaves_memory_for_the_largest_need_so_far(monkeypatch, free, fraction, kept):
    """1000 MiB in all; 10 are allocated, 410 were; a graph takes 300 of which 20 are its tensors."""
    memory = {"reserved": 0, "allocated": 10}
    numbers = {
        "max_memory_allocated": lambda _: 410 * MEBI,
        "memory_allocated": lambda _: memory["allocated"] * MEBI,
        "memory_reserved": lambda _: memory["reserved"] * MEBI,
        "mem_get_info": lambda _: (free * MEBI, 1000 * MEBI),
        "get_per_process_memory_fraction": lambda _: fraction,
        "empty_cache": lambda: None,
    }
    for name, number in numbers.items():
        monkeypatch.setattr(torch.cuda, name, number)
    capture, released = CudaCapture.__new__(CudaCapture), []
    capture.device = torch.device("cuda")

    def captured(model, points):
        memory["reserved"] += 300
        memory["allocated"] += 20
        return Passes(*[points] * 4, None, None, lambda: released.append(1))

    monkeypatch.setattr(capture, "_captured", captured)
    if kept:
        assert capture.passes(None, points()).held == 280 * MEBI and not released
    else:
        with pytest.raises(NotReplayed, match="MiB of memory, 400 are needed"):
            capture.passes(None, points())
        assert released
