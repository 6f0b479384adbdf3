"""The report of a training: what is read of its folder and what is said first."""

from __future__ import annotations

import csv
import json
import math

import pytest

from segrobust.cli import main
from segrobust.core.errors import UserError
from segrobust.report.training import load_trainings, short_labels
from segrobust.report.training_config import TrainingConfig
from segrobust.report.training_page import render_trainings
from segrobust.report.training_pictures import snapshots, spread
from segrobust.report.training_verdict import next_command, overfitting, training_costs, training_verdict
from tests.report.test_pictures import with_chunk
from tests.report.trainings import LOG, RISING, loaded, picture, told, training_line, validation_line


def test_the_best_checkpoint_is_that_of_the_best_robust_score(make_training):
    names = ("iter_100.pth", "iter_300.pth", "iter_200.pth", "best_robust_mIoU_iter_200.pth", "epoch_200.pth")
    training = loaded(make_training(*RISING, checkpoints=names))
    assert training.best.iteration == 200 and training.iterations == 300
    first, there, last, *rest = training_verdict(training)
    assert first == "Best by robust/mIoU, after 200 iterations: best_robust_mIoU_iter_200.pth."
    assert there == ("There: clean 45.00 % mIoU, 65.00 % aAcc; under attack 30.00 % mIoU, 50.00 % aAcc.")
    assert "after 300 iterations: clean 50.00" in last and rest == []
    command = ("segrobust", "evaluate", "mine/net_camvid.py", "mine/best_robust_mIoU_iter_200.pth")
    assert next_command(training) == (*command, "--attack", "standard", "--eps", "4/255")


def test_without_its_checkpoint_the_best_one_that_was_kept_is_evaluated(make_training):
    training = loaded(make_training(*RISING, checkpoints=("iter_100.pth", "iter_300.pth")))
    assert "no checkpoint was kept" in training_verdict(training)[0]
    assert "mine/iter_300.pth" in next_command(training)
    assert next_command(loaded(make_training(*RISING, name="none"))) == ()


def test_a_score_that_is_no_number_is_not_the_best_that_was_kept(make_training):
    lines = [training_line(50, 1.0), validation_line(100, 40.0, math.nan), validation_line(200, 40.0, 20.0)]
    names = ("iter_100.pth", "iter_200.pth")
    assert "mine/iter_200.pth" in next_command(loaded(make_training(*lines, checkpoints=names)))
    assert next_command(loaded(make_training(*lines[:2], name="none", checkpoints=names))) == ()


def test_a_training_without_robust_validation_says_so(make_training):
    training = loaded(make_training(training_line(100, 1.0), validation_line(100, 40.0), validation_line(200, 30.0)))
    assert training.judged_by == "mIoU" and training.best.iteration == 100
    assert training_verdict(training)[-1].startswith("No robust validation")
    plain = loaded(make_training(training_line(100, 1.0), name="plain"))
    assert training_verdict(plain) == ["No validation yet: there is no best checkpoint."]


def test_an_infinite_distance_is_the_best_and_breaks_no_curve(make_training):
    lines = [validation_line(n, 40.0, **{"min_norm/median": value}) for n, value in ((100, 1.5), (200, math.inf))]
    training = loaded(make_training(training_line(50, 1.0), *lines))
    assert training.judged_by == "min_norm/median" and training.best.iteration == 200
    assert training.points("min_norm/median", True) == [(100, 1.5)]
    assert "inf" in render_trainings([training])


@pytest.mark.parametrize(
    ("last", "loss", "marked"),
    [
        (28.4, 0.4, True),  # 5 % of 30 is 1.5
        (28.6, 0.4, False),
        (20.0, 0.7, False),  # the loss did not fall: 0.65 before the best
        (20.0, 0.6, True),
    ],
)
def test_robust_overfitting_is_a_fall_of_the_score_while_the_loss_falls(make_training, last, loss, marked):
    lines = [*RISING[:6], training_line(250, loss), training_line(300, loss), validation_line(300, 50.0, last)]
    training = loaded(make_training(*lines))
    assert (overfitting(training) is not None) is marked
    page = render_trainings([training])
    assert ("marked, from iteration 200 on" in page) is marked and ("<b>Robust overfitting.</b>" in page) is marked
    assert "more than 5% of the best one below it" in page


