"""Every kind of wrong input ends in status 2 and exactly one line that says what came and what to do."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segrobust.cli import main
from tests.commands.conftest import CONFIG, World, tiny_weights


class Case:
    """One wrong input: a scene that makes the arguments, and words that the one line must hold."""

    def __init__(self, name: str, arguments: Callable[[World, Path], list], *words: str) -> None:
        self.name, self.arguments, self.words = name, arguments, words


@pytest.fixture
def refused(capfd: pytest.CaptureFixture) -> Callable[[list], str]:
    """Run the command line and return its one line of error."""

    def run(arguments: list) -> str:
        capfd.readouterr()
        status = main([str(argument) for argument in arguments])
        return only_line(status, capfd.readouterr().err)

    return run


def only_line(status: int, stderr: str) -> str:
    assert status == 2, stderr
    lines = [line for line in stderr.splitlines() if not line.endswith("0/4 images")]  # that it has begun
    assert len(lines) == 1, stderr
    assert lines[0].startswith("segrobust: error: ")
    return lines[0].removeprefix("segrobust: error: ")


def config_of(target: Path, text: str, name: str = "config.py") -> Path:
    path = target / name
    path.write_text(text)
    return path


def bytes_of(target: Path, content: bytes, name: str = "weights.pth") -> Path:
    path = target / name
    path.write_bytes(content)
    return path


def with_data(world: World, tmp: Path, label: np.ndarray | None) -> list:
    data = world.broken_data(tmp / "data", "1.png", label)
    return world.evaluate(tmp / "run", "--cfg-options", f"test_dataloader.dataset.data_root={data}")


def with_weights(world: World, tmp: Path, content: bytes, name: str = "weights.pth") -> list:
    return world.evaluate(tmp / "run", weights=bytes_of(tmp, content, name))


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


COMMAND_LINE = [
    Case("no command", lambda w, t: [], "command"),
    Case("unknown command", lambda w, t: ["evalaute"], "'evalaute'", "did you mean evaluate?"),
    Case("unknown option", lambda w, t: w.evaluate(t, "--num-image", 3), "'--num-image'", "--num-images"),
    Case("one name too many", lambda w, t: [*w.evaluate(t)[:3], "more.pth"], "unexpected argument 'more.pth'"),
    Case("eps without /255", lambda w, t: w.evaluate(t, "--eps", "8"), "--eps", '"8/255"'),
    Case("negative eps", lambda w, t: w.evaluate(t, "--eps", "-1/255"), "--eps", "'-1/255'"),
    Case("eps in words", lambda w, t: w.evaluate(t, "--eps", "1/255", "abc"), "--eps", "'abc'"),
    Case("eps nan", lambda w, t: w.evaluate(t, "--eps", "nan"), "--eps", "'nan'"),
    Case("steps 0", lambda w, t: w.evaluate(t, "--steps", 0), "--steps", ">= 1", "'0'"),
    Case("steps 2.5", lambda w, t: w.evaluate(t, "--steps", 2.5), "--steps", "'2.5'"),
    Case("num-images 0", lambda w, t: w.evaluate(t, "--num-images", 0), "--num-images", ">= 1"),
    Case("batch-size 0", lambda w, t: w.evaluate(t, "--batch-size", 0), "--batch-size", ">= 1"),
    Case("negative seed", lambda w, t: w.evaluate(t, "--seed", -1), "--seed", ">= 0"),
    Case("negative eps after another", lambda w, t: w.evaluate(t, "--eps", "1/255", "-1/255"), "--eps", "'-1/255'"),
    Case("L2 eps without a norm", lambda w, t: w.evaluate(t, "--eps", "1.5"), "--eps", "a Linf radius", "'1.5'"),
    Case("L2 eps in words", lambda w, t: w.evaluate(t, "--norm", "L2", "--eps", "big"), "--eps", "'big'"),
    Case("brackets of an attack", lambda w, t: w.evaluate(t, "--attack", "cepgd(norm=L2"), "--attack", "brackets"),
    Case("unknown norm", lambda w, t: w.evaluate(t, "--norm", "l3"), "--norm", "'l3'", "did you mean L2 or L1?"),
    Case("unknown corruption", lambda w, t: w.evaluate(t, "--corruptions", "fogg"), "'fogg'", "did you mean fog"),
    Case("severity 6", lambda w, t: w.evaluate(t, "--severity", 1, 6), "--severity", "'6'", "1, 2, 3, 4 or 5"),
    Case("unknown universal", lambda w, t: w.evaluate(t, "--universal", "pach(k=3)"), "'pach'", "did you mean patch?"),
    Case("unknown amp", lambda w, t: w.evaluate(t, "--amp", "fp8"), "--amp", "'fp8'", "did you mean fp16?"),
    Case("old checks", lambda w, t: w.evaluate(t, "--checks", "off"), "'--checks'", "did you mean --no-checks"),
    Case("unknown action", lambda w, t: ["checkpoint", "inspekt", w.weights], "'inspekt'", "did you mean inspect?"),
    Case("missing surrogate", lambda w, t: w.evaluate(t, "--surrogate", t / "o.py"), "o.py", "segrobust models"),
    Case("weights of no surrogate", lambda w, t: w.evaluate(t, "--surrogate-checkpoint", w.weights), "--surrogate "),
    Case("import of nothing", lambda w, t: w.evaluate(t, "--import", "mine.py"), "--import mine.py", "no such file"),
    Case("import of no module", lambda w, t: w.evaluate(t, "--import", "no_mod"), "--import no_mod", "ModuleNotFound"),
    Case("work-dir is a file", lambda w, t: w.evaluate(w.config), "--work-dir", "tiny.py"),
    Case("work-dir below a file", lambda w, t: w.evaluate(w.config / "run"), "--work-dir", "tiny.py"),
    Case("cfg-option without =", lambda w, t: w.evaluate(t, "--cfg-options", "model"), "--cfg-options", "key=value"),
    Case("unknown launcher", lambda w, t: ["train", w.config, "--launcher", "pytroch"], "'pytroch'", "pytorch"),
    Case("no checkpoint", lambda w, t: ["evaluate", w.config], "CHECKPOINT"),
    Case("missing checkpoint", lambda w, t: w.evaluate(t, weights=t / "none.pth"), "none.pth"),
    Case("checkpoint is a folder", lambda w, t: w.evaluate(t, weights=t), "folder"),
    Case("missing config", lambda w, t: w.evaluate(t, config=t / "none.py"), "none.py", "segrobust models"),
    Case("config is a folder", lambda w, t: w.evaluate(t, config=t), "directory"),
    Case("config is a picture", lambda w, t: w.evaluate(t, config=bytes_of(t, b"", "a.png")), ".py", "a.png"),
    Case("report on nothing", lambda w, t: ["report", t / "none"], "none", "run.json"),
    Case("report on a folder without a run", lambda w, t: ["report", t], "run.json", "segrobust evaluate"),
    Case("report over a folder", lambda w, t: ["report", t, "--out", t], "--out", "folder"),
    Case("inspect nothing", lambda w, t: ["checkpoint", "inspect", t / "none.pth"], "none.pth"),
    Case("convert onto itself", lambda w, t: ["checkpoint", "convert", w.weights], "exists already"),
    Case("convert to .pth", lambda w, t: ["checkpoint", "convert", w.weights, t / "x.pth"], ".safetensors"),
]
ATTACKS = [
    Case("unknown attack", lambda w, t: w.evaluate(t / "run", "--attack", "tsalis-pgd"), "'tsalis-pgd'", "tsallis-pgd"),
    Case(
        "a norm that an attack lacks",
        lambda w, t: w.evaluate(t / "run", "--attack", "cepgd", "square", "--norm", "L2"),
        "Square has no L2 form",
        "set norm to Linf",
    ),
    Case("unknown preset", lambda w, t: w.evaluate(t / "run", "--attack", "cepgd:publised"), "'publised'", "published"),
]
NO_TEST_DATA = CONFIG.replace("test_dataloader", "train_dataloader").replace("DATA_ROOT", "'.'")
CONFIGS = [
    Case(
        "syntax error",
        lambda w, t: w.evaluate(t / "run", config=config_of(t, "default_scope = 'mmseg'\nmodel = dict(\n")),
        "config.py",
        "line 2",
    ),
    Case("an exception", lambda w, t: w.evaluate(t / "run", config=config_of(t, "model = 1 / 0")), "ZeroDivisionError"),
    Case("JSON that is none", lambda w, t: w.evaluate(t / "run", config=config_of(t, "{", "c.json")), "c.json"),
    Case("JSON with a list", lambda w, t: w.evaluate(t / "run", config=config_of(t, "[1]", "c.json")), "c.json"),
    Case("not a config", lambda w, t: w.evaluate(t, config=config_of(t, "answer = 42\n")), "test_dataloader"),
    Case(
        "no model",
        lambda w, t: w.evaluate(t, config=config_of(t, w.config.read_text().replace("model = ", "other = ", 1))),
        "config.py",
        "model=dict(type=...)",
    ),
    Case("no test data", lambda w, t: w.evaluate(t / "run", config=config_of(t, NO_TEST_DATA)), "test_dataloader"),
    Case("nothing to train on", lambda w, t: ["train", w.config, "--work-dir", t / "run"], "tiny", "train_dataloader"),
    Case("unknown model type", lambda w, t: w.evaluate(t, "--cfg-options", "model.type=Nothing"), "Nothing"),
    Case(
        "cfg-option with a space",
        lambda w, t: w.evaluate(t, "--cfg-options", "data_root=/my data"),
        "--cfg-options",
        "no space",
    ),
    Case(
        "cfg-option with an open bracket",
        lambda w, t: w.evaluate(t, "--cfg-options", "model.a=[(1,2]"),
        "'model.a=[",
        "brackets",
    ),
    Case(
        "unknown cfg-option",
        lambda w, t: w.evaluate(t / "run", "--cfg-options", "modle.test_cfg.mode=slide"),
        "modle",
    ),
    Case(
        "cfg-option below a number",
        lambda w, t: w.evaluate(t / "run", "--cfg-options", "model.decode_head.num_classes.deep=1"),
        "num_classes",
    ),
    Case(
        "missing data root",
        lambda w, t: w.evaluate(t / "run", "--cfg-options", f"test_dataloader.dataset.data_root={t / 'none'}"),
        "none",
        "data_root",
    ),
]
HTML = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body></body></html>"
OTHER = {"conv.weight": torch.zeros(3, 3, 1, 1), "conv.bias": torch.zeros(3)}
CHECKPOINTS = [
    Case("HTML", lambda w, t: with_weights(w, t, HTML), "weights.pth", "HTML"),
    Case("an empty file", lambda w, t: with_weights(w, t, b""), "weights.pth", "empty"),
    Case("text", lambda w, t: with_weights(w, t, b"version https://git-lfs"), "weights.pth"),
    Case(
        "truncated .pth",
        lambda w, t: with_weights(w, t, saved(t / "whole", tiny_weights(w.config)).read_bytes()[:20000]),
        "weights.pth",
    ),
    Case(
        "truncated .safetensors",
        lambda w, t: with_weights(w, t, w.weights.read_bytes()[:20000], "weights.safetensors"),
        "weights.safetensors",
    ),
    Case("no tensors", lambda w, t: w.evaluate(t / "run", weights=saved(t / "w.pth", {"epoch": 3})), "w.pth"),
    Case(
        "another architecture",
        lambda w, t: w.evaluate(t / "run", weights=saved(t / "w.pth", {"state_dict": OTHER})),
        "w.pth",
    ),
    Case(
        "wrong number of classes",
        lambda w, t: w.evaluate(t / "run", weights=saved(t / "w.pth", tiny_weights(w.config, 5))),
        "wrong number of classes: 5",
        "3 in the model",
    ),
]


WEIGHTS = [
    Case("averaged weights of a file without", lambda w, t: w.evaluate(t / "run", "--weights", "ema"),
         "tiny.safetensors", "no averaged (EMA) weights", "--weights ema"),
    Case("an unknown kind of weights", lambda w, t: w.evaluate(t, "--weights", "avg"), "--weights", "'avg'",
         "ema, raw"),
    Case("converting weights that are not there", lambda w, t: ["checkpoint", "convert", w.weights,
         t / "o.safetensors", "--weights", "ema"], "no averaged (EMA) weights"),
    Case("a prefix that is no wrapper's", lambda w, t: w.evaluate(t / "run", weights=saved(t / "w.pth", {
         f"student.{key}": value for key, value in tiny_weights(w.config).items()})), "w.pth", "'student.'"),
    Case("an mmseg reference with a typing error", lambda w, t: w.evaluate(t, config="mmseg::fcn/fcn_r50-d8_4xb2-40k"),
         "mmseg::fcn/fcn_r50-d8_4xb2-40k", "did you mean mmseg::fcn/fcn_r50-d8_4xb"),
]  # fmt: skip


def saved_mask(tmp: Path, values: np.ndarray) -> Path:
    Image.fromarray(values).save(tmp / "where.png")
    return tmp / "where.png"


def with_mask(world: World, tmp: Path, ids: np.ndarray) -> list:
    Image.fromarray(ids).save(tmp / "mask.png")
    return world.evaluate(tmp / "run", "--target", f"mask:{tmp / 'mask.png'}")


FINE = np.zeros((32, 48), np.uint8)
DATA = [
    Case("label out of range", lambda w, t: with_data(w, t, FINE + 7), "1.png", " 7 "),
    Case("3-channel label", lambda w, t: with_data(w, t, np.stack([FINE] * 3, -1)), "1.png", "3 channels"),
    Case("label of another shape", lambda w, t: with_data(w, t, FINE[:16]), "1.png", "16x48", "32x48"),
    Case("missing label", lambda w, t: with_data(w, t, None), "1.png", "no label"),
    Case(
        "more classes in the data than in the model",
        lambda w, t: w.evaluate(t / "run", "--cfg-options", "test_dataloader.dataset.metainfo.classes=a,b,c,d,e"),
        "3 classes",
        "the data set 5",
    ),
]


TARGETS = [
    Case("unknown target", lambda w, t: w.evaluate(t, "--target", "majorty"), "--target", "'majorty'", "majority"),
    Case("no class", lambda w, t: w.evaluate(t, "--target", "class:"), "--target", "class:road"),
    Case("unknown class", lambda w, t: w.evaluate(t / "run", "--target", "class:gray"), "'gray'", "did you mean grey?"),
    Case("class out of range", lambda w, t: w.evaluate(t / "run", "--target", "class:3"), "class 3", "0 to 2"),
    Case("missing mask", lambda w, t: w.evaluate(t, "--target", f"mask:{t / 'm.png'}"), "--target", "m.png"),
    Case("mask of another size", lambda w, t: with_mask(w, t, FINE[:16]), "mask.png", "16x48", "32x48"),
    Case("mask out of range", lambda w, t: with_mask(w, t, FINE + 9), "mask.png", "id 9"),
    Case("no training labels", lambda w, t: w.evaluate(t / "run", "--target", "majority"), "train_dataloader"),
    Case("a control has no target", lambda w, t: w.evaluate(t, "--attack", "uniform-noise", "--target", "background"),
         "UniformNoise has no targeted form"),
    Case("a map of nothing", lambda w, t: ["targets", w.config, "--out", t / "m.png"], "train_dataloader"),
    Case("where without a target", lambda w, t: w.evaluate(t, "--where", "class:grey"), "where", "expected a target"),
    Case("where of an unknown kind", lambda w, t: w.evaluate(t, "--target", "class:0", "--where", "label:grey"),
         "--where", "'label:grey'"),
    Case("where of an unknown class", lambda w, t: w.evaluate(t / "run", "--target", "class:0", "--where",
         "class:1,gray"), "'gray'", "did you mean grey?"),
    Case("where with a mask of another size", lambda w, t: w.evaluate(t / "run", "--target", "class:0", "--where",
         f"mask:{saved_mask(t, FINE[:16] + 1)}"), "where.png", "16x48", "32x48"),
    Case("a rest of nothing", lambda w, t: w.evaluate(t, "--target", "class:0", "--rest", "kept"), "rest", "where"),
    Case("no pair of classes", lambda w, t: w.evaluate(t, "--target", "map:grey"), "--target", "map:road=sidewalk"),
    Case("targets to a JPEG", lambda w, t: ["targets", w.config, "--out", t / "m.jpg"], ".png", "m.jpg"),
]  # fmt: skip


@pytest.mark.parametrize(
    "case",
    COMMAND_LINE + ATTACKS + CONFIGS + CHECKPOINTS + WEIGHTS + DATA + TARGETS,
    ids=lambda case: case.name.replace(" ", "-"),
)
def test_one_clear_line(case, world, tmp_path, refused):
    line = refused(case.arguments(world, tmp_path))
    for word in case.words:
        assert word in line


UNET = """
model["backbone"] = dict(
    type="UNet", base_channels=4, num_stages=6, strides=(1,) * 6, enc_num_convs=(1,) * 6, dec_num_convs=(1,) * 5,
    downsamples=(True,) * 5, enc_dilations=(1,) * 6, dec_dilations=(1,) * 5, norm_cfg=dict(type="BN"),
)
model["decode_head"].update(in_channels=4, in_index=5)
"""


def test_a_size_that_the_network_refuses_is_told_with_the_way_out(world, tmp_path, refused):
    """mmseg's UNet wants multiples of 32 here, and pads by itself in training alone."""
    config = config_of(tmp_path, world.config.read_text().replace("size=(32, 48)", "size_divisor=32") + UNET)
    weights = saved(tmp_path / "w.pth", tiny_weights(config))
    line = refused(world.evaluate(tmp_path / "run", config=config, weights=weights))
    assert line.startswith("config fails on images of 32x48: AssertionError: ")
    assert "takes 32x64: set size_divisor=32 in data_preprocessor, in its test_cfg" in line
    fix = ("--cfg-options", "model.data_preprocessor.test_cfg.size_divisor=32", "--no-pictures")
    assert main(world.evaluate(tmp_path / "padded", *fix, config=config, weights=weights)) == 0


