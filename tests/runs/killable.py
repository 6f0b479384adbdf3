"""Small evaluations as process groups that can be killed as a whole, with a log of what each process computed.

A fork server imports torch once; each run is forked from it in milliseconds, in a session of its own.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from segrobust.commands.evaluation import evaluate
from segrobust.runs.executor import Executor
from tests.runs.toy_run import ToySource, toy_model

RUN = {"attacks": ["TsallisPGD", "FMN"], "eps": ["2/255", "8/255"], "steps": 4, "batch_size": 2, "checks": False}
IMAGES = 9
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload([__name__])


class Group:
    """One start of the evaluation on ``processes`` processes; ``log`` is a folder for one file per process."""

    def __init__(self, folder: Path, log: Path, processes: int) -> None:
        log.mkdir(parents=True)
        self.leader: BaseProcess = SERVER.Process(target=_lead, args=(folder, log, processes, free_port()))
        self.leader.start()

    def finishes(self, timeout: float) -> bool:
        """Whether it ends by itself within so many seconds, which must be without an error."""
        self.leader.join(timeout)
        if self.leader.exitcode is not None and self.leader.exitcode != 0:
            raise AssertionError(f"the run ended with exit status {self.leader.exitcode}")
        return self.leader.exitcode == 0

    def kill(self) -> None:
        """SIGKILL to all of its processes at once; returns when none is left."""
        pid = self.leader.pid
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        self.leader.kill()  # it may not have had the time to begin its group
        self.leader.join()
        while _alive(pid):
            time.sleep(0.001)


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return any(state != "Z" for state in _states(group))  # the dead may wait for someone to take note of them


def _states(group: int) -> list[str]:
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = file.read_text().rpartition(")")[2].split()[:3]
            found += [state] if int(its_group) == group else []
    return found


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _lead(folder: Path, log: Path, processes: int, port: int) -> None:
    os.setsid()
    torch.set_num_threads(1)
    others = []
    for rank in range(1, processes):
        if (pid := os.fork()) == 0:
            _evaluate(folder, log, rank, processes, port)
            os._exit(0)
        others.append(pid)
    _evaluate(folder, log, 0, processes, port)
    if any(os.waitpid(pid, 0)[1] for pid in others):
        raise SystemExit(1)


def join_others(rank: int, processes: int, port: int) -> None:
    """Become one of several processes, as torchrun would have started it."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()}, MASTER_ADDR="127.0.0.1")


def _evaluate(folder: Path, log: Path, rank: int, processes: int, port: int) -> None:
    if processes > 1:
        join_others(rank, processes, port)
    handle = os.open(log / f"{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    plain = Executor.rows

    def logged(self, study, batch):
        os.write(handle, f"\n{study.title} from {batch[0]}:".encode())
        rows = plain(self, study, batch)
        os.write(handle, b".")
        return rows

    Executor.rows = logged
    model = toy_model()
    model.net.register_forward_pre_hook(lambda *_: os.write(handle, b"+") and None)
    evaluate(model, ToySource(IMAGES), work_dir=folder, **RUN)


def began(log: Path) -> list[list[tuple[str, int]]]:
    """Per process of a start the batches it began, in order, with the number of times each called the model."""
    processes = [file.read_text().splitlines()[1:] for file in sorted(log.glob("*.log"))]
    parts = [[line.partition(":") for line in lines] for lines in processes if lines]
    return [[(name, calls.partition(".")[0].count("+")) for name, _, calls in lines] for lines in parts]
