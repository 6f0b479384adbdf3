"""The benchmark that trains every recipe: its arithmetic has known answers, and a call that ends early is continued."""

from __future__ import annotations

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import training_session, training_table, training_work
from benchmarks.training_job import Job
from benchmarks.training_recipes import ARCHITECTURES, CONFIGS, RECIPES, Work, passes, recipe_config, scaled, spread
from benchmarks.training_rows import markdown, rows_of, shipped
from segrobust import load_segmenter
from segrobust.commands.training import train
from segrobust.core.errors import RunFailed
from segrobust.datasets.scenes import write_scenes
from segrobust.models.checkpoint.loading import load_state_dict


def work(iteration, setup=0.0, evaluation=0.0, **begun):
    return Work(iteration, setup, evaluation, **begun)


@pytest.mark.parametrize(
    ("seconds", "works", "expected"),
    [
        (100, {"a": work(1), "b": work(2)}, {"a": 50, "b": 25}),
        (100, {"a": work(1)}, {"a": 100}),  # the other is finished
        (100, {"a": work(1, setup=6, evaluation=4), "b": work(2, setup=4, evaluation=6)}, {"a": 40, "b": 20}),
        (100, {"a": work(1, planned=50, done=30), "b": work(2), "c": work(4)}, {"a": 20, "b": 20, "c": 10}),
        (100, {"a": work(1, planned=300, done=30), "b": work(2)}, {"a": 100, "b": 0}),
        (100, {"a": work(1, setup=9, evaluation=10, planned=50, done=50), "b": work(2)}, {"a": 0, "b": 45}),
        (100, {"a": work(60), "b": work(40)}, {"a": 0, "b": 1}),
        (10, {"a": work(1, evaluation=10), "b": work(1)}, {"a": 0, "b": 0}),
        (-5, {"a": work(1)}, {"a": 0}),
        (100, {}, {}),
    ],
)
def test_a_budget_is_shared_in_equal_seconds(seconds, works, expected):
    assert spread(seconds, works) == expected


def test_an_iteration_costs_the_mean_of_those_that_are_not_warm():
    assert training_work.cost_of([9.0, 5.0, 1.0, 3.0], 2, 25.0) == (2.0, 17.0)
    assert training_work.cost_of([9.0, 5.0, 4.0], 20, 25.0) == (4.0, 13.0)  # time was up before
    assert training_work.cost_of([9.0, 9.0, 9.0, 9.0, 2.0, 4.0], 20, 50.0) == (3.0, 32.0)
    assert training_work.cost_of([2.0, 2.0], 1, 3.0) == (2.0, 0.0)


def test_costs_follow_the_pace_of_the_trainings_before():
    session = object.__new__(training_session.Session)
    job = SimpleNamespace(name="net/at", architecture="net", failure=lambda _: None, state={}, planned=None, done=0)
    session.jobs, session.how = [job], SimpleNamespace(key="standard")
    session.costs = {"net": 5.0, "net/at": {"iteration": 2.0, "setup": 4.0}}
    session.spent = session.expected = 0.0
    assert session.works() == {"net/at": work(2.0, 4.0, 5.0)}
    session.spent, session.expected = 30.0, 20.0
    assert session.works() == {"net/at": work(3.0, 6.0, 5.0)}
    job.state = {"evaluations": {"standard": {}}}
    assert session.works() == {}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory; try a smaller --batch-size"),
        (RunFailed("training diverged in iteration 3"), "training diverged in iteration 3"),
        (RuntimeError("a defect"), None),
    ],
)
def test_what_becomes_a_row_and_what_ends_the_call(error, told, tmp_path):
    job = Job("net", "at", tmp_path / "net" / "at", None, {"settings": {}})
    with nullcontext() if told else pytest.raises(RuntimeError, match="a defect"), training_work.failures(job):
        raise error
    assert job.state.get("failed") == told