class _Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("form", ["torch.save", "bare pickle"])
@pytest.mark.parametrize("command", ["evaluate", "inspect", "convert"])
def test_a_malicious_pickle_does_not_run(form, command, world, tmp_path, refused):
    content = {"state_dict": _Payload(tmp_path / "it ran"), "meta": {}}
    weights = tmp_path / "w.pth"
    if form == "torch.save":
        torch.save(content, weights)
    else:
        weights.write_bytes(pickle.dumps(content))
    arguments = world.evaluate(tmp_path / "run", weights=weights)
    line = refused(arguments if command == "evaluate" else ["checkpoint", command, weights])
    assert "w.pth" in line and "could run any program" in line
    assert not (tmp_path / "it ran").exists()


def test_run_folder_of_another_identity(world, finished, refused):
    rows = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    line = refused(world.evaluate(finished, "--seed", 5))
    assert "seed is 0 there and 5 here" in line and "--fresh" in line
    assert rows == {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_report_on_a_damaged_run(content, tmp_path, refused):
    (tmp_path / "run.json").write_text(content)
    (tmp_path / "summary.json").write_text(json.dumps([]))
    assert "run.json" in refused(["report", tmp_path])


def test_report_on_a_run_that_has_not_finished(finished, tmp_path, refused):
    (tmp_path / "run.json").write_bytes((finished / "run.json").read_bytes())
    assert "summary.json" in refused(["report", tmp_path])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_work_dir(world, tmp_path, refused):
    tmp_path.chmod(0o500)
    assert "cannot write" in refused(world.evaluate(tmp_path / "run"))


def test_stderr_of_a_true_process_is_one_line(world, tmp_path):
    arguments = with_weights(world, tmp_path, HTML)
    command = [sys.executable, "-m", "segrobust", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "weights.pth" in only_line(done.returncode, done.stderr)
    assert done.stdout == ""