def test_a_resumed_training_is_one(make_training):
    """The second start went on from iteration 100: what the first did after it was lost."""
    lost = [training_line(150, 9.0), validation_line(200, 99.0, 99.0)]
    folder = make_training(*RISING[:3], *lost, log=LOG.replace("iteration 150", "iteration 160"))
    make_training(*RISING[3:], start="20261127_020000", log=LOG)
    training = loaded(folder)
    assert [line.iteration for line in training.lines] == [50, 100, 100, 150, 200, 200, 250, 300, 300]
    assert training.points("loss")[2] == (150, 0.7) and training.best.iteration == 200
    assert [iteration for iteration, _ in training.log.events] == [150]  # 160 was lost with the first start
    assert training_costs(training)["starts"] == "2"


def test_a_new_start_from_the_beginning_replaces_all(make_training):
    folder = make_training(training_line(40, 9.0), training_line(80, 9.0), log=LOG)
    make_training(*RISING[:3], start="20261127_020000", log=LOG)
    make_training(start="20261127_030000", log=LOG)  # killed before its first line
    training = loaded(folder)
    assert [line.iteration for line in training.lines] == [40, 50, 100, 100]
    make_training(training_line(40, 1.0), start="20261127_040000")
    assert [line.iteration for line in loaded(folder).lines] == [40] and loaded(folder).log.events == []
    make_training(training_line(60, 1.0), start="20261127_050000", log=LOG)
    costs = training_costs(loaded(folder))  # what was done again was paid for
    assert costs["starts"] == "4" and costs["time, all starts"] == "3.0 hours" and costs["iterations"] == "60"


def test_a_new_start_drops_what_a_dead_one_logged_before_its_own_first_line(make_training):
    number = told("01:01:00", "Iter(train) [50/300]  lr: 1.0000e-03  eta: 0:01:00  loss: 0.5")
    folder = make_training(training_line(10, 9.0), validation_line(20, 99.0, 99.0), training_line(30, 9.0), log=number)
    make_training(*RISING[:3], start="20261127_020000", log=number)
    training = loaded(folder)
    assert [line.iteration for line in training.lines] == [50, 100, 100] and len(training.starts) == 2


def test_a_start_that_was_killed_before_its_first_training_line_keeps_its_validation(make_training):
    folder = make_training(*RISING[:3])
    log = told("01:00:00", "resumed epoch: 0, iter: 100")
    make_training(validation_line(140, 50.0, 45.0), start="20261127_020000", log=log)
    log = told("02:00:00", "resumed epoch: 0, iter: 140")
    make_training(*RISING[4:], start="20261127_030000", log=log)
    training = loaded(folder)
    assert training.best.iteration == 140 and len(training.starts) == 3


def test_of_a_resumed_training_only_warnings_that_still_hold_are_told(make_training):
    """The second start went on from iteration 120, the third from 220; lines of numbers come every 50 iterations."""

    def log(resumed, reached, *texts):
        number = told("01:01:00", f"Iter(train) [{reached}/300]  lr: 1.0000e-03  eta: 0:01:00  loss: 0.5")
        begun = [told("01:00:00", f"resumed epoch: 0, iter: {resumed}")] * bool(resumed)
        return "".join([*begun, number, *(told("01:02:00", text, "WARNING") for text in texts)])

    hold = ("catastrophic overfitting in iteration 120: held", "robust overfitting: held, too")
    skipped = [f"robust validation skipped after {number} iterations: ..." for number in (120, 121)]
    lost = ("catastrophic overfitting in iteration 121: lost", "training stopped: the disk is full")
    folder = make_training(*RISING[:4], log=log(0, 120, *hold, *skipped, *lost))
    lost = ("robust overfitting: lost", "training diverged in iteration 260: loss is nan")
    make_training(*RISING[3:7], start="20261127_020000", log=log(120, 250, *lost))
    last = ("training stopped after 300 iterations: no room",)
    make_training(*RISING[6:], start="20261127_030000", log=log(220, 300, *last))
    training = loaded(folder)
    assert training.log.events == [(120, hold[0]), (None, hold[1]), (None, last[0])] and training.log.skipped == 1
    assert [line.iteration for line in training.lines] == [50, 100, 100, 150, 200, 200, 250, 300, 300]
    assert training.points("loss")[2:4] == [(150, 0.7), (200, 0.6)]