@pytest.mark.parametrize(
    ("kept", "shown"), [({}, "- | -"), ({"seconds": None}, "- | -"), ({"seconds": 9}, "9.000 | 0.010")]
)
def test_a_time_that_was_not_kept_is_a_dash(kept, shown, tmp_path):
    scores = {"aAcc": 50.0, "mIoU": 40.0, "mIoU_greedy": 39.0}
    found = dict(clean=scores, worst=scores, interval=None, clean_mIoU_float32=40.0, seconds=1.0)
    state = dict(iterations=4, passes=10, megabytes=1.0, evaluations={"standard": found}, **kept)
    job = SimpleNamespace(architecture="net", recipe="at", state=state, failure=lambda _: None, done=4, planned=4,
                          folder=tmp_path, weights=tmp_path / "w.safetensors")  # fmt: skip
    how = SimpleNamespace(key="standard", eps="4/255", steps=2, num_images=2, batch_size=2)
    table = markdown(rows_of([job], how), {})
    assert f"| 1 | net | at | 4 | 40 | {shown} | 50.00 |" in table


def test_what_may_be_shipped():
    assert shipped([5.0, 5.1, 5.0, 4.0, 4.5, 4.0, 2.1, 2.0]) == [True, False, True, True, True, False, False, False]
    assert shipped([4.0] * 6) == [True] * 5 + [False]


# --- configs


def config_for(recipe="cepgdat", architecture="fpn-r18w24", size=(48, 64), start="shipped", precision="float32"):
    return recipe_config(recipe, architecture, list(size), start, 2, precision, 7)


def hook(config, kind):
    return next((one for one in config.custom_hooks if one["type"] == kind), None)


def test_every_recipe_of_equal_length_is_in_the_table():
    files = {file.name.removeprefix("fpn_r18w24_1xb8-") for file in (CONFIGS / "fpn").glob("*at-*_camvid-180x240.py")}
    files |= {file.name.removeprefix("fpn_r18w24_1xb8-") for file in (CONFIGS / "fpn").glob("*-1500_*.py")}
    left_out = files - {f"{name}_camvid-180x240.py" for name in RECIPES.values()}
    assert {name.rpartition("_camvid")[0] for name in left_out} == {
        "pgdat-linf4-s3-1500",  # older ones, on other images
        "pgdat-linf4-s3-strong-900",
        "sharppgdat-linf4-s3-second-900",  # on top of another
        "pgdat-linf4-s5-300",
        "almaat-linf4-s5-300",
        "cepgdat-earlystop-linf4-s3-1500",
    }


@pytest.mark.parametrize(
    ("recipe", "count"),
    [
        ("standard", 3),
        ("cepgdat", 10),
        ("cepgdat-clean50", 6.5),
        ("almaproxat", 15),
        ("trades", 14),
        ("mart", 13),
        ("fastat", 6),
        ("ddcat", 13),
        ("freeat", 3),
        ("cepgdat-kept", 6),
    ],
)
def test_passes_of_an_iteration(recipe, count):
    assert passes(config_for(recipe)) == count


@pytest.mark.parametrize(("iterations", "factor"), [(300, 0.2), (4500, 3)])
def test_schedules_keep_their_share_of_a_training(iterations, factor):
    plain, averaged = (scaled(config_for(name), iterations, 60) for name in ("cepgdat", "cepgdat-swa"))
    assert [(one.begin, one.end) for one in plain.param_scheduler] == [
        (0, 100 * factor),
        (100 * factor, 1500 * factor),
    ]
    assert plain.train_cfg.max_iters == iterations and plain.train_cfg.val_begin > iterations
    assert hook(plain, "AdversarialTrainingHook").eps_warmup == 200 * factor
    assert hook(plain, "EMAHook").momentum == pytest.approx(0.005 / factor)
    assert hook(averaged, "EMAHook").begin_iter == 750 * factor
    assert plain.default_hooks.checkpoint.interval == 60 and plain.default_hooks.checkpoint.save_best is None
    assert config_for().train_cfg.max_iters == 1500


