"""What goes over all logits on a GPU, seen on a CPU: equal to the kept-memory form, and compiled in one piece."""

from __future__ import annotations

import logging
import shutil
import weakref

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segrobust.attacks import build_attack, fused, margins, per_class
from segrobust.attacks.gradient import Engine
from segrobust.attacks.gradient_attack import GradientAttack
from segrobust.attacks.registry import ATTACKS
from segrobust.attacks.segmentation import Goal
from tests.attacks.toys import SmallNet, batch

WEIGHTED = [
    name
    for name, attack in ATTACKS.items()
    if issubclass(attack, GradientAttack) and attack.weight is not GradientAttack.weight
]


class Counting:
    """A backend of torch.compile that runs what it gets, and counts."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, module, inputs):
        self.graphs += 1
        return module


@pytest.fixture
def counting(monkeypatch):
    """All functions compiled, as on a GPU, by a backend that counts."""
    backend = Counting()
    torch._dynamo.reset()
    compiled = fused.Functions(*(fused.Compiled(one.function, backend=backend) for one in fused.COMPILED))
    monkeypatch.setattr(fused, "functions", lambda logits, on: compiled if on else fused.EAGER)
    return backend


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(fused, "functions", lambda logits, on: fused.EAGER)


def problem(classes, targeted=False, count=2, size=(7, 9), spread=4.0):
    generator = torch.Generator().manual_seed(classes)
    logits = spread * torch.randn(count, classes, *size, generator=generator)
    logits[:, 1, :2] = logits[:, 0, :2]  # ties
    labels = torch.randint(classes, (count, *size), generator=generator)
    valid = torch.rand(labels.shape, generator=generator) > 0.2
    return logits, Goal(labels.masked_fill(~valid, 0), valid, targeted)


def memory(logits, place=0):
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 5, 21])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_measure_is_that_of_kept_memory(classes, targeted, layout, monkeypatch):
    logits, goal = problem(classes, targeted)
    expected = goal.measure(logits, memory)
    monkeypatch.setattr(fused, "functions", lambda logits, on: fused.EAGER)
    ce, reached = goal.measure(logits.contiguous(memory_format=layout), memory)
    close(ce, expected[0])
    assert torch.equal(reached, expected[1])


@pytest.mark.parametrize("name", WEIGHTED)
@pytest.mark.parametrize("targeted", [False, True])
def test_every_weight_gives_the_gradient_of_kept_memory(name, targeted, monkeypatch):
    attack = build_attack(name)
    logits, goal = problem(5, targeted)
    for progress in (0.0, 0.3, 0.99):
        given = (attack.weight, progress, attack.sharpness(progress), memory)
        before, (ce, reached) = goal.logit_gradient(logits, *given)
        with monkeypatch.context() as patch:
            patch.setattr(fused, "functions", lambda logits, on: fused.EAGER)
            found, statistics = goal.logit_gradient(logits, *given)
        close(found, before)
        close(statistics[0], ce)
        assert torch.equal(statistics[1], reached)
        assert not found[~goal.valid.unsqueeze(1).expand_as(found)].any()


@pytest.mark.parametrize("targeted", [False, True])
def test_margins_and_their_gradient_are_those_of_kept_memory(targeted, monkeypatch):
    points, goal = problem(3, targeted)
    engine = Engine(torch.nn.Identity(), goal)
    expected, seen = margins.margin_gradient(engine, points, lambda one: one.margin.square() + 0.5)
    alone = margins.measure_margins(engine, points)
    monkeypatch.setattr(fused, "functions", lambda logits, on: fused.EAGER)
    found, again = margins.margin_gradient(engine, points, lambda one: one.margin.square() + 0.5)
    assert torch.equal(found, expected)
    for one in (again, margins.measure_margins(engine, points)):
        assert all(torch.equal(a, b) for a, b in zip(one, seen, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(alone, seen, strict=True))


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e30])
def test_any_finite_logits_give_a_finite_gradient(scale, as_on_a_gpu):
    logits, goal = problem(4, spread=scale)
    for name in WEIGHTED:
        attack = build_attack(name)
        assert torch.isfinite(goal.logit_gradient(logits, attack.weight, 0.5, attack.sharpness(0.5), memory)[0]).all()


def steps_of(attack, logits, goal, steps=20):
    for step in range(steps):
        progress = step / steps
        goal.logit_gradient(logits + 0.1 * step, attack.weight, progress, attack.sharpness(progress), memory)
        goal.measure(logits + 0.1 * step, memory)


def test_one_compilation_serves_all_steps_attacks_and_sizes(counting):
    logits, goal = problem(5)
    goal = goal.for_gradients(10**9)
    for name in WEIGHTED:
        steps_of(build_attack(name), logits, goal, 3)
    assert counting.graphs == 4  # softmax and ascent, each plain and sharpened
    for size in ((9, 7), (20, 31)):
        logits, goal = problem(5, size=size, count=3)
        steps_of(build_attack("SharpPGD"), logits, goal.for_gradients(10**9))
    assert counting.graphs == 4
    logits, goal = problem(5, count=1)
    steps_of(build_attack("SharpPGD"), logits, goal.for_gradients(10**9))
    assert counting.graphs <= 8  # torch compiles batches of one anew
    assert not any(one.fails for one in fused.functions(logits, True))


ALMA = {"steps": 20, "quantise": False}


OTHERS = [{"type": name, "steps": 20} for name in ("TsallisPGD", "RPPGD", "KLPGD")]  # two of them with a memory


@pytest.mark.parametrize("fields", [*OTHERS, {"type": "ALMAProx", **ALMA}], ids=lambda fields: fields["type"])
def test_a_compiled_attack_finds_what_the_other_finds(fields, counting, monkeypatch):
    net = SmallNet()
    images, labels = batch(net)
    monkeypatch.setattr(fused, "WORTH_COMPILING", 1)
    attack = build_attack(fields)
    found = attack(net, images, labels)
    assert counting.graphs >= (1 if attack.name == "KLPGD" else 2)  # its gradient is its own
    monkeypatch.setattr(fused, "functions", lambda logits, on: fused.EAGER)
    expected = attack(net, images, labels)
    close(found.pixel_error, expected.pixel_error)
    close(found.distance, expected.distance)


class Confident(GradientAttack):
    """A user's weight with a branch on a value, that no compiler takes in one piece."""

    name = "Confident"

    def weight(self, pixels):
        return pixels.log_p.exp() if float(pixels.progress) < 0.5 or pixels.log_p.sum() > 0 else -pixels.log_p


