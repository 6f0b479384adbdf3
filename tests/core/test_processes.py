"""What fails in one process ends all, is told once and gives one exit status, wherever the others are by then."""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.nn import functional as F

from segrobust import cli
from segrobust.attacks.gradient import ModelError
from segrobust.commands.evaluation import evaluate
from segrobust.core import processes
from segrobust.core.errors import RunFailed, UserError
from segrobust.core.processes import Signal, refuse_missing_processes, together
from segrobust.models.segmenter import Segmenter
from segrobust.runs import environment
from segrobust.runs.folder import RunFolder
from tests.attacks.toys import PixelLinear
from tests.runs.killable import SERVER, free_port, join_others
from tests.runs.toy_run import RUN, K, ToySource, lines, toy_model

PROMPT = 120.0  # seconds on a busy machine; without an end the processes wait for days
SERVER.set_forkserver_preload(["tests.runs.killable", __name__])


class Start:
    """One start of ``task(rank, folder)`` as a command line on two processes, as plain environment variables make them.

    told: what each process wrote to its stderr; statuses: how each ended.
    """

    def __init__(self, task: Callable[[int, Path], None], folder: Path) -> None:
        self.folder, self.port, self.began = folder, free_port(), time.monotonic()
        folder.mkdir()
        self.processes = [
            SERVER.Process(target=_as_command, args=(task, rank, self.port, folder), daemon=True) for rank in range(2)
        ]
        for process in self.processes:
            process.start()

    def finish(self) -> Start:
        for process in self.processes:
            process.join(max(0.0, self.began + PROMPT - time.monotonic()))
        self.statuses = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
        self.told = [(self.folder / f"{rank}.txt").read_text() for rank in range(2)]
        return self


