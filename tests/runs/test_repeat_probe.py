"""Whether gradients repeat is found before a run, what keeps them from it is named, and the run says so to the end."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from segrobust.commands.evaluation import evaluate
from segrobust.models.segmenter import Segmenter
from segrobust.runs import repeat_probe
from segrobust.runs.folder import RunFolder
from segrobust.runs.repeat_probe import repeatable
from segrobust.runs.repeatability import as_text, merged
from segrobust.studies.attack import plan_attacks
from segrobust.studies.bench import Bench
from segrobust.studies.clean import Clean
from tests.attacks.toys import SmallNet
from tests.models.test_deterministic import ALERT
from tests.runs.toy_run import RUN, K, ToySource, lines

STUDIES = [Clean(), *plan_attacks(["CEPGD"], ["2/255"], steps=2)]


class Before(nn.Module):
    """A network behind a module of its own."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part, self.rest = part, SmallNet(K)

    def forward(self, images):
        return self.rest(self.part(images))


class OwnGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x):
        return x + 0.1 * torch.rand(x.shape, generator=self.generator)


class Clock(nn.Module):
    def forward(self, x):
        return x * (1 + time.perf_counter() % 1)


class NumpysOwn(nn.Module):
    """Noise that torch sees arrive from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = np.random.default_rng(0)

    def forward(self, x):
        return x + torch.from_numpy(self.generator.random(x.shape, dtype=np.float32))


class GlobalNoise(nn.Module):
    """Of the global generators, which every pass finds in the same state."""

    def forward(self, x):
        return x + 0.1 * torch.rand_like(x) + float(np.random.rand())


class Shuffled(nn.Module):
    """Rows that change places: a plain sum over the pixels would not see it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x.roll(self.calls, 2)


class Unwritten(nn.Module):
    """Memory as it was found is no reason, nor what is then written over it."""

    def forward(self, x):
        self.memory = torch.empty_like(x)
        return self.memory.copy_(x) + 0


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x * self.calls.cos()


class Reassigning(Counting):
    def forward(self, x):
        self.calls = self.calls + 1
        return x * self.calls.cos()


class VaryingBackward(torch.autograd.Function):
    generator = torch.Generator().manual_seed(0)

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.rand(gradient.shape, generator=VaryingBackward.generator)


class InBackward(nn.Module):
    def forward(self, x):
        return VaryingBackward.apply(x)


def bench_of(part, **options):
    return Bench(Segmenter.wrap(Before(part), num_classes=K, name="toy").eval(), ToySource(3), **options)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (nn.Identity, "yes"),
        (GlobalNoise, "yes"),
        (Unwritten, "yes"),
        (OwnGenerator, "no (rand of net.part)"),
        (Clock, "no (mul of net.part)"),
        (Shuffled, "no (roll of net.part)"),
        (NumpysOwn, "no (lift_fresh of net.part)"),
        (InBackward, "no (rand)"),
        (Counting, "no (net.part.calls changes)"),
        (Reassigning, "no (net.part.calls changes)"),
    ],
)
@pytest.mark.parametrize("eot", [1, 2])
def test_what_does_not_repeat_is_named(part, expected, eot):
    bench = bench_of(part(), eot=eot)
    before = {name: one.clone() for name, one in bench.model.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1]
    assert repeatable(bench, STUDIES) == expected
    assert torch.equal(torch.get_rng_state(), states[0]) and (np.random.get_state()[1] == states[1]).all()
    after = bench.model.state_dict()
    assert all(torch.equal(after[name], one) for name, one in before.items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in bench.model.modules())


def test_an_honest_model_is_asked_twice_and_a_run_without_attacks_not_at_all(monkeypatch):
    bench = bench_of(nn.Identity())
    calls = []
    bench.model.register_forward_hook(lambda module, images, logits: calls.append(len(images[0])))
    assert repeatable(bench, [Clean()]) is None and not calls
    monkeypatch.setattr(repeat_probe, "_recorded", None)
    assert repeatable(bench, STUDIES) == "yes"
    assert calls == [1, 1]  # of the first two images, those of one size


