"""Memory for logits is estimated before it is asked for: one line instead of a killed process."""

from __future__ import annotations

import pytest
import torch

from segrobust.attacks.gradient import Engine
from segrobust.commands.evaluation import evaluate
from segrobust.core.errors import UserError
from segrobust.runs import memory
from segrobust.runs.folder import RunFolder
from segrobust.studies.attack import plan_attacks
from segrobust.studies.clean import Clean
from tests.runs.test_batch_size import run
from tests.runs.toy_run import RUN, K, ToySource, lines, toy_model

IMAGE = K * 16 * 16 * 4  # bytes of the logits of one


@pytest.fixture
def free(monkeypatch):
    """The free memory in bytes, to be set."""
    given = [10**9]
    monkeypatch.setattr(memory, "free_bytes", lambda device: given[0])
    return given


def test_a_batch_that_cannot_fit_is_one_line_and_what_was_computed_stays(tmp_path, free):
    """Two images of 16x16 in a batch of three: their logits fit, an attack keeps them twice."""
    free[0] = 4 * IMAGE - 1
    told = r"TsallisPGD 2/255: the logits of 2 images of 16x16 with 4 classes take 0\.0 GiB \(2 of their size at a time"
    with pytest.raises(UserError, match=rf"{told}.* --batch-size 1 and another --work-dir, .*checkpointing.*slide"):
        evaluate(toy_model(), ToySource(), work_dir=tmp_path, **RUN)
    assert {row.condition.name for row in RunFolder(tmp_path).rows()} == {"clean"}
    free[0] = 4 * IMAGE
    evaluate(toy_model(), ToySource(), work_dir=tmp_path, **RUN)
    assert len(lines(tmp_path)) == 7 * (1 + 2 * 2)


def test_what_fitted_once_is_not_asked_again(tmp_path, monkeypatch):
    """Memory that is given back may stay with the process, where the system does not count it as free."""
    asked = []
    monkeypatch.setattr(memory, "free_bytes", lambda device: asked.append(device) or 10**9)
    evaluate(toy_model(), ToySource(), work_dir=tmp_path, **{**RUN, "attacks": ["CEPGD"], "pictures": False})
    assert len(asked) == 3 * 2  # three studies, and of six groups one of 12x12 and one of two of 16x16


def test_the_automatic_batch_size_knows_it(tmp_path, free):
    free[0] = 6 * IMAGE  # three with an attack: two and one to spare
    assert run(tmp_path, toy_model()) == 2


def test_a_system_that_does_not_tell_refuses_nothing(tmp_path, free, monkeypatch):
    free[0] = None
    evaluate(toy_model(), ToySource(2), work_dir=tmp_path, **RUN)
    monkeypatch.undo()
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "absent")
    assert memory.free_bytes(torch.device("cpu")) is None


def test_the_free_memory_is_what_the_system_says(tmp_path, monkeypatch):
    file = tmp_path / "meminfo"
    file.write_text("MemTotal:   24000 kB\nMemFree:   100 kB\nMemAvailable:   2048 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", file)
    assert memory.free_bytes(torch.device("cpu")) == 2 * 2**20
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 9000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 300)
    fractions = iter((1.0, 0.1))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: next(fractions))
    assert memory.free_bytes(torch.device("cuda", 0)) == 1200
    assert memory.free_bytes(torch.device("cuda", 0)) == 900 - 300  # of a process that is kept to a tenth


@pytest.mark.parametrize("name", ["CEPGD", "SharpPGD", "BalancedSharpPGD", "Standard", "ALMAProx", "UniformNoise"])
def test_what_an_attack_keeps_is_what_it_says(name):
    """The model's logits, and the buffers of their size that the engine keeps."""
    (study,) = plan_attacks([name], ["4/255"], steps=12)
    buffers, engine_memory = set(), Engine.memory

    def seen(self, logits, place=0):
        buffers.add(place)
        return engine_memory(self, logits, place)

    sample = ToySource()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "memory", seen)
        study.attack(toy_model(), sample.image[None], sample.label[None])
    assert study.logits_kept == 1 + len(buffers)
    assert Clean().logits_kept == 1
