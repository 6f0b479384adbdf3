"""Memory of a GPU: the batch size that is found when it is full, and what an attack needs over a bare pass."""

from __future__ import annotations

import gc

import pytest
import torch

from benchmarks.attack_step import bare_pass, peak_bytes
from segrobust import Segmenter, build_attack, load_segmenter
from segrobust.commands.evaluation import evaluate
from segrobust.core.errors import UserError
from segrobust.models.segmenter import frozen_eval
from segrobust.runs.folder import RunFolder
from tests.runs.test_batch_size import Hungry
from tests.runs.toy_run import RUN, K, ToySource, lines

ALLOWED = {"TsallisPGD": 1.25, "SharpPGD": 1.35}  # of the bare pass's peak; a sharper softmax has logits of its own
ROOM = 3 * 2**28  # bytes: some ten of the images of Hungry, with their gradients
QUICK = {"attacks": [{"type": "CEPGD", "radius_reduction": False}], "eps": ["8/255"], "steps": 2}


@pytest.fixture
def little_memory(device):
    """This process may have so many bytes more than it has now."""
    if device.type == "cpu":
        yield
        return
    gc.collect()
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + ROOM) / whole)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def run(folder, device, size):
    model = Segmenter.wrap(Hungry(), num_classes=K, name="toy").eval().to(device)
    evaluate(model, ToySource(72), work_dir=folder, **{**RUN, **QUICK, "batch_size": size})
    return RunFolder(folder).read_json("run.json")["identity"]["batch_size"]


def test_real_lack_of_memory(little_memory, tmp_path, device):
    """64 images do not fit; what is found does, in the trial and in the whole run."""
    size = run(tmp_path / "auto", device, "auto")
    assert size in ((2, 4, 8, 16) if device.type == "cuda" else (4,))
    assert len(lines(tmp_path / "auto")) == 2 * 72
    assert run(tmp_path / "plain", device, size) == size
    assert lines(tmp_path / "auto") == lines(tmp_path / "plain")


def test_a_size_that_does_not_fit_is_told_in_one_line(little_memory, tmp_path, device):
    if device.type == "cpu":
        pytest.skip("the memory of a CPU is not limited here")
    with pytest.raises(UserError, match=r"out of memory with batches of 64; .* try --batch-size 32 and another"):
        run(tmp_path, device, 64)


def test_memory_is_given_back_after_lack_of_it(little_memory, tmp_path, device):
    """An error holds the tensors of its frames: nothing of a trial that failed may stay."""
    before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    run(tmp_path, device, "auto")
    gc.collect()
    after = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    assert after - before < 2**27  # workspaces of libraries stay; 64 images take 2**31 and more


@pytest.mark.parametrize("name", ALLOWED)
def test_peak_memory_of_an_attack(device, name):
    model = load_segmenter("camvid-fpn-r18w24-pgdat-linf4-180x240", device=device)
    images = torch.rand(8, 3, 180, 240, generator=torch.Generator().manual_seed(0)).to(device)
    labels = torch.randint(0, 11, (8, 180, 240), generator=torch.Generator().manual_seed(1)).to(device)
    attack = build_attack(name, eps="4/255", steps=4)
    with frozen_eval(model):
        bare_pass(model, images)
        bare = peak_bytes(lambda: bare_pass(model, images))
        assert peak_bytes(lambda: attack(model, images, labels)) <= ALLOWED[name] * bare
