"""Each process on its own GPU, on one that it shares because it was told to, or none; GPUs are stand-ins here."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from segrobust.cli import main
from segrobust.commands.devices import own_device, processes_of
from segrobust.commands.evaluation import evaluate
from segrobust.core.errors import UserError
from segrobust.runs.settings import Settings
from tests.core.test_processes import Start
from tests.runs.toy_run import ToySource, toy_model

GIB = 2**30
NAME = "camvid-fpn-r18w24-std-180x240"
PARTS: list[tuple[float, torch.device]] = []


def stand_in(*uuids: str, gib: int = 8) -> None:
    """GPUs that this process sees; all of torch.cuda that is asked for them."""
    PARTS.clear()
    torch.cuda.is_available = lambda: bool(uuids)
    torch.cuda.device_count = lambda: len(uuids)
    torch.cuda.get_device_properties = lambda at: SimpleNamespace(
        uuid=uuids[at.index if isinstance(at, torch.device) else at], total_memory=gib * GIB
    )
    torch.cuda.set_per_process_memory_fraction = lambda part, device: PARTS.append((part, device))
    torch.cuda.set_device = lambda device: PARTS.append((0.0, device))


@pytest.fixture
def gpus(monkeypatch):
    """``stand_in``, and torch as it was afterwards."""
    for name in ("is_available", "device_count", "get_device_properties", "set_per_process_memory_fraction",
                 "set_device", "get_device_capability", "get_device_name"):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, getattr(torch.cuda, name))
    return stand_in


class OnGpu:
    """As much of a Segmenter as the processes look at."""

    def __init__(self) -> None:
        self.device = torch.device("cuda:0")

    def parameters(self):
        return iter([self])

    def to(self, device):
        self.device = torch.device(device)


def test_alone(gpus):
    assert own_device(False) == torch.device("cpu")
    with pytest.raises(UserError, match="share_device: expected a GPU, and there is none; leave --share-device out"):
        own_device(True)
    gpus("a", "b")
    assert own_device(False) == own_device(True) == torch.device("cuda:0") and not PARTS


def test_sharing_and_tf32_without_a_gpu_are_refused_before_anything_is_loaded(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("segrobust.commands.evaluate.load_config", None)
    for words, told in (
        (["--share-device"], "share_device: expected a GPU, and there is none"),
        (
            ["--precision", "tf32"],
            "precision tf32: expected a GPU of compute capability 8.0 or more, got the device 'cpu'",
        ),
    ):
        assert main(["evaluate", NAME, "--work-dir", str(tmp_path), *words]) == 2
        assert told in capsys.readouterr().err


@pytest.mark.parametrize(("changes", "told"), [
    ({"share_device": True}, "share_device: expected a model on a GPU, got one on the CPU"),
    ({"precision": "tf32"}, "precision tf32: expected a GPU"),
])  # fmt: skip
def test_they_are_refused_in_python_too(changes, told, tmp_path):
    with pytest.raises(UserError, match=told):
        evaluate(toy_model(), ToySource(), work_dir=tmp_path, **changes)
    assert not list(tmp_path.iterdir())


def _tell(folder: Path, rank: int, value: object) -> None:
    (folder / f"{rank}.json").write_text(json.dumps(value))


def each_its_own(rank: int, folder: Path) -> None:
    stand_in("a", "b")
    _tell(folder, rank, [str(own_device(share)) for share in (False, True)] + PARTS)


def each_sees_its_own_alone(rank: int, folder: Path) -> None:
    stand_in("ab"[rank])
    _tell(folder, rank, [str(own_device(share)) for share in (False, True)] + PARTS)


def two_on_one(rank: int, folder: Path) -> None:
    stand_in("a")
    own_device(False)


def both_see_the_same_one_alone(rank: int, folder: Path) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = "0"
    two_on_one(rank, folder)


def one_has_none(rank: int, folder: Path) -> None:
    stand_in(*"a"[rank:])
    _tell(folder, rank, str(own_device(False)))


def two_on_one_as_told(rank: int, folder: Path) -> None:
    """The group and what goes through it, while torch has a GPU that NCCL would refuse to both."""
    stand_in("a")
    model = OnGpu()
    state = processes_of(model, Settings(share_device=True))
    gathered = gather_object([rank])
    told = broadcast_object_list([f"of {rank}"])[0]
    _tell(folder, rank, [str(model.device), state.num_processes, gathered, told, [part for part, _ in PARTS]])
    assert torch.distributed.get_backend() == "gloo" and PartialState().num_processes == 2


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> dict[str, Start]:
    folder, tasks = tmp_path_factory.mktemp("devices"), (
        each_its_own, each_sees_its_own_alone, two_on_one, both_see_the_same_one_alone, one_has_none, two_on_one_as_told
    )  # fmt: skip
    return {task.__name__: Start(task, folder / task.__name__).finish() for task in tasks}


def found(start: Start) -> list:
    assert start.statuses == [0, 0], start.told
    return [json.loads((start.folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_processes_take_one_gpu_each(ended):
    assert found(ended["each_its_own"]) == [["cuda:0"] * 2, ["cuda:1"] * 2]


def test_processes_that_each_see_a_gpu_of_their_own(ended):
    """As clusters set CUDA_VISIBLE_DEVICES for every process: a count of one, and a LOCAL_RANK of 1."""
    assert found(ended["each_sees_its_own_alone"]) == [["cuda:0"] * 2] * 2


@pytest.mark.parametrize("task", ["two_on_one", "both_see_the_same_one_alone"])
def test_more_processes_than_gpus_are_refused_in_one_line(ended, task):
    start = ended[task]
    assert start.statuses == [2, 2]
    told = "segrobust: error: expected at most one process per GPU, got 2 on one, 1 GPU(s) in all; start fewer, or let "
    assert "".join(start.told) == told + "them share it with --share-device\n"


def test_a_process_without_a_gpu_beside_one_with(ended):
    assert found(ended["one_has_none"]) == ["cuda:0", "cpu"]  # which the identity of the run then refuses


def test_two_processes_share_a_gpu_where_told(ended):
    # of 8 GiB: half, without the gibibyte that CUDA has for itself; and the device is made the current one
    assert found(ended["two_on_one_as_told"]) == [["cuda:0", 2, [0, 1], "of 0", [0.375, 0.0]]] * 2


def test_a_small_gpu_is_shared_too(gpus, monkeypatch):
    gpus("a", gib=2)
    monkeypatch.setattr("segrobust.commands.devices.exchange", lambda own: [own] * 3)
    own_device(True)
    ((part, device),) = PARTS
    assert (part, device) == (0.25, torch.device("cuda:0"))
