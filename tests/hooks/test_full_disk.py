"""A disk that is full ends a training in one line, at whatever line of the log that shows."""

from __future__ import annotations

import logging

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import CheckpointLoader

from segrobust.cli import main
from segrobust.hooks.full_disk import raise_where_full
from tests.hooks.toys import toy_config


@HOOKS.register_module()
class FillsDisk(Hook):
    """From the third iteration on nothing more can be written into the log file."""

    priority = "VERY_HIGH"

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter == 2:
            for handler in runner.logger.handlers:
                if isinstance(handler, logging.FileHandler):
                    handler.setStream(open("/dev/full", "w"))  # noqa: SIM115  (the handler closes it)


@pytest.mark.parametrize("options", [(), ("--verbose",)])
def test_a_disk_that_is_full_at_the_log_is_one_line(options, tmp_path, capfd):
    """Python's logging would print a traceback for every line that it cannot write."""
    config = toy_config(dict(type="FillsDisk"))
    config.default_hooks.checkpoint.interval = 2
    config.dump(tmp_path / "toy.py")
    status = main(["train", str(tmp_path / "toy.py"), "--work-dir", str(tmp_path / "run"), *options])
    err = capfd.readouterr().err
    assert status == 2 and "Traceback" not in err and "Logging error" not in err
    told = f"training stopped: the disk of {tmp_path / 'run'} is full; make room and go on with --resume"
    assert err.splitlines()[-1] == f"segrobust: error: {told}"
    last = CheckpointLoader.load_checkpoint(str(tmp_path / "run" / "iter_2.pth"), map_location="cpu")
    assert last["meta"]["iter"] == 2 and [path.name for path in tmp_path.glob("run/*.pth")] == ["iter_2.pth"]


def test_another_error_of_the_log_is_told_as_ever(capsys):
    handler = logging.StreamHandler()
    raise_where_full(handler)
    handler.handle(logging.makeLogRecord({"msg": "%d", "args": ("no number",)}))
    assert "Logging error" in capsys.readouterr().err


def test_a_disk_that_is_full_before_the_first_iteration_is_one_line(tmp_path, monkeypatch, capfd):
    """mmengine logs the environment and the config while it builds the runner."""
    toy_config().dump(tmp_path / "toy.py")
    monkeypatch.setattr(logging.FileHandler, "_open", lambda self: open("/dev/full", "w"))  # noqa: SIM115
    assert main(["train", str(tmp_path / "toy.py"), "--work-dir", str(tmp_path / "run")]) == 2
    err = capfd.readouterr().err
    assert "Traceback" not in err and "Logging error" not in err
    assert err.splitlines()[-1].startswith(
        f"segrobust: error: training stopped: the disk of {tmp_path / 'run'} is full"
    )