def _as_command(task: Callable[[int, Path], None], rank: int, port: int, folder: Path) -> None:
    join_others(rank, 2, port)
    torch.set_num_threads(1)
    handle = os.open(folder / f"{rank}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(handle, 2)
    options = argparse.Namespace(run=lambda _: task(rank, folder))
    cli._parse = lambda _: options
    raise SystemExit(cli.main())


def join() -> None:
    distributed.init_process_group("gloo", timeout=timedelta(days=7))


def fails_before_the_group(rank: int, _: Path) -> None:
    if rank == 1:
        raise UserError("told by one")
    join()


def main_fails_before_the_group(rank: int, _: Path) -> None:
    if rank == 0:
        raise UserError("told by zero")
    join()


def fails_in_a_collective(rank: int, _: Path) -> None:
    join()
    if rank == 1:
        raise UserError("told by one")
    distributed.all_reduce(torch.ones(1))


def main_fails_in_a_collective(rank: int, _: Path) -> None:
    join()
    if rank == 0:
        raise RunFailed("told by zero")
    distributed.all_reduce(torch.ones(1))


def leaves_the_group_before_it_tells(rank: int, _: Path) -> None:
    join()
    try:
        if rank == 1:
            raise UserError("told by one")
        distributed.all_reduce(torch.ones(1))
    finally:
        distributed.destroy_process_group()
        time.sleep(rank)


class Reduces(nn.Conv2d):
    """Waits for the other process within its forward, as synchronised batch normalisation does."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = super().forward(images)
        distributed.all_reduce(logits.detach())
        return logits


def leaves_a_network_that_waits_before_it_tells(rank: int, _: Path) -> None:
    join()
    try:
        if rank == 1:
            raise UserError("told by one")
        Segmenter.wrap(Reduces(3, K, 1), num_classes=K)(torch.rand(1, 3, 4, 4))
    finally:
        distributed.destroy_process_group()
        time.sleep(rank)


def fails_while_the_other_computes(rank: int, _: Path) -> None:
    if rank == 1:
        raise UserError("told by one")
    time.sleep(600)


def main_fails_after_the_other_is_done(rank: int, _: Path) -> None:
    if rank == 0:
        time.sleep(1)
        raise RunFailed("told by zero")


def both_fail_alike(rank: int, _: Path) -> None:
    raise UserError("told by one or zero")


def has_a_bug(rank: int, _: Path) -> None:
    join()
    if rank == 1:
        raise KeyError("told by one")
    distributed.all_reduce(torch.ones(1))


def main_is_killed(rank: int, _: Path) -> None:
    join()
    if rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.all_reduce(torch.ones(1))


def is_killed(rank: int, _: Path) -> None:
    join()
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.all_reduce(torch.ones(1))


def all_is_well(rank: int, _: Path) -> None:
    with together():  # nested
        join()
        first, second = Signal(), Signal()
        if rank == 1:
            first.give()
        distributed.all_reduce(torch.ones(1))
        if not first.is_given() or second.is_given():
            raise RunFailed("expected the first of two signals alone")
        time.sleep(rank)


ENDS = {
    fails_before_the_group: (2, "segrobust: error: told by one"),
    main_fails_before_the_group: (2, "segrobust: error: told by zero"),
    fails_in_a_collective: (2, "segrobust: error: told by one"),
    leaves_the_group_before_it_tells: (2, "segrobust: error: told by one"),
    leaves_a_network_that_waits_before_it_tells: (2, "segrobust: error: told by one"),
    main_fails_in_a_collective: (1, "segrobust: told by zero"),
    fails_while_the_other_computes: (2, "segrobust: error: told by one"),
    main_fails_after_the_other_is_done: (1, "segrobust: told by zero"),
    both_fail_alike: (2, "segrobust: error: told by one or zero"),
    has_a_bug: (1, "KeyError: 'told by one'"),
    main_is_killed: (1, "segrobust: the main process of this run ended without a word"),
    is_killed: (1, "segrobust: another process of this run ended without a word"),
    all_is_well: (0, ""),
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> dict[Callable, Start]:
    """All tasks, side by side: most of them wait."""
    folder = tmp_path_factory.mktemp("tasks")
    starts = {task: Start(task, folder / task.__name__) for task in ENDS}
    return {task: start.finish() for task, start in starts.items()}


@pytest.mark.parametrize("task", ENDS, ids=lambda task: task.__name__)
def test_one_end_for_all(ended, task):
    start, (status, line) = ended[task], ENDS[task]
    dead = -signal.SIGKILL
    assert [one for one in start.statuses if one != dead] == [status] * (1 if "killed" in task.__name__ else 2)
    text = "".join(start.told)
    assert text.count(line) == 1 or task is all_is_well
    assert text.count("segrobust: ") == (status != 0 and task is not has_a_bug)
    assert text.count("Traceback") == (task is has_a_bug)


class FailsAt(ToySource):
    """Image 4, which is the second process's, cannot be read."""

    def __getitem__(self, index: int):
        if index == 4:
            raise UserError("told by one: no label for scene 4")
        return super().__getitem__(index)


def _evaluate(folder: Path, source: ToySource | None = None, model: Segmenter | None = None, **changes) -> None:
    evaluate(model or toy_model(), source or ToySource(), work_dir=folder / "run", **{**RUN, **changes})


def a_label_is_missing(rank: int, folder: Path) -> None:
    _evaluate(folder, FailsAt())


def a_disk_is_full(rank: int, folder: Path) -> None:
    if rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    _evaluate(folder)


def memory_is_full(rank: int, folder: Path) -> None:
    model = toy_model()

    def refuse(*_) -> None:
        raise torch.OutOfMemoryError

    if rank == 1:
        model.net.register_forward_pre_hook(refuse)
    _evaluate(folder, model=model)


def memory_is_full_when_the_batch_size_is_sought(rank: int, folder: Path) -> None:
    model = toy_model()

    def refuse(*_) -> None:
        raise torch.OutOfMemoryError

    if rank == 1:
        model.net.register_forward_pre_hook(refuse)
    _evaluate(folder, model=model, batch_size="auto")


def devices_differ(rank: int, folder: Path) -> None:
    environment.device_name = lambda _: f"NVIDIA X{rank}"
    _evaluate(folder)


def _cannot_be_attacked(rank: int, folder: Path, failing: int) -> None:
    """The other process takes 3 s for each of its batches, and has rows when this one fails."""
    model = toy_model()
    own, others = (folder / "run" / "rows" / f"rank-{one}.jsonl" for one in (failing, 1 - failing))

    def spoil(_, __, logits: torch.Tensor) -> torch.Tensor:
        if rank == failing:
            until = time.monotonic() + 60
            while _has_rows(own) and not _has_rows(others) and time.monotonic() < until:
                time.sleep(0.1)
            return logits * float("nan")
        time.sleep(0.1)
        return logits

    model.net.register_forward_hook(spoil)
    try:
        _evaluate(folder, model=model, attacks=["TsallisPGD"], steps=30, checks=failing == 0)
    except ModelError as error:
        raise RunFailed(str(error)) from error


def _has_rows(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


def an_attack_fails(rank: int, folder: Path) -> None:
    _cannot_be_attacked(rank, folder, 1)


def an_attack_of_the_main_process_fails(rank: int, folder: Path) -> None:
    _cannot_be_attacked(rank, folder, 0)


class Dropped(nn.Module):
    """Draws random numbers in every forward, in whatever mode."""

    def __init__(self) -> None:
        super().__init__()
        self.rule = PixelLinear(K)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.rule(F.dropout(images, 0.3, training=True))


def dropped() -> Segmenter:
    return Segmenter.wrap(Dropped(), num_classes=K, name="dropped").eval()


DRAWS = {"attacks": ["CosPGD", "FMN"], "eps": ["4/255"], "pictures": False}


def draws_in_its_forward(rank: int, folder: Path) -> None:
    torch.manual_seed(77 + rank)
    _evaluate(folder, model=dropped(), **DRAWS)


RUNS = {
    a_label_is_missing: "told by one: no label for scene 4",
    a_disk_is_full: "rows/rank-1.jsonl: File too large",
    memory_is_full: "out of memory with batches of 3",
    memory_is_full_when_the_batch_size_is_sought: "does not fit into memory",
    devices_differ: "device is 'NVIDIA X0' in process 0 and 'NVIDIA X1' in process 1",
}
NOT_FINITE = "the model returns logits that are not finite on the images it starts from"


def test_an_evaluation_ends_with_the_error_of_any_process(tmp_path):
    starts = {task: Start(task, tmp_path / task.__name__) for task in (*RUNS, draws_in_its_forward)}
    for task, line in RUNS.items():
        start = starts[task].finish()
        assert start.statuses == [2, 2], (task, start.told)
        text = "".join(start.told)
        assert text.count(line) == text.count("segrobust: error: ") == 1 and "Traceback" not in text
        assert not (start.folder / "run" / "summary.json").exists()
    start = starts[draws_in_its_forward].finish()
    assert start.statuses == [0, 0], start.told
    torch.manual_seed(1)
    evaluate(dropped(), ToySource(), work_dir=tmp_path / "alone", **{**RUN, **DRAWS})
    assert lines(tmp_path / "alone") == lines(start.folder / "run") != []


def test_an_attack_that_fails_stops_the_other_process_after_its_batch(tmp_path):
    starts = [Start(task, tmp_path / task.__name__) for task in (an_attack_of_the_main_process_fails, an_attack_fails)]
    for failing, start in enumerate(starts):
        start.finish()
        assert start.statuses == [1, 1], start.told
        assert "".join(start.told).count(f"segrobust: {NOT_FINITE}") == 1, start.told
        rows = [json.loads(line) for line in lines(start.folder / "run", 1 - failing)]
        eps = {one.id: one.eps for one in RunFolder(start.folder / "run").conditions()}
        assert {eps[row["condition"]] for row in rows} <= {None, 2 / 255}
        assert any(eps[row["condition"]] is None for row in rows)
    stored = json.loads((starts[0].folder / "run" / "checks.json").read_text())
    assert stored["failed"] == NOT_FINITE and stored["trust"] == "not trustworthy"


def test_a_process_alone_sees_its_own_signal():
    alone = Signal()
    assert not alone.is_given()
    alone.give()
    assert alone.is_given() and not Signal().is_given()


def a_training_meets_a_broken_image(rank: int, folder: Path) -> None:
    from mmengine.hooks import Hook
    from mmengine.registry import HOOKS

    from segrobust.commands.training import train
    from tests.hooks.processes import distributed_config

    @HOOKS.register_module()
    class BrokenImage(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
            if rank == 1 and runner.iter == 1:  # the other process waits for this one's gradients
                raise UserError("told by one: no label for scene 4")

    config = distributed_config(batch_size=1)
    config.custom_hooks = [*config.custom_hooks, dict(type="BrokenImage")]
    train(config, work_dir=folder / "run", launcher="pytorch")


@pytest.mark.slow
def test_a_training_ends_with_the_error_of_any_process(tmp_path):
    start = Start(a_training_meets_a_broken_image, tmp_path / "training").finish()
    assert start.statuses == [2, 2], start.told
    assert "segrobust: error: told by one: no label for scene 4\n" in start.told[1]
    assert "segrobust: " not in start.told[0] and "Traceback" not in "".join(start.told)
    assert not list(start.folder.rglob("*.pth"))


def test_a_launcher_that_starts_fewer_processes_than_it_was_asked_for(monkeypatch, capsys):
    for name, value in (("ACCELERATE_MIXED_PRECISION", "no"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29500")):
        refuse_missing_processes()  # of one process, accelerate says less
        monkeypatch.setenv(name, value)
    assert cli.main(["attacks"]) == 2
    error = capsys.readouterr().err
    assert "started one" in error and "torchrun --nproc_per_node N" in error and error.count("\n") == 1
    for name in ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"):  # torchrun's and mpirun's processes are all there
        with monkeypatch.context() as there:
            there.setenv(name, "2")
            refuse_missing_processes()


def test_processes_that_never_come(monkeypatch):
    monkeypatch.setattr(processes, "MEETING", timedelta(seconds=1))
    place = {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    for name, value in place.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(UserError, match="the 2 processes of this run did not meet: "), together():
        pytest.fail("one of two")


def test_every_process_reads_the_command_line_and_one_tells_what_is_wrong_with_it(monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert cli.main(["evaluate", "x", "--eot", "0"]) == 2 and "--eot" in capsys.readouterr().err
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert cli.main(["evaluate", "x", "--eot", "0"]) == 2 and capsys.readouterr().err == ""
