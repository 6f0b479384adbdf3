"""What the benchmarks reach into the package for is there, and costs what they count."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import gpu
from benchmarks.attack_step import PROXIMAL_STEPS, proximal_step
from segrobust.attacks.gradient import Engine
from segrobust.attacks.segmentation import Goal
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
