"""What the benchmarks reach into the package for is there, and costs what they count."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import gpu, training_step
from benchmarks.attack_step import PROXIMAL_STEPS, proximal_step
from segrobust.attacks.gradient import Engine
from segrobust.attacks.segmentation import Goal
from segrobust.models.mm import load_config
from tests.attacks.toys import SmallNet, batch


@pytest.mark.parametrize("name", ["ALMAProx", "ALMAProx:published"])
def test_a_benchmarked_iteration_of_alma_prox_is_one_forward_and_one_backward(name):
    net = SmallNet().eval()
    images, labels = batch(net, count=2)
    engine = Engine(net, Goal(labels.masked_fill(labels == 255, 0), labels != 255))
    iterations = proximal_step(engine, images, name)
    for done in (1, 2):
        iterations()
        assert torch.equal(engine.forwards, torch.full((2,), done * PROXIMAL_STEPS))
        assert torch.equal(engine.backwards, engine.forwards)


@pytest.mark.slow
def test_the_gpu_benchmark_on_a_cpu(tmp_path, monkeypatch, capsys):
    """Every measurement once, on small images; what it prints, and that the file holds what is printed."""
    file = tmp_path / "gpu.json"
    gpu.main(["--device", "cpu", "--tiny", "--models", "camvid", "--json", str(file)])
    monkeypatch.setattr(gpu, "ATTACKS", ("TsallisPGD",))
    gpu.main(["--device", "cpu", "--tiny", "--models", "deeplabv3"])
    out = capsys.readouterr().out
    assert out.count("a CPU, torch") == 2 and out.count("ratios of one run on one machine") == 2
    result = json.loads(file.read_text())
    found = result["models"]["camvid"]
    assert found["title"] in out and found["batch"] == 2
    for form in ("eager", "replayed"):
        assert list(found[form]) == ["TsallisPGD", "SharpPGD", "FMN", "ALMAProx", "ALMAProx:published"]
        for name, cost in found[form].items():
            assert name in out and cost["bare_ms"] > 0 and cost["rounds"] == 1
        training = found["training"][form]
        assert training["iteration_ms"] > training["ordinary_ms"] > training["bare_ms"] / 8 > 0
        assert f"{training['iteration_ms']:.1f} ms an iteration, {training['ratio']:.3f} of 4 bare passes" in out
    assert list(found["not_deterministic"]) == ["eager", "replayed"]


class Ticks:
    """A clock that runs ahead by what each run says it takes."""

    def __init__(self, monkeypatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(gpu.time, "perf_counter", lambda: self.now)

    def taking(self, seconds: float):
        def run(*_: object) -> None:
            self.now += seconds

        return run


def test_a_measurement_makes_its_rounds_and_goes_on_until_its_share_is_used(monkeypatch):
    ticks, cpu = Ticks(monkeypatch), torch.device("cpu")
    short = gpu.Clock(cpu, 0.0, gpu.Scale()).rounds(ticks.taking(2.0), ticks.taking(3.0))
    assert short == [(2.0, 3.0)] * gpu.Scale().rounds == [(2.0, 3.0)] * 2
    assert len(gpu.Clock(cpu, 26.0, gpu.Scale()).rounds(ticks.taking(2.0), ticks.taking(3.0))) == 6


def test_a_step_is_the_difference_of_two_calls_over_that_of_their_passes(monkeypatch):
    """Calls that take 7 s and 2 s a step, on a model whose bare pass takes 1.6 s."""
    ticks, scale = Ticks(monkeypatch), gpu.Scale(few=4, more=12, bare=5, rounds=2)

    class Attack:
        def __init__(self, steps: int) -> None:
            self.passes = lambda: (steps + 1, steps)
            self.run = ticks.taking(7.0 + 2.0 * steps)

        def __call__(self, model, images, labels) -> None:
            assert (model, images, labels) == (case.model, case.images, case.labels)
            self.run()

    case = gpu.Case("toy", SmallNet().eval(), "images", "labels")
    monkeypatch.setattr(gpu, "_attack", lambda name, steps: Attack(steps))
    monkeypatch.setattr(gpu, "bare_passes", lambda model, images, count: ticks.taking(1.6 * count)())
    found = gpu.step_cost(case, case.model, "toy", gpu.Clock(torch.device("cpu"), 0.0, scale))
    assert found == {
        "bare_ms": pytest.approx(1600),
        "step_ms": pytest.approx(2000),
        "ratio": pytest.approx(1.25),
        "rounds": 2,
    }


def test_the_cost_of_a_training_step_is_that_of_its_iterations_over_passes_and_a_step():
    """Every tenth iteration is measured: (9 x 8 + 18) / 10 = 9 s, over 6 s of passes and a step of 3 s."""
    times = {
        "bare passes": (6.0, 3.0),
        "ordinary step": (3.0, 1.0),
        "CEPGD": (8.0, 4.0),
        "CEPGD, measured": (18.0, 4.0),
    }
    found = [{name: training_step.Times(*both) for name, both in times.items()}]
    assert training_step.ratios(found, "CEPGD", 10) == [pytest.approx((1.0, 1.0))]
    plain = [{name: both for name, both in found[0].items() if "measured" not in name}]
    assert training_step.ratios(plain, "CEPGD", 10) == [pytest.approx((8 / 9, 1.0))]
    assert training_step.median([training_step.Times(n, 9 - n) for n in (1, 2, 9)]) == (2, 7)


@pytest.mark.parametrize(("bound", "status"), [(0.01, 1), (100.0, 0)])
def test_the_training_benchmark_tells_what_is_above_the_bound(bound, status, monkeypatch, capsys):
    monkeypatch.setattr(training_step, "BOUND", bound)
    tiny = ["--size", "32", "48", "--repeats", "1", "--steps", "1", "--device", "cpu"]
    assert training_step.main([*tiny, "--attacks", "CEPGD", "ALMAProx"]) == status
    told = capsys.readouterr().out
    assert (f"above {bound}: CEPGD, ALMAProx" if status else f"none is above {bound}") in told
    assert "ordinary step" in told and "1 attack passes and a training step" in told


def test_the_training_benchmark_tells_all_forms(capsys):
    assert (
        training_step.main(["--size", "32", "48", "--repeats", "1", "--steps", "1", "--device", "cpu", "--forms"]) == 0
    )
    told = capsys.readouterr().out
    for form in training_step.forms(training_step.adversary("CEPGD", 1)):
        assert form in told


def test_the_bound_is_eight_percent_and_a_step_has_the_attacks_of_the_recipes(repository):
    assert training_step.BOUND == 1.08
    for name in training_step.ATTACKS:
        steps = 5 if name == "ALMAProx" else 3
        file = repository / "configs" / "_base_" / "attacks" / f"{name.lower()}_linf4_s{steps}.py"
        assert load_config(file).adversary == training_step.adversary(name, steps)