def test_a_weight_of_a_user_need_not_compile(counting, monkeypatch):
    net = SmallNet()
    images, labels = batch(net)
    monkeypatch.setattr(fused, "WORTH_COMPILING", 1)
    Confident(eps="8/255", steps=6)(net, images, labels)
    assert counting.graphs == 2


def test_steps_times_pixels_decide_alone(monkeypatch):
    _, goal = problem(5)
    monkeypatch.setattr(fused, "WORTH_COMPILING", 10 * goal.labels.numel())
    assert not goal.compiled and not goal.for_gradients(9).compiled
    assert goal.for_gradients(10).compiled and goal.for_gradients(10).subset(torch.tensor([0])).compiled
    seen = []
    monkeypatch.setattr(fused, "functions", lambda logits, on: seen.append(on))
    net = SmallNet()
    images, labels = batch(net)
    monkeypatch.setattr(fused, "WORTH_COMPILING", 6 * labels.numel())
    for steps in (5, 6):
        build_attack("CEPGD", steps=steps)(net, images, labels)
        assert set(seen) == {steps == 6}
        seen.clear()


def test_where_nothing_compiles_it_runs_all_the_same(caplog):
    caplog.set_level(logging.INFO)

    def broken(module, inputs):
        raise RuntimeError("no compiler\nanywhere")

    logits, goal = problem(5)
    compiled = fused.Compiled(fused.softmax, backend=broken)
    for _ in range(2):
        for one, other in zip(
            compiled(logits, goal.labels, None), fused.softmax(logits, goal.labels, None), strict=True
        ):
            assert torch.equal(one, other)
    (line,) = [one.message for one in caplog.records if "not compiled" in one.message]
    assert compiled.fails and line.startswith("softmax is not compiled") and "\n" not in line


