"""The automatic batch size: halved on lack of memory alone, the same on every process, kept by a run that goes on."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
import torch
from torch import nn

from segrobust.commands.evaluation import evaluate
from segrobust.core.errors import UserError
from segrobust.datasets.source import Sample
from segrobust.models.segmenter import Segmenter
from segrobust.runs import batch_size
from segrobust.runs.folder import RunFolder
from tests.runs.killable import SERVER, free_port, join_others
from tests.runs.toy_run import RUN, K, ToySource, lines, toy_model

GPU = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB"


class Limited(nn.Module):
    """Has memory for so many pixels at once, where a gradient is wanted for only half as many."""

    def __init__(self, pixels: int, error: Exception | None = None) -> None:
        super().__init__()
        self.net, self.pixels, self.error = toy_model().net, pixels, error or torch.OutOfMemoryError(GPU)
        self.seen: list[int] = []

    def forward(self, images):
        self.seen.append(len(images))
        if images[:, 0].numel() * (2 if images.requires_grad else 1) > self.pixels:
            raise self.error
        return self.net(images)


def limited(pixels: int, error: Exception | None = None) -> Segmenter:
    return Segmenter.wrap(Limited(pixels, error), num_classes=K, name="toy").eval()


def run(folder, model, size="auto", **changes):
    settings = {**RUN, "attacks": ["TsallisPGD"], "batch_size": size, **changes}
    evaluate(model, ToySource(), work_dir=folder, **settings)
    return RunFolder(folder).read_json("run.json")["identity"]["batch_size"]


def test_it_is_the_largest_that_fits_with_the_largest_image(tmp_path):
    """Images of 16x16 and of 12x12: three of the large ones fit with their gradients, so two and one to spare."""
    model = limited(3 * 2 * 16 * 16)
    assert run(tmp_path / "auto", model) == 2
    assert model.net.seen[0] == 5  # what a CPU begins with, and one
    run(tmp_path / "plain", toy_model(), size=2)
    assert lines(tmp_path / "auto") == lines(tmp_path / "plain")


LIBRARIES = [
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    torch.AcceleratorError("CUDA error: out of memory"),
]


@pytest.mark.parametrize("error", LIBRARIES, ids=str)
def test_libraries_that_find_no_memory_make_batches_smaller(tmp_path, error):
    """They ask the driver, so torch's own error does not come."""
    assert run(tmp_path, limited(3 * 2 * 16 * 16, error)) == 2


def test_a_few_passes_tell(tmp_path):
    model = limited(10**9)
    run(tmp_path, model, attacks=["TsallisPGD", "FMN"], steps=40)
    trial = 1 + 2 * batch_size.PASSES  # the clean images, and the beginnings of two attacks
    assert set(model.net.seen[:trial]) == {5}
    assert set(model.net.seen[trial:]) == {1, 2}  # groups of equal size in a batch of four


def test_a_run_that_goes_on_keeps_its_size(tmp_path):
    assert run(tmp_path, limited(2 * 16 * 16)) == 1
    rows = lines(tmp_path)
    model = limited(10**9)
    assert run(tmp_path, model) == 1  # there is more memory now
    assert lines(tmp_path) == rows and not model.net.seen
    with pytest.raises(UserError, match="batch_size is 1 there and 4 here"):
        run(tmp_path, model, size=4)
    assert run(tmp_path, model, fresh=True) == 4


def test_not_even_one_image(tmp_path):
    with pytest.raises(UserError, match="TsallisPGD: one image of 16x16 does not fit into memory; try --checkpointing"):
        run(tmp_path, limited(16 * 16))
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize("size", ["auto", 2])
@pytest.mark.parametrize(
    "error", [RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED."), ValueError("out of memory")]
)
def test_every_other_error_is_told_as_it_is(tmp_path, error, size):
    model = limited(2 * 16 * 16, error)
    with pytest.raises(UserError, match=rf"^toy fails on images of 16x16: {type(error).__name__}: {error}$") as refusal:
        run(tmp_path, model, size=size)
    assert refusal.value.__cause__ is error
    assert size != "auto" or model.net.seen == [
        5,
        1,
    ]  # no smaller batch; one image, to see whether its size is at fault


def test_lack_of_memory_in_a_run_of_fixed_size_is_one_line(tmp_path):
    model = limited(3 * 16 * 16)
    with pytest.raises(UserError, match=r"out of memory with batches of 4; what .* try --batch-size 2 and another"):
        run(tmp_path, model, size=4)
    kept = RunFolder(tmp_path).rows()
    assert len(kept) == 7 and {row.condition.name for row in kept} == {"clean"}
    model.net.pixels = 10**9
    assert run(tmp_path, model, size=4) == 4 and len(lines(tmp_path)) == 3 * 7


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "many"])
def test_other_sizes_are_refused(tmp_path, size):
    with pytest.raises(UserError, match="batch_size: expected a whole number >= 1 or 'auto', got"):
        run(tmp_path, toy_model(), size=size)


class Hungry(nn.Module):
    """Keeps 32 MB per image for the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.net = toy_model().net

    def forward(self, images):
        wide = images[:, :1].repeat(1, 8 * 2**20 // images[0, 0].numel(), 1, 1)
        return self.net(images) + (wide * wide).mean((1, 2, 3), keepdim=True)


def _in_little_memory(folder: Path) -> None:
    """A real limit: the pages that the process has now, and 400 MB."""
    torch.set_num_threads(1)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 400 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    model = Segmenter.wrap(Hungry(), num_classes=K, name="toy").eval()
    run(folder, model, attacks=[{"type": "CEPGD", "radius_reduction": False}], eps=["8/255"], steps=1)


def test_real_lack_of_memory(tmp_path):
    process = SERVER.Process(target=_in_little_memory, args=(tmp_path,))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    identity = json.loads((tmp_path / "run.json").read_text())["identity"]
    assert identity["batch_size"] in (1, 2)
    assert len(lines(tmp_path)) == 2 * 7


def _one_of_two(folder: Path, rank: int, port: int) -> None:
    torch.set_num_threads(1)
    join_others(rank, 2, port)
    run(folder, limited(3 * 2 * 16 * 16 if rank else 10**9))


def test_processes_agree_on_what_the_smallest_can_take(tmp_path):
    port = free_port()
    processes = [SERVER.Process(target=_one_of_two, args=(tmp_path / "two", rank, port)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0]
    assert RunFolder(tmp_path / "two").read_json("run.json")["identity"]["batch_size"] == 2
    assert run(tmp_path / "two", limited(10**9)) == 2  # one process goes on with it
    run(tmp_path / "one", limited(10**9), size=2)
    assert lines(tmp_path / "two") == lines(tmp_path / "one")
    assert all(len(lines(tmp_path / "two", rank)) == 3 * images for rank, images in enumerate((4, 3)))


def test_a_run_of_one_small_image(tmp_path):
    source = ToySource(1)
    source.samples = [Sample(source[0].image, source[0].label, "one")]
    evaluate(toy_model(), source, work_dir=tmp_path, **{**RUN, "batch_size": "auto"})
    assert RunFolder(tmp_path).read_json("run.json")["identity"]["batch_size"] == 1