def test_a_start_that_was_done_again_wholly_warns_of_nothing(make_training):
    folder = make_training(*RISING, log=told("01:00:00", "catastrophic overfitting in iteration 30: lost"))
    make_training(*RISING, start="20261127_020000")
    assert loaded(folder).log.events == []


def test_a_start_that_only_validated_replaces_nothing(make_training):
    folder = make_training(*RISING)
    make_training(validation_line(0, 41.0, 21.0), start="20261127_020000")
    make_training(validation_line(100, 42.0, 22.0), start="20261127_030000")
    training = loaded(folder)
    assert len(training.lines) == len(RISING) and training.best.iteration == 200 and len(training.starts) == 1


def test_a_half_written_last_line_is_skipped_and_others_are_told(make_training):
    whole = loaded(make_training(*RISING, end='{"lr": 0.001, "loss": 0.3, "st'))
    assert len(whole.lines) == len(RISING) and whole.starts[0].damaged == 0
    wrong = ("no json", '["a list"]', '{"loss": 1}', '{"loss": 1, "step": "5"}', "[" * 10**5, '{"step": 1e999}')
    folder = make_training(*RISING, name="wrong", end="\n".join([*wrong, "", ""]))
    assert loaded(folder).starts[0].damaged == len(wrong)
    assert "6 lines of the numbers of wrong cannot be read" in render_trainings([loaded(folder)])


def test_damaged_numbers_are_left_out(make_training):
    huge, still = 1e300, {"time": 0.0, "adv_time": 0.0}
    lines = [
        training_line(50, huge, **still),
        training_line(60, 3e38, **still, lr=-huge),  # a diverging loss in float32
        training_line(70, huge, **still, adv_passes=huge),
        validation_line(70, huge, 20.0),
        training_line(80, 10**20, **still),
        validation_line(80, 40.0, huge),
    ]
    config = f"train_cfg = dict(max_iters=0x{'f' * 4000})\nrandomness = dict(seed=3)"
    training = loaded(make_training(*lines, config=config))
    costs = training_costs(training)
    assert training.points("loss") == [(60, 3e38)] and training.best.iteration == 70
    assert costs["seconds per iteration"] == "0.00" and not any(name.startswith("share") for name in costs)
    page = render_trainings([training])
    assert "Iterations or epochs" not in page and "<dt>Seed</dt><dd>3</dd>" in page


def test_validations_that_are_logged_by_epoch_belong_to_the_iteration_before_them(make_training):
    lines = [
        training_line(30, 1.0),
        validation_line(1, 40.0, 10.0),
        training_line(60, 0.9),
        validation_line(2, 41.0, 9.0),
    ]
    training = loaded(make_training(*lines, checkpoints=("epoch_1.pth", "best_robust_mIoU_epoch_1.pth", "iter_60.pth")))
    assert [line.iteration for line in training.validations] == [30, 60]
    assert training.checkpoint_of(training.best) == "best_robust_mIoU_epoch_1.pth"
    assert training.checkpoint_of(training.validations[1]) == "iter_60.pth"


@pytest.mark.parametrize(
    ("said", "config"),
    [
        ("Epoch(train)  [1][ 50/120]", "train_cfg = dict(by_epoch=True, max_epochs=2)"),
        ("Iter(train) [ 50/240]", "train_cfg = dict(by_epoch=True, max_epochs=2)"),  # log_processor.by_epoch=False
        ("Epoch(train)  [1][ 50/120]", ""),
        ("Iter(train) [ 50/240]", ""),
        ("Iter(train) [ 50/240]", "train_cfg = dict(by_epoch=True, max_epochs=0)"),
        ("Iter(train) [ 50/120]", "train_cfg = dict(by_epoch=True, max_epochs=2)"),  # no epoch of these numbers
    ],
)
def test_a_validation_by_epoch_belongs_to_the_last_iteration_of_a_long_epoch(make_training, said, config):
    """Of 120 iterations, every 50 are logged: 50, 100, then 170, 220."""
    scores = {1: validation_line(1, 40.0, 10.0), 2: validation_line(2, 41.0, 9.0)}
    lines = [*(training_line(n, 1.0) for n in (50, 100)), scores[1], training_line(170, 0.9), training_line(220, 0.8),
             scores[2]]  # fmt: skip
    training = loaded(make_training(*lines, log=told("01:00:00", f"{said}  lr: 1.0000e-03"), config=config))
    known = "/120" in said if "Epoch" in said else "/240" in said and "=2" in config
    assert [line.iteration for line in training.validations] == ([120, 240] if known else [100, 220])
    assert training.iterations == (240 if known else 220)