def test_a_training_of_some_iterations_has_no_warm_up():
    config = scaled(config_for(), 4, 4)
    assert [(one.type, one.begin, one.end) for one in config.param_scheduler] == [("CosineAnnealingLR", 0, 4)]
    assert hook(config, "EMAHook").momentum == 0.5


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_architecture_takes_size_classes_and_losses_of_the_recipe(architecture):
    assert config_for("freeat", architecture).train_dataloader.sampler.batch_size == 2
    whole = config_for("cepgdat-kept", architecture, (72, 96)).train_dataloader.dataset.dataset.pipeline
    assert whole[0].scale == (96, 72)  # whole images, where others are cropped
    config = config_for("cepgdat-tsallisloss", architecture, (72, 96))
    loss, model = config_for("cepgdat-tsallisloss").model.decode_head.loss_decode, config.model
    assert model.data_preprocessor.size == (72, 96)
    assert model.decode_head.loss_decode == {**loss, "loss_weight": 1.0} if "upernet" in architecture else loss
    if "upernet" in architecture:
        assert config.load_from is None and model.auxiliary_head.loss_decode == {**loss, "loss_weight": 0.4}
        assert model.auxiliary_head.num_classes == 11 and model.pretrained is None
        assert "SyncBN" not in str(model) and "open-mmlab" not in str(model)
        assert not model.backbone.get("pretrained")
    else:
        assert config.load_from.endswith("camvid-fpn-r18w24-std-180x240.safetensors")
        assert config_for(start="random").load_from is None
    steps = {one.type: one for one in config.train_dataloader.dataset.dataset.pipeline}
    assert steps["RandomResize"].scale == (96, 72) and steps["RandomCrop"].crop_size == (72, 96)
    assert "scale" not in steps["LoadPair"]
    assert config.test_dataloader.dataset.pipeline[0].scale == (96, 72)
    assert config.train_dataloader.batch_size == 2 and config.randomness.seed == 7


def test_precision_is_the_optimisers():
    wrapper = config_for(precision="bf16").optim_wrapper
    assert (wrapper.type, wrapper.dtype, wrapper.loss_scale) == ("AmpOptimWrapper", "bfloat16", 1.0)
    assert config_for(precision="fp16").optim_wrapper.loss_scale == "dynamic"
    assert config_for().optim_wrapper.type == "OptimWrapper"


# --- whole calls, on miniature scenes


@pytest.fixture
def scenes(tmp_path, monkeypatch):
    write_scenes(tmp_path / "scenes", train=4, val=2, test=1, size=(48, 64))
    monkeypatch.setenv("SEGROBUST_CAMVID", str(tmp_path / "scenes"))
    monkeypatch.setattr(training_session, "spread", lambda seconds, works: dict.fromkeys(works, 4))
    monkeypatch.setattr(training_session, "measured", lambda *_: {"iteration": 1.0, "setup": 1.0})
    monkeypatch.setattr(training_session, "OVERRUN", 1000.0)  # this machine may be busy
    return tmp_path / "table"


def call(folder, *more, recipes=("standard", "cepgdat")):
    words = ["--minutes", "30", "--size", "48", "64", "--batch-size", "2", "--eval-steps", "2", "--num-images", "2"]
    return training_table.main([*words, "--recipes", *recipes, "--work-dir", str(folder), *more])


@pytest.fixture
def trainings(monkeypatch):
    """The folder and ``resume`` of every training."""
    seen = []

    def spy(config, work_dir, **more):
        seen.append((work_dir.parent.name, more["resume"]))
        return train(config, work_dir, **more)

    monkeypatch.setattr(training_work, "train", spy)
    return seen


def rows(folder):
    return {row["recipe"]: row for row in json.loads((folder / "table.json").read_text())["rows"]}


