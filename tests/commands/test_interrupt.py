"""Ctrl-C: one line that says how to go on, whatever the process was doing, and from one process of several."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from segrobust.cli import main
from segrobust.commands import run
from segrobust.commands.interrupt import Interrupts
from tests.hooks.toys import toy_config

GO_ON = "segrobust: interrupted; run the same command again to go on\n"


@pytest.fixture(autouse=True)
def same_handler_afterwards():
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background it is ignored
    yield
    signal.signal(signal.SIGINT, before)
    signal.set_wakeup_fd(-1)


@HOOKS.register_module()
class CtrlC(Hook):
    """Interrupts before an iteration; notes where a training began."""

    began_at = None

    def __init__(self, before: int) -> None:
        self.before = before

    def before_train(self, runner) -> None:
        CtrlC.began_at = runner.iter

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter == self.before:
            signal.raise_signal(signal.SIGINT)


def train(work_dir, capsys, stop_before, *options):
    """Exit status of ``segrobust train`` over four iterations, and its last line."""
    config = toy_config(dict(type="CtrlC", before=stop_before), attack=None)
    config.default_hooks.checkpoint.interval = 2
    config.dump(work_dir.parent / "toy.py")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    status = main(["train", str(work_dir.parent / "toy.py"), "--work-dir", str(work_dir), *options])
    return status, capsys.readouterr().err.splitlines()[-1:]


def test_a_training_names_resume_and_its_checkpoint(tmp_path, capsys):
    advice = "segrobust: interrupted; run the same command with --resume to go on from iter_2.pth"
    assert train(tmp_path / "run", capsys, 3) == (130, [advice])
    assert train(tmp_path / "run", capsys, 3, "--resume") == (130, [advice])
    assert train(tmp_path / "run", capsys, 99, "--resume")[0] == 0
    assert CtrlC.began_at == 2


def test_a_training_without_a_checkpoint_of_its_own_says_so(tmp_path, capsys):
    advice = "there is no checkpoint of this training yet; run the same command again to start anew"
    assert train(tmp_path / "run", capsys, 1) == (130, [f"segrobust: interrupted; {advice}"])
    assert train(tmp_path / "run", capsys, 99)[0] == 0
    assert train(tmp_path / "run", capsys, 1) == (130, [f"segrobust: interrupted; {advice}"])  # iter_4 is the other's


@pytest.mark.parametrize(("rank", "told"), [(None, GO_ON), ("0", GO_ON), ("1", "")])
def test_one_process_tells(monkeypatch, capsys, rank, told):
    """Also where what the interrupt leads to is another error: a data loader's worker or another process left first."""

    def interrupted(options):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeError("Connection closed by peer") from None

    monkeypatch.setattr(run, "attacks", interrupted)
    if rank:
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["attacks"]) == 130
    assert capsys.readouterr().err == told


SLURM, MPI = "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"
LAUNCHES = {
    "nothing": ({}, None),
    "torchrun": ({"RANK": 1, "WORLD_SIZE": 2}, 1),
    "torchrun of one": ({"RANK": 0, "WORLD_SIZE": 1}, None),
    "srun": ({SLURM: 3, "SLURM_NTASKS": 4, "SLURM_STEP_NUM_TASKS": 4}, 3),
    "srun of old": ({SLURM: 3, "SLURM_NTASKS": 4}, 3),
    "a shell of Slurm": ({SLURM: 0, "SLURM_NTASKS": 1}, None),
    "a shell in a job of several": ({SLURM: 0, "SLURM_NTASKS": 4, "SLURM_STEP_NUM_TASKS": 1}, None),
    "mpirun": ({MPI: 1, "OMPI_COMM_WORLD_SIZE": 2}, 1),
    "mpirun in a shell of Slurm": ({SLURM: 0, "SLURM_NTASKS": 1, MPI: 1, "OMPI_COMM_WORLD_SIZE": 2}, 1),
    "torchrun in a shell of Slurm": ({SLURM: 0, "SLURM_NTASKS": 1, "RANK": 1, "WORLD_SIZE": 2}, 1),
    "a place among nobody knows how many": ({SLURM: 0}, None),
}


@pytest.mark.parametrize("launch", LAUNCHES)
def test_a_process_on_its_own_ends_on_the_second_ctrl_c_wherever_it_was_started(monkeypatch, launch):
    """One of several ignores it, and is watched."""
    environment, rank = LAUNCHES[launch]
    for name in ("RANK", SLURM, MPI):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Interrupts("") as interrupts:
        assert interrupts.rank == rank
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        interrupts.reported.set()  # or the watching thread would end the tests
        assert signal.getsignal(signal.SIGINT) == (signal.SIG_DFL if rank is None else signal.SIG_IGN)
        assert (signal.set_wakeup_fd(-1) == -1) == (rank is None)


def test_the_handler_is_put_back():
    assert main(["attacks"]) == 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


WAITING = """
import hashlib, os, sys, time
from pathlib import Path
from segrobust.commands import run
from segrobust.cli import main

def wait(options):
    Path(sys.argv[1], os.environ["RANK"]).touch()
    if os.environ["RANK"] == "0":  # outside Python, as one that waits for another process
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
    time.sleep(60)

run.attacks = wait
sys.exit(main(["attacks"]))
"""


@pytest.mark.slow
def test_under_torchrun(tmp_path, repository):
    """torchrun itself prints a traceback; what its processes print is one line."""
    script, ready, logs = tmp_path / "waiting.py", tmp_path / "ready", tmp_path / "logs"
    script.write_text(WAITING)
    ready.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["--log-dir", str(logs), "--redirects", "3", str(script), str(ready)]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    torchrun = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    begin = time.monotonic()
    while len(list(ready.iterdir())) < 2 and time.monotonic() < begin + 120:
        time.sleep(0.1)
    torchrun.send_signal(signal.SIGINT)
    torchrun.wait(25)  # after 30 s it would have killed them
    printed = {path.parent.name: path.read_text() for path in Path(logs).rglob("stderr.log")}
    assert sorted(printed.values()) == ["", GO_ON]
