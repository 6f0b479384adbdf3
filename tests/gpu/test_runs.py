"""Evaluations on a GPU repeat bit for bit: started twice, killed and gone on with, on one process or on two."""

from __future__ import annotations

import pytest
import torch

from segrobust import load_segmenter
from segrobust.commands.evaluation import evaluate
from segrobust.datasets.source import Sample
from segrobust.runs.folder import RunFolder
from tests.gpu.runs import finish, identity, kill_after, stored
from tests.runs.toy_run import RUN, ToySource, lines, toy_model

CONDITIONS = 1 + 2 + 2  # clean, two attacks at a radius, a minimum norm and its worst images within that radius
IMAGES = 8


@pytest.fixture(scope="module")
def once(scenes, tmp_path_factory):
    """The run that all others must equal."""
    return scenes.evaluate(tmp_path_factory.mktemp("once") / "run")


def test_it_ran_on_the_gpu(once, device):
    found = RunFolder(once).read_json("run.json")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    assert found["identity"]["device"] == found["about"]["device"] == name
    assert len(lines(once)) == CONDITIONS * IMAGES
    assert {one.name for one in RunFolder(once).conditions()} == {"clean", "TsallisPGD", "SharpPGD", "ALMAProx"}
    peaks = [cost.get("peak_bytes", 0) for cost in RunFolder(once).timings()]
    assert all(peak > 2**20 for peak in peaks) or device.type == "cpu"


def test_another_process_gives_the_same_rows(once, scenes, tmp_path):
    ((status, error),) = finish(scenes.start(tmp_path / "run"))
    assert status == 0, error[-2000:]
    assert lines(tmp_path / "run") == lines(once)
    assert identity(tmp_path / "run") == identity(once)


@pytest.mark.parametrize("rows", [11, 25])
def test_killed_and_gone_on_with(once, scenes, tmp_path, rows):
    """Kills fall into the first attack and the third."""
    (process,) = scenes.start(tmp_path / "run")
    left = kill_after(process, tmp_path / "run", rows)
    assert rows <= left < CONDITIONS * IMAGES
    scenes.evaluate(tmp_path / "run")
    assert lines(tmp_path / "run") == lines(once)


def test_two_processes_share_the_gpu_where_asked(once, scenes, tmp_path, device):
    if device.type == "cpu":
        pytest.skip("there is no GPU to share")
    done = finish(scenes.start(tmp_path / "run", "--share-device", processes=2))
    assert [status for status, _ in done] == [0, 0], done[0][1][-2000:] + done[1][1][-2000:]
    assert lines(tmp_path / "run") == lines(once)
    assert all(len(lines(tmp_path / "run", rank)) == CONDITIONS * IMAGES / 2 for rank in range(2))


def test_more_processes_than_gpus_are_refused_in_one_line(scenes, tmp_path, device):
    """Each process beyond the GPUs would otherwise die with torch's traceback."""
    if device.type == "cpu":
        pytest.skip("any number of processes may share a CPU")
    done = finish(scenes.start(tmp_path / "run", processes=2))
    assert {status for status, _ in done} == {2}
    said = [error for _, error in done if "--share-device" in error]
    assert said and "Traceback" not in "".join(error for _, error in done)
    (line,) = [line for line in said[0].splitlines() if "--share-device" in line]
    assert "expected at most one process per GPU" in line
    assert stored(tmp_path / "run") == 0


def test_the_checks_of_the_shipped_model_find_no_fault(scenes, tmp_path):
    """Check 13 found an honest model's void labels to matter, since attacks did not repeat."""
    scenes.evaluate(tmp_path / "run", steps=20, checks=True)
    checks = {one["name"]: one["verdict"] for one in RunFolder(tmp_path / "run").read_json("checks.json")["checks"]}
    assert checks["void ignored"] == checks["deterministic forward"] == "pass"
    assert "fail" not in checks.values(), checks


class OnDevice(ToySource):
    """A user's own data set whose images are on the GPU already."""

    def __init__(self, device: torch.device, salt: int = 0) -> None:
        super().__init__(salt=salt)
        self.device = device

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        return Sample(sample.image.to(self.device), sample.label.to(self.device), sample.name)


def test_images_and_labels_may_be_on_the_device_already(tmp_path, device):
    settings = RUN | {"corruptions": ["gaussian_noise"], "severity": [2], "universal": ["patch(patch=(4, 4))"]}
    for name, place in (("there", device), ("here", torch.device("cpu"))):
        images, others = OnDevice(place), OnDevice(place, salt=1)
        evaluate(toy_model().to(device), images, work_dir=tmp_path / name, fit_on=others, **settings)
    assert lines(tmp_path / "there") == lines(tmp_path / "here")


def test_load_segmenter_takes_the_gpu_by_itself(device):
    model = load_segmenter("camvid-fpn-r18w24-std-180x240")
    assert next(model.parameters()).device.type == device.type