@pytest.mark.slow
def test_a_killed_call_is_continued_and_trains_nothing_twice(scenes, trainings, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(training_work, "CHECKPOINT_SECONDS", 2)  # every second iteration

    def killing(self, runner, *_, **__):
        if "cepgdat" in runner.work_dir and runner.iter == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training_work.DeadlineHook, "after_train_iter", killing)
        assert call(scenes) == 130
    assert "interrupted" in capsys.readouterr().err
    assert {name: row["state"] for name, row in rows(scenes).items()} == {"standard": "done", "cepgdat": "not begun"}
    assert call(scenes) == 0
    assert trainings == [("standard", False), ("cepgdat", False), ("cepgdat", True)]
    assert call(scenes) == 0 and len(trainings) == 3

    found = rows(scenes)
    ranked = sorted(found.values(), key=lambda row: row["rank"])
    assert [row["rank"] for row in ranked] == [1, 2] and all(row["ships"] for row in ranked)
    assert ranked[0]["worst"]["mIoU_greedy"] >= ranked[1]["worst"]["mIoU_greedy"]
    row = found["cepgdat"]
    assert (row["iterations"], row["passes"], row["state"]) == (4, 40, "done")
    assert row["hours"] == pytest.approx(4 * row["seconds_per_iteration"] / 3600)
    for name in ("clean", "worst", "interval", "clean_mIoU_float32", "megabytes", "commands"):
        assert row[name]
    text = (scenes / "table.md").read_text()
    assert f"| {row['rank']} | fpn-r18w24 | cepgdat | 4 | 40 |" in text and row["commands"][0] in text

    folder = scenes / "fpn-r18w24" / "cepgdat"
    stored = load_file(folder / "camvid-fpn-r18w24-cepgdat.safetensors")
    assert {value.dtype for value in stored.values() if value.is_floating_point()} == {torch.float16}
    load_segmenter(folder / "config.py", folder / "camvid-fpn-r18w24-cepgdat.safetensors")
    train(folder / "config.py", tmp_path / "again")  # the row's command, without a stop
    again = load_state_dict(tmp_path / "again" / "iter_4.pth", weights="ema")
    assert all(torch.equal(value.half() if value.is_floating_point() else value, stored[name])
               for name, value in again.items())  # fmt: skip