def test_cost_and_warnings_are_those_of_the_log(make_training):
    training = loaded(make_training(*RISING, log=LOG))
    costs = training_costs(training)
    assert costs["time, all starts"] == "1.0 hours" and costs["iterations"] == "300"
    assert costs["seconds per iteration"] == "2.00" and costs["share of the attack in them"] == "75%"
    assert costs["share of robust validation in the time"] == "4.2%"  # 150.5 of 3600 s
    assert costs["robust validations skipped for their time"] == "1"
    assert [text[:26] for _, text in training.log.events] == ["catastrophic overfitting i"]
    page = render_trainings([training])
    assert "catastrophic overfitting in iteration 150" in page and "The prefix is not set" not in page


def test_the_attacks_share_is_of_the_time_of_all_iterations(make_training):
    """Without an attack up to iteration 100 (the hook's start); then 1.5 of 2 s."""
    clean = [{**training_line(n, 1.0), "time": 0.5} for n in (50, 100)]
    for line in clean:
        del line["adv_time"]
    costs = training_costs(loaded(make_training(*clean, training_line(150, 0.9), training_line(200, 0.8))))
    assert costs["seconds per iteration"] == "1.25" and costs["share of the attack in them"] == "60%"


def test_the_config_is_read_and_never_run(make_training, tmp_path):
    ran = tmp_path / "ran"
    text = f"open({str(ran)!r}, 'w')\nx = dict(a=1, b=[2, {{'c': (3,)}}])\ny = open({str(ran)!r}, 'w')\nz = {{[]: 1}}\n"
    config = TrainingConfig("c.py", text)
    assert config.fields == {"x": {"a": 1, "b": [2, {"c": [3]}]}} and not ran.exists()
    assert config.at("x", "a") == 1 and config.at("x", "a", "b") is None and config.hooks("AnyHook") == []
    for broken in ("x = (", "x = 1\0", "(" * 10**5, "x = " + "-" * 10**5 + "1"):
        assert TrainingConfig("c.py", broken).fields == {}
    page = render_trainings([loaded(make_training(*RISING))])
    assert "/home/someone" not in page and "CEPGD (eps 4/255, steps 3)" in page and "work_dir = &#39;x&#39;" in page


def test_the_attack_of_free_training_is_its_hook(make_training):
    config = "custom_hooks = [dict(eps='8/255', replays=4, type='FreeAdversarialTrainingHook')]"
    training = loaded(make_training(*RISING, config=config, checkpoints=["iter_200.pth"]))
    assert "<dd>FreeAdversarialTrainingHook (eps 8/255, replays 4)</dd>" in render_trainings([training])
    assert next_command(training)[-2:] == ("--eps", "8/255")


@pytest.mark.parametrize(
    ("text", "seed"),
    [
        ("randomness = dict(seed=7)", "7"),
        ("randomness = dict(seed=0)", "0"),
        ("randomness = dict(seed=None)", "none set"),
        ("model = dict()", "none set"),
        ("", None),
    ],
)
def test_a_seed_that_was_not_set_is_told(make_training, text, seed):
    page = render_trainings([loaded(make_training(*RISING, config=text))])
    assert (f"<dt>Seed</dt><dd>{seed}</dd>" in page) is (seed is not None)
    assert ("<dt>Seed</dt>" in page) is (seed is not None)


def test_labels_are_what_tells_configs_apart():
    names = ["fpn_r18-cepgd-linf4-s3_camvid", "fpn_r18-tsallispgd-linf4-s3_camvid", "fpn_r18-almaprox-linf8-s5_camvid"]
    assert short_labels(names) == ["cepgd-linf4-s3", "tsallispgd-linf4-s3", "almaprox-linf8-s5"]
    for same in (["mine"], ["a", "a-b"], ["standard", "robust"], ["a-b", "a-b"]):
        assert short_labels(same) == same


