"""What long work tells: what is running now, images as images, a line at once, and the time left by passes."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from segrobust.runs import progress
from segrobust.runs.progress import ImageProgress, IterationProgress
from tests.runs.test_batch_size import run
from tests.runs.toy_run import toy_model


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_a_line_at_once_and_then_now_and_then(clock, capsys):
    with ImageProgress(work=10 + 10 * 99) as shown:
        shown.begin("clean (1 of 2)", 10)
        assert capsys.readouterr().err == "clean (1 of 2): 0/10 images\n"
        clock[0] = 19.0
        shown.advance(5, 5)
        assert capsys.readouterr().err == ""
        clock[0] = 30.0
        shown.advance(5, 5)
        assert capsys.readouterr().err == "clean (1 of 2): 10/10 images, 0.33 images/s, 0:49:30 left\n"
        shown.begin("CEPGD 4/255 (2 of 2)", 10)  # it may run for an hour before its first image is done
        assert capsys.readouterr().err == "CEPGD 4/255 (2 of 2): 0/10 images, 0:49:30 left\n"
        clock[0] = 1020.0
        shown.advance(10, 10 * 99)
    assert capsys.readouterr().err == "CEPGD 4/255 (2 of 2): 10/10 images, 0.01 images/s, 0:00:00 left\n"


def test_images_of_an_earlier_start_count_but_not_for_the_speed(clock, capsys):
    shown = ImageProgress(work=40)
    shown.begin("CEPGD", 20, 16)
    clock[0] = 30.0
    shown.advance(2, 20)
    assert capsys.readouterr().err == "CEPGD: 16/20 images\nCEPGD: 18/20 images, 0.07 images/s, 0:00:30 left\n"


def test_other_names_and_units(clock, capsys):
    shown = ImageProgress(work=3, unit="checks")
    shown.begin("trust checks", 3)
    shown.running("trust checks, gradient usable")
    shown.advance(1, 1)
    clock[0] = 21.0
    shown.running("trust checks, enough steps")
    told = "trust checks: 0/3 checks\ntrust checks, enough steps: 1/3 checks, 0.05 checks/s, 0:00:42 left\n"
    assert capsys.readouterr().err == told


def test_on_a_terminal_the_bar_says_it(clock, capsys, monkeypatch):
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(progress, "Console", lambda stderr: terminal)
    with ImageProgress(work=100) as shown:
        shown.begin("CEPGD 4/255 (2 of 2)", 16)
        clock[0] = 10.0
        shown.advance(4, 25)
    last = [line for line in screen.getvalue().replace("\r", "\n").split("\n") if "CEPGD" in line][-1]
    assert "CEPGD 4/255 (2 of 2)" in last and "4/16 images, 0.40 images/s, 0:00:30 left" in last
    assert capsys.readouterr().err == ""


def test_nothing_is_told_where_nothing_is_to_do_or_another_process_tells(capsys):
    for shown in (ImageProgress(work=0), ImageProgress(work=5, show=False)):
        shown.begin("clean", 5)
        shown.advance(5, 5)
    assert capsys.readouterr().err == ""


def test_a_run_tells_what_it_does_by_its_images(tmp_path, capsys):
    run(tmp_path, toy_model(), size=4, eps=["2/255", "8/255"], pictures=False)
    told = [line.split(" images")[0] for line in capsys.readouterr().err.splitlines() if " images" in line]
    begun = ["clean (1 of 3): 0/7", "TsallisPGD 2/255 (2 of 3): 0/7", "TsallisPGD 8/255 (3 of 3): 0/7"]
    assert told == [*begun, "TsallisPGD 8/255 (3 of 3): 7/7"]


def test_a_training_tells_seconds_per_iteration_once_in_a_minute(clock, capsys):
    shown = IterationProgress(left=90)
    shown.begin("training", 100, 10)
    assert capsys.readouterr().err == "training: 10/100 iterations\n"
    for seconds, told in ((59.0, ""), (61.0, "loss 0.7: 12/100 iterations, 30.50 s/it, 0:44:44 left\n")):
        clock[0] = seconds
        shown.iterated("loss 0.7")
        assert capsys.readouterr().err == told