@pytest.mark.slow
def test_a_training_pauses_where_its_time_is_up(scenes, trainings, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(training_session, "OVERRUN", 0.0)
        assert call(scenes, recipes=["cepgdat"]) == 0
    row = rows(scenes)["cepgdat"]
    assert row["state"] == "paused after 1 of 4 iterations" and "rank" not in row
    assert "paused after 1 of 4" in (scenes / "table.md").read_text()
    with monkeypatch.context() as patched:
        patched.setattr(training_session, "RESERVE", -10.0)  # time is up
        assert call(scenes, recipes=["cepgdat"]) == 0
    row = rows(scenes)["cepgdat"]
    assert row["state"] == "trained, not evaluated" and row["iterations"] == 4 and "worst" not in row
    assert call(scenes, recipes=["cepgdat"]) == 0
    assert rows(scenes)["cepgdat"]["rank"] == 1 and trainings == [("cepgdat", False), ("cepgdat", True)]


@pytest.mark.slow
def test_a_recipe_that_diverges_is_a_row_and_the_others_go_on(scenes, trainings, monkeypatch, capsys):
    def failing(config, work_dir, **more):
        if work_dir.parent.name == "standard":
            raise RunFailed("training diverged in iteration 3: loss is nan")
        return train(config, work_dir, **more)

    spy = training_work.train
    monkeypatch.setattr(training_work, "train", failing)
    assert call(scenes) == 1
    assert call(scenes, recipes=["cepgdat"]) == 0  # whose table has both
    assert rows(scenes)["standard"]["state"] == "failed: training diverged in iteration 3: loss is nan"
    assert rows(scenes)["cepgdat"]["rank"] == 1
    capsys.readouterr()
    assert call(scenes, "--dry-run") == 1
    again = "fpn-r18w24/standard failed and is tried again: training diverged in iteration 3: loss is nan\n"
    assert again in capsys.readouterr().out
    monkeypatch.setattr(training_work, "train", spy)
    assert call(scenes) == 0 and trainings == [("standard", False)]
    assert again in capsys.readouterr().out and rows(scenes)["standard"]["state"] == "done"
    assert call(scenes) == 0 and "tried again" not in capsys.readouterr().out and len(trainings) == 1


def test_what_failed_in_an_earlier_call_is_tried_once_in_this_one(tmp_path):
    session = object.__new__(training_session.Session)
    session.how = SimpleNamespace(key="standard")
    known = ("net", "at", tmp_path / "net" / "at")
    Job(*known, None, {"settings": {}}).keep(failed="diverged")
    assert not Job.opened(*known, None, {}).retry  # another recipe of the table, not asked for
    job = Job.opened(*known, SimpleNamespace(), {})
    assert job.retry and job.failure("standard") == "diverged" and session.is_open(job)
    with training_work.failures(job):  # measured, which is no try
        pass
    assert job.failure("standard") == "diverged" and session.is_open(job)
    with training_work.failures(job):
        raise RunFailed("diverged again")
    assert job.failure("standard") == "diverged again" and not session.is_open(job)
    job = Job.opened(*known, SimpleNamespace(), {})
    job.begin()
    job.keep(iterations=4)
    assert Job.opened(*known, SimpleNamespace(), {}).failure("standard") is None


def test_a_failure_under_other_settings_of_the_evaluation_hides_no_result(tmp_path):
    session = object.__new__(training_session.Session)
    session.how = SimpleNamespace(key="standard")
    known = ("net", "at", tmp_path / "net" / "at")
    Job(*known, None, {"settings": {}}).keep(failed="out of memory", evaluations={"standard": {}})
    job = Job.opened(*known, SimpleNamespace(), {})
    assert not session.is_open(job) and job.failure("standard") is None
    assert job.failure("more images") == "out of memory"


def test_a_dry_run_plans_keeps_costs_and_trains_nothing(tmp_path, scenes, monkeypatch, capsys):
    monkeypatch.undo()
    monkeypatch.setenv("SEGROBUST_CAMVID", str(tmp_path / "scenes"))
    monkeypatch.setattr(training_session, "MEASURING", 0.0)  # no time for more than the least
    seen, cost_of = [], training_work.cost_of
    monkeypatch.setattr(training_work, "cost_of", lambda times, *more: seen.append(len(times)) or cost_of(times, *more))
    assert call(scenes, "--dry-run", recipes=["standard"]) == 0
    assert seen == [3]
    assert "fpn-r18w24/standard: " in capsys.readouterr().out and not (scenes / "fpn-r18w24").exists()
    costs = json.loads((scenes / "state" / "costs.json").read_text())["costs"]
    assert costs["fpn-r18w24"] > 0 and costs["fpn-r18w24/standard"]["iteration"] > 0
    monkeypatch.setattr(training_session, "measured", None)  # would fail if it were called
    monkeypatch.setattr(training_work.Evaluation, "seconds", None)
    assert call(scenes, "--dry-run", recipes=["standard"]) == 0
    monkeypatch.setattr(training_session, "RESERVE", 1.0)
    assert call(scenes, "--dry-run", recipes=["standard"]) == 2
    assert "no time for an iteration of fpn-r18w24/standard" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--minutes", "0"], "expected minutes above 0"),
        (["--minutes", "5", "--recipes", "cepgda"], "did you mean cepgdat"),
        (["--minutes", "5", "--architectures", "upernet"], "unknown architecture 'upernet'"),
        (["--minutes", "5", "--size", "8", "8"], "--size"),
        (["--minutes", "5", "--eps", "8"], "8/255"),
        (["--minutes", "5", "--precision", "bf16"], "needs a GPU"),
        ([], "--minutes"),
    ],
)
def test_bad_input_is_told_in_one_line(words, told, capsys, in_tmp):
    assert training_table.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


@pytest.mark.parametrize("asked", ["standard", "cepgdat"])
def test_a_folder_of_other_settings_is_refused_before_anything_is_done(asked, in_tmp, capsys, monkeypatch):
    folder = in_tmp / "table" / "fpn-r18w24" / "standard"
    settings = dict(size=[48, 64], start="shipped", batch_size=8, precision="float32", seed=0)
    Job("fpn-r18w24", "standard", folder, None, {"settings": settings}).keep()
    monkeypatch.setattr(training_session.Session, "measure", None)  # would fail if it were called
    assert call(in_tmp / "table", recipes=[asked]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "fpn-r18w24/standard holds a training with batch_size 8, and now it is 2" in line
