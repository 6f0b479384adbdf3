"""One run at a time in a folder, for as long as any of its processes lives."""

import multiprocessing
import time

import pytest

from segrobust.core.errors import UserError
from segrobust.core.files import only_process
from segrobust.runs.folder import RunFolder
from tests.runs.small_run import CLEAN, FAR, IDENTITY, IMAGES, NEAR, batch, begin


def _hold(path, ready):
    with only_process(path):
        ready.set()
        time.sleep(60)


def _held_by_another(lock):
    """A process that holds the lock until it is killed."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_hold, args=(lock, ready))
    process.start()
    assert ready.wait(20)
    return process


def test_a_second_process_is_told_that_it_waits_and_refused_until_the_first_is_killed(folder, caplog):
    process = _held_by_another(folder.path / "rows/.lock-0")
    with (
        pytest.raises(UserError, match=r"another process is using .*run,"),
        only_process(folder.path / "rows/.lock-0", patience=0.1),
    ):
        pytest.fail("two writers at once")
    assert caplog.messages == [f"another process is using {folder.path}; waiting up to 0.1 s for its end"]
    process.kill()
    with folder.writer(0) as writer:  # the lock died with its process
        writer.append(batch(0))
    process.join()


def test_a_process_that_outlived_its_run_keeps_the_next_start_out(folder, monkeypatch):
    """Killed alone, the main process leaves the others writing; what they compute would be computed twice."""
    process = _held_by_another(folder.path / "rows/.lock-1")
    monkeypatch.setattr(only_process.__wrapped__, "__defaults__", (0.1,))  # its patience
    with pytest.raises(UserError, match=r"another process is using .*run,"):
        begin(folder.path)
    process.kill()
    process.join()
    begin(folder.path)


def _open(path, fresh, queue):
    only_process.__wrapped__.__defaults__ = (0.1,)  # its patience
    try:
        begin(path, fresh=fresh)
    except UserError as error:
        queue.put(str(error))
    else:
        queue.put("opened")


def _open_elsewhere(path, fresh=False):
    """What another process is told that opens the folder."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_open, args=(path, fresh, queue))
    process.start()
    told = queue.get(timeout=20)
    process.join()
    return told


def test_a_held_folder_is_kept_through_all_that_a_run_does(folder):
    refused = (
        f"another process is using {folder.path}, which a run keeps until its checks and report are done; wait for"
    )
    with folder.held(0):
        folder.open(IDENTITY, [CLEAN, NEAR, FAR], IMAGES)
        with folder.held(0), folder.writer(0) as writer:
            writer.append(batch(0))
        RunFolder(folder.path).rows()
        for fresh in (False, True):
            assert _open_elsewhere(folder.path, fresh).startswith(refused)
        assert folder.rows() == batch(0)
    assert _open_elsewhere(folder.path) == "opened"
    with folder.held(1):  # one of its other processes
        assert _open_elsewhere(folder.path).startswith(refused)


def test_a_run_keeps_its_folder_to_the_end(tmp_path, monkeypatch):
    from segrobust.commands import evaluation as runner
    from tests.runs.toy_run import RUN, ToySource, toy_model

    told = []

    def and_another_start(function):
        def wrapped(*args, **more):
            told.append(_open_elsewhere(tmp_path, fresh=True))
            return function(*args, **more)

        return wrapped

    for name in ("entries_of", "summarise", "run_checks", "write_pictures", "build_report"):
        monkeypatch.setattr(runner, name, and_another_start(getattr(runner, name)))
    settings = {**RUN, "attacks": ["TsallisPGD"], "eps": ["2/255"], "checks": True}
    runner.evaluate(toy_model(), ToySource(), work_dir=tmp_path, **settings)
    assert len(told) == 5 and all(text.startswith("another process is using") for text in told)
    assert (tmp_path / "report.html").exists() and (tmp_path / "images" / "grid.json").exists()
    assert "holds another run" in _open_elsewhere(tmp_path)