def test_lack_of_memory_is_no_failure_to_compile():
    def full(logits):
        raise torch.OutOfMemoryError("CUDA out of memory")

    compiled = fused.Compiled(full)
    vars(compiled)["_compiled"] = full
    with pytest.raises(torch.OutOfMemoryError):
        compiled(torch.zeros(1, 2, 3, 3))
    assert not compiled.fails


@pytest.mark.parametrize("name", WEIGHTED)
def test_on_cuda_nothing_asks_for_a_value_and_nothing_lies_elsewhere(name):
    """Tensors without values: an operation that needs one, or one on another device, would raise."""
    attack = build_attack(name)
    with FakeTensorMode(), torch.no_grad():
        logits = torch.empty(2, 5, 7, 9, device="cuda")
        labels, valid = (torch.zeros(2, 7, 9, dtype=kind, device="cuda") for kind in (torch.long, torch.bool))
        goal = Goal(labels, valid)
        ascent, (ce, reached) = goal.logit_gradient(logits, attack.weight, 0.4, attack.sharpness(0.4), None)
        assert {one.device.type for one in (ascent, ce, reached, *goal.measure(logits, None))} == {"cuda"}
        own, rival = fused.own_and_rival(logits, labels)
        assert fused.margin_ascent(logits, labels, rival, own).shape == logits.shape


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a compiler")
def test_torchs_own_compiler_takes_it():
    logits, goal = problem(5)
    compiled = fused.Compiled(fused.softmax)
    for one, other in zip(compiled(logits, goal.labels, None), fused.softmax(logits, goal.labels, None), strict=True):
        close(one, other)
    assert not compiled.fails


def test_a_cpu_works_in_kept_memory():
    assert fused.functions(torch.zeros(1, 2, 3, 3), True) is None


class Largest(TorchDispatchMode):
    """The most bytes of results that were alive at once."""

    def __init__(self):
        super().__init__()
        self.alive, self.now, self.most = set(), 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.alive:
                storage = tensor.untyped_storage()
                self.alive.add(storage._cdata)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self.gone, storage._cdata, storage.nbytes())
        return made

    def gone(self, place, size):
        self.alive.discard(place)
        self.now -= size


def test_eager_forms_take_little_memory(monkeypatch):
    """Beside the logits, as they are on a GPU, where a small network has few tensors that are larger."""
    monkeypatch.setattr(per_class, "write", per_class._write_compared)
    monkeypatch.setattr(fused, "write", per_class._write_compared)
    logits, goal = problem(21, size=(40, 40))
    softmax = fused.softmax(logits, goal.labels, torch.tensor(2.0))
    weights, own = softmax.log_p.exp(), softmax.largest
    runs = {
        "softmax": lambda: fused.EAGER.softmax(logits, goal.labels, torch.tensor(2.0)),
        "ascent": lambda: fused.EAGER.ascent(logits, goal.labels, weights, own, softmax.log_sum, torch.tensor(2.0)),
        "margins": lambda: fused.EAGER.own_and_rival(logits, goal.labels),
        "margin ascent": lambda: fused.EAGER.margin_ascent(logits, goal.labels, own, weights),
    }
    for name, run in runs.items():
        with Largest() as largest:
            run()
        assert largest.most < (2.6 if name == "softmax" else 1.6) * logits.nbytes, name


@pytest.mark.parametrize("targeted", [False, True])
def test_what_is_compiled_and_what_is_not_are_equal(targeted):
    logits, goal = problem(6, targeted)
    for sharpness in (None, torch.tensor(1.5)):
        softmax = fused.softmax(logits, goal.labels, sharpness)
        given = (softmax.log_p.exp() * goal.valid, softmax.largest, softmax.log_sum, sharpness)
        assert torch.equal(fused.ascent(logits, goal.labels, *given), fused.lean_ascent(logits, goal.labels, *given))
    own, rival = fused.own_and_rival(logits, goal.labels)
    forms = (fused.margin_ascent, fused.lean_margin_ascent)
    one, other = (form(logits, goal.labels, rival, own * goal.valid) for form in forms)
    assert torch.equal(one, other)