def test_pictures_are_shown_by_image_along_the_training(make_training):
    folder = make_training(*RISING)
    for iteration in (100, 200, 300, 400):  # 400 is of a start that was replaced
        picture(folder, iteration, 0)
        picture(folder, iteration, 1)
    picture(folder, 300, 2, kinds=("image", "clean"))
    picture(folder, 300, 3)
    damaged = folder / "pictures" / "iter_300" / "3-robust.png"
    damaged.write_bytes(with_chunk(damaged.read_bytes(), b"pHYs", b"short"))
    (folder / "pictures" / "iter_200" / "1-clean.png").write_bytes(b"no picture")
    (folder / "pictures" / "classes.json").write_text(json.dumps([["road", [1, 2, 3]], ["car", [4, 5, 6]]]))
    shots = snapshots(loaded(folder))
    assert [(one.image, one.iteration) for one in shots] == [(0, 100), (0, 200), (0, 300), (1, 100), (1, 300)]
    page = render_trainings([loaded(folder)])
    assert page.count('src="data:image/') == 20 and "rgb(4, 5, 6)" in page
    for wrong in ("{}", "[1]", '[["a", [1, 2]]]', '[["a", [1, 2, 300]]]', "no"):
        (folder / "pictures" / "classes.json").write_text(wrong)
        assert "swatch" not in render_trainings([loaded(folder)]).split("<main>")[1]


def test_few_iterations_stand_for_all_and_the_best_is_among_them():
    assert spread([1, 2, 3], 2) == [1, 2, 3]
    assert spread(list(range(100, 1100, 100)), None) == [100, 400, 700, 1000]
    assert spread(list(range(100, 1100, 100)), 800) == [100, 400, 800, 1000]
    assert spread(list(range(100, 1100, 100)), 850) == [100, 400, 700, 1000]


def test_the_command_writes_the_page_and_the_table(make_training, capsys, tmp_path):
    folder = make_training(*RISING, name="=1+1")
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html") and (folder / "report.html").is_file()
    table = tmp_path / "all.csv"
    assert main(["report", str(folder), "--csv", str(table)]) == 0
    assert capsys.readouterr().out.strip() == str(table)
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == len(RISING) and rows[2]["kind"] == "validation" and rows[2]["iteration"] == "100"
    assert (rows[2]["robust/mIoU"], rows[2]["loss"]) == ("20.0", "") and rows[0]["loss"] == "0.9"
    assert rows[0]["training"] == "'=1+1"


def test_a_name_of_a_number_is_no_formula_either(make_training, tmp_path):
    folder = make_training(training_line(50, 1.0, **{"=cmd()": 2.0, "\ud800": 3.0}))  # the last is no UTF-8
    assert main(["report", str(folder), "--csv", str(tmp_path / "all.csv")]) == 0
    assert "'=cmd()" in (tmp_path / "all.csv").read_text().splitlines()[0]


@pytest.mark.parametrize(
    "option", ["--latex x.tex", "--rows-csv x.csv", "--model-card x.md", "--figures x", "--interactive"]
)
def test_what_only_evaluations_have_is_refused(make_training, capsys, in_tmp, option):
    folder = make_training(*RISING)
    assert main(["report", str(folder), *option.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert option.split()[0] in line and "--csv" in line and not (folder / "report.html").exists()


def test_one_line_tells_what_is_no_training_or_of_two_kinds(make_training, make_run, capsys, tmp_path):
    def error(*folders):
        assert main(["report", *map(str, folders)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "no run.json" in error(tmp_path) and "scalars.json" in error(tmp_path)
    training, run = make_training(*RISING, name="trained"), make_run("evaluated")
    assert "'trained' is" in error(training, run).replace(f"{tmp_path}/", "")
    assert "has logged no numbers yet" in error(make_training(name="young", end='{"lr": 0.1'))


def test_no_folder_without_numbers_is_a_training(tmp_path):
    (tmp_path / "20261127_010000").mkdir()
    with pytest.raises(UserError, match="no numbers yet"):
        load_trainings([tmp_path])
