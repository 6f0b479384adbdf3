"""``segrobust train`` on the console: a line of progress, a row per validation, warnings; the log file has the rest."""

from __future__ import annotations

import io
import json
import re
import sys
from types import SimpleNamespace

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from rich.console import Console

from segrobust.cli import main
from segrobust.core.errors import RunFailed
from segrobust.hooks import RobustValidationHook
from segrobust.hooks.console import ConsoleHook
from segrobust.runs import progress
from tests.hooks.toys import toy_config, with_validation

OF_MMENGINE = ("System environment", "Hooks will be executed", "Iter(train)", "per class results", "Saving checkpoint")
NOISE = "The prefix is not set in metric class"


@HOOKS.register_module()
class Speaks(Hook):
    """Warns in the second iteration, and where told to fails in the third."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter == 1:
            runner.logger.warning("mind the step")
        if runner.iter == 2 and self.fails:
            raise RunFailed("training stopped by a test; take another")


@pytest.fixture
def train(tmp_path, capsys):
    """Exit status, standard output and standard error of ``segrobust train``, and its log."""

    def run(*options, fails=False):
        config = with_validation(toy_config(dict(type="Speaks", fails=fails)), num_images=2)
        config.default_hooks.checkpoint.save_best = "robust/mIoU"
        config.dump(tmp_path / "toy.py")
        status = main(["train", str(tmp_path / "toy.py"), "--work-dir", str(tmp_path / "run"), *options])
        (log,) = tmp_path.glob("run/*/*.log")
        return status, *capsys.readouterr(), log

    return run


def test_few_lines_and_the_log_has_the_rest(train, tmp_path):
    status, out, err, log = train()
    assert status == 0
    where, warning, head, second, fourth, last, best, report = out.splitlines()
    assert where == f"log: {log}" and "mind the step" in warning
    assert head.split() == "iteration loss mIoU robust mIoU aAcc robust aAcc".split()
    lines = [json.loads(line) for line in next(tmp_path.glob("run/*/vis_data/scalars.json")).read_text().splitlines()]
    means = [line["loss"] for line in lines if "loss" in line]  # mmengine's are over all four iterations
    losses, names = (means[1], 2 * means[3] - means[1]), ("mIoU", "robust/mIoU", "aAcc", "robust/aAcc")
    for row, scores, loss in zip((second, fourth), [line for line in lines if "mIoU" in line], losses, strict=True):
        told = [scores["step"], f"{loss:.4f}", *(f"{scores[name]:.2f}" for name in names)]
        assert row.removesuffix("best").split() == list(map(str, told))
    assert second.endswith("best")
    assert last.endswith("iter_4.pth") and "best_robust_mIoU_iter_" in best
    assert report == f"report: segrobust report {tmp_path / 'run'}"
    text = log.read_text()
    assert all(said in text and said not in out + err for said in (*OF_MMENGINE, NOISE))
    assert "mind the step" in text


def test_the_progress_is_on_the_standard_error(train):
    _, _, err, _ = train()
    told = [line for line in err.splitlines() if "iterations" in line]
    assert told[0] == "training: 0/4 iterations" and len(told) == 2
    number = r"[\d.e+-]+"
    course = rf"loss {number}, lr {number}, eps 8/255, mIoU {number}, robust {number}"
    assert re.fullmatch(rf"{course}: 4/4 iterations, {number} s/it, 0:00:00 left", told[1])


def test_verbose_shows_all_that_mmengine_does(train):
    status, out, err, _ = train("--verbose")
    assert status == 0 and all(said in out for said in (*OF_MMENGINE, NOISE, "mind the step"))
    assert "iterations" not in err and "report: segrobust" not in out


@pytest.mark.parametrize("options", [(), ("--verbose",)])
def test_a_failure_is_the_last_line_as_ever_and_stands_in_the_log(train, options):
    status, out, err, log = train(*options, fails=True)
    assert status == 1 and err.splitlines()[-1] == "segrobust: training stopped by a test; take another"
    assert log.read_text().splitlines()[-1].endswith("WARNING - training stopped by a test; take another")
    assert "take another" not in out and "report: segrobust" not in out


def robust_scores(monkeypatch, *scores):
    """What the validations after 2, 4, ... iterations find."""
    monkeypatch.setattr(RobustValidationHook, "measure", lambda self, runner: (scores[runner.iter // 2 - 1], 50.0))


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ((40, 30, 39, 41), ["2", "8"]),
        ((30, 40, 39, 41), ["2", "4", "8"]),  # the checkpoint after 4 iterations was written before that validation
        ((30, 40, 41, 41), ["2", "4", "6"]),
    ],
)
def test_the_best_before_a_resume_stays_the_best(scores, best, train, tmp_path, monkeypatch, capsys):
    robust_scores(monkeypatch, *scores)
    _, before, _, _ = train()
    (tmp_path / "run" / "last_checkpoint").write_text("iter_4.pth")
    options = ["--work-dir", str(tmp_path / "run"), "--resume", "--cfg-options", "train_cfg.max_iters=8"]
    assert main(["train", str(tmp_path / "toy.py"), *options]) == 0
    rows = [line.split() for line in (before + capsys.readouterr().out).splitlines() if line[:1] == " "]
    assert [row[0] for row in rows] == ["2", "4", "6", "8"]
    assert [row[0] for row in rows if row[-1] == "best"] == best


def test_what_was_lost_with_a_kill_is_not_the_best(train, tmp_path, monkeypatch, capsys):
    """A resume from iteration 2 repeats the validation after 4."""
    robust_scores(monkeypatch, 30, 40)
    train("--cfg-options", "default_hooks.checkpoint.interval=2")
    (tmp_path / "run" / "last_checkpoint").write_text("iter_2.pth")
    robust_scores(monkeypatch, 30, 35)
    assert main(["train", str(tmp_path / "toy.py"), "--work-dir", str(tmp_path / "run"), "--resume"]) == 0
    (row,) = [line.split() for line in capsys.readouterr().out.splitlines() if line[:1] == " "]
    assert row[0] == "4" and row[-1] == "best"


def test_a_resumed_training_begins_where_it_stopped(train, tmp_path, capsys):
    train()
    options = ["--work-dir", str(tmp_path / "run"), "--resume", "--cfg-options", "train_cfg.max_iters=6"]
    assert main(["train", str(tmp_path / "toy.py"), *options]) == 0
    seen = capsys.readouterr()
    log = sorted(tmp_path.glob("run/*/*.log"))[-1].read_text()
    assert "Loads checkpoint by" in log and "Loads checkpoint by" not in seen.out
    assert "training: 4/6 iterations" in seen.err and ": 6/6 iterations" in seen.err
    assert [line.split()[0] for line in seen.out.splitlines() if "best" not in line[:4]][-3] == "6"


@pytest.mark.parametrize("piped", [False, True])
def test_on_a_terminal_the_bar_says_it_and_rows_stand_above_or_in_the_file(piped, train, monkeypatch):
    """Above where the standard output is that terminal; in the file that it goes to, where it goes to one."""
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=160)
    monkeypatch.setattr(progress, "Console", lambda stderr: terminal)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: not piped)
    status, out, err, _ = train()
    shown = screen.getvalue()
    assert status == 0 and "4/4 iterations" in shown and "iterations" not in err
    assert "loss" in (out if piped else shown)
    here, elsewhere = (out, shown) if piped else (shown, out)
    for told in ("mind the step", "robust mIoU", "best\n"):  # a warning, the head of the table, a row of it
        assert told in here and told not in elsewhere
    assert "report: segrobust" in out  # and at the end the bar is gone


@pytest.mark.parametrize(
    ("hook", "told"),
    [
        (dict(attack=dict(type="CEPGD", eps="2.51/255", steps=1, optimiser="pgd", radius_reduction=False)), "2.51/255"),
        (dict(attack=dict(type="CEPGD", norm="L2", eps=0.5, steps=1, optimiser="pgd", radius_reduction=False)), "0.5"),
        (dict(type="FreeAdversarialTrainingHook", norm="L2", eps="128/255"), "0.502"),
        (dict(type="FreeAdversarialTrainingHook", eps="12.34/255"), "12.3/255"),
    ],
)
def test_a_radius_is_told_in_its_own_unit(hook, told, tmp_path, capsys):
    """Linf in 1/255, the other norms in image units, as the tables have them."""
    options = dict(type="AdversarialTrainingHook") | hook
    if options["type"].startswith("Free"):
        options["replays"] = 1
    toy_config(options, attack=None, iters=1).dump(tmp_path / "toy.py")
    assert main(["train", str(tmp_path / "toy.py"), "--work-dir", str(tmp_path / "run")]) == 0
    assert f", eps {told}: 1/1 iterations" in capsys.readouterr().err


def test_other_processes_are_silent(capsys):
    hub = SimpleNamespace(log_scalars={}, runtime_info={})
    wrapper = SimpleNamespace(get_lr=lambda: {"lr": [0.1]})
    logger = SimpleNamespace(handlers=[], log_file="x.log")
    runner = SimpleNamespace(
        rank=1, iter=0, max_iters=1, hooks=[], logger=logger, message_hub=hub, optim_wrapper=wrapper
    )
    hook = ConsoleHook()
    hook.before_train(runner)
    hook.after_train_iter(runner, 0)
    hook.before_val_epoch(runner)
    hook.after_val_epoch(runner, {"mIoU": 1.0})
    hook.stop(runner)
    assert capsys.readouterr() == ("", "")