def test_the_attacked_surrogate_is_asked():
    bench = bench_of(OwnGenerator())
    surrogate = bench_of(nn.Identity()).model
    assert repeatable(bench, plan_attacks(["CEPGD"], ["2/255"], surrogate=surrogate)) == "yes"
    bench, surrogate = bench_of(nn.Identity()), bench.model
    assert repeatable(bench, plan_attacks(["CEPGD"], ["2/255"], surrogate=surrogate)) == "no (rand of net.part)"


def test_torchs_own_alerts_add_names():
    class Alerting(OwnGenerator):
        def forward(self, x):
            warnings.warn(ALERT.format("upsample_bicubic2d_backward_out_cuda"), stacklevel=1)
            return super().forward(x)

    assert repeatable(bench_of(Alerting()), STUDIES) == "no (rand of net.part, upsample_bicubic2d_backward)"


def test_what_agrees_by_chance_once_recorded_has_no_name(monkeypatch):
    bench = bench_of(OwnGenerator())
    monkeypatch.setattr(repeat_probe, "_recorded", lambda *given: [])
    assert repeatable(bench, STUDIES) == "no (an operation that is not known)"


def test_a_recording_that_fails_leaves_what_is_known(monkeypatch, caplog):
    def full(*given):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(repeat_probe, "_recorded", full)
    assert repeatable(bench_of(OwnGenerator()), STUDIES) == "no (an operation that is not known)"
    assert "out of memory" in caplog.text


def test_a_model_that_fails_is_left_to_the_run():
    class Broken(nn.Module):
        def forward(self, x):
            raise ValueError("broken")

    assert repeatable(bench_of(Broken()), STUDIES) is None


def test_the_passes_are_the_runs_own(monkeypatch):
    """In the context of its attacks, with its precision."""
    seen = []

    class Looking(nn.Module):
        def forward(self, x):
            seen.append((torch.is_autocast_enabled("cpu"), torch.initial_seed()))
            return x

    repeatable(bench_of(Looking(), precision="bf16", seed=1), STUDIES)
    repeatable(bench_of(Looking(), seed=2), STUDIES)
    (half, first), (_, again), (single, other), _ = seen
    assert half and not single and first == again != other


def test_starts_know_together_what_one_of_them_saw():
    assert as_text([]) == "yes" and as_text(["b", "a of net", "b"]) == "no (a of net, b)"
    assert merged(None, None) is None
    assert merged("yes", None) == merged(None, "yes") == merged("yes", "yes") == "yes"
    assert merged("yes", "no (a)") == merged("no (a)", "yes") == merged(None, "no (a)") == "no (a)"
    assert merged("no (a of net, c)", "no (b, c)") == "no (a of net, b, c)"


def told(folder):
    return RunFolder(folder).identity().get("repeatable")


def start(folder, images=3, **more):
    model = Segmenter.wrap(SmallNet(K), num_classes=K, name="toy").eval()
    evaluate(model, ToySource(images), work_dir=folder, **{**RUN, "attacks": ["CEPGD"], "pictures": False, **more})


def test_a_later_start_adds_what_it_sees_and_is_not_refused(tmp_path, monkeypatch):
    start(tmp_path)
    assert told(tmp_path) == "yes"
    rows = lines(tmp_path)
    for images, found, stored in ((4, ["b"], "no (b)"), (5, ["a", "b"], "no (a, b)"), (6, [], "no (a, b)")):
        monkeypatch.setattr(repeat_probe, "not_repeating", lambda *given, found=found: found)
        start(tmp_path, images)
        assert told(tmp_path) == stored
    assert {*rows} < {*lines(tmp_path)}
    page = (tmp_path / "report.html").read_text()
    assert "Repeatable" in page and "no (a, b)" in page
    monkeypatch.setattr(repeat_probe, "not_repeating", lambda *given: ["c"])
    start(tmp_path, 6)  # nothing is left to compute
    assert told(tmp_path) == "no (a, b)"


def test_a_run_without_attacks_says_nothing(tmp_path):
    start(tmp_path, attacks=[], corruptions=["fog"], severity=[1])
    assert told(tmp_path) is None
    assert "Repeatable" not in (tmp_path / "report.html").read_text()
