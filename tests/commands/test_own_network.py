"""``segrobust evaluate my_net.py:build weights.pth --data FOLDER``: the same run as with a config, without one."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from segrobust.cli import main
from segrobust.commands.inputs import model_name
from segrobust.commands.network import Network
from segrobust.core.errors import UserError
from segrobust.runs.folder import RunFolder
from tests.runs.toy_run import lines

FILE = """
import torch
from torch import nn

def build(outputs=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, outputs, 1))

def wide(): return build(5)
"""
CONFIG = """
model = dict(type="PythonSegmenter", factory="a_tiny_net.py:wide", num_classes=3, keep_classes=[4, 0, 1],
             mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), channel_order="bgr", class_names=("dark", "grey", "bright"))
pipeline = [dict(type="LoadPair"), dict(type="PackSegInputs")]
test_dataloader = dict(dataset=dict(type="ImageLabelFolder", data_root=DATA, split="test", pipeline=pipeline))
"""
QUICK = ("--attack", "cepgd", "--eps", "8/255", "--steps", "2", "--no-checks", "--no-pictures")
TOLD = ("--num-classes", "3", "--keep-classes", "4", "0-1", "--mean", "0.4", "0.5", "0.6", "--std", "0.2", "0.3", "0.4",
        "--channel-order", "bgr")  # fmt: skip


@pytest.fixture
def net(in_tmp, monkeypatch):
    """The user's file and weights for both of its networks, in the current folder."""
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part])
    Path("a_tiny_net.py").write_text(FILE)
    names: dict = {}
    exec(FILE, names)  # noqa: S102
    torch.save({"epoch": 3, "net": {f"module.{k}": v for k, v in names["build"]().state_dict().items()}}, "narrow.pth")
    torch.save(names["wide"]().state_dict(), "wide.pth")
    yield in_tmp
    sys.modules.pop("a_tiny_net", None)


def started(data: Path, *words: object, function: str = "wide") -> int:
    weights = "wide.pth" if function == "wide" else "narrow.pth"
    return main([str(word) for word in ("evaluate", f"a_tiny_net.py:{function}", weights, "--data", data, *words)])


def test_the_short_form_is_the_run_of_the_config_that_says_the_same(world, net, capsys):
    assert started(world.data, *QUICK, *TOLD, "--work-dir", "short") == 0
    assert "a_tiny_net-wide: clean" in capsys.readouterr().out
    Path("long.py").write_text(CONFIG.replace("DATA", repr(str(world.data))))
    assert main(["evaluate", "long.py", "wide.pth", *QUICK, "--work-dir", "long"]) == 0
    assert lines(net / "short") == lines(net / "long") and len(lines(net / "short")) == 4 * 2
    short, long = (json.loads((net / run / "run.json").read_text())["identity"] for run in ("short", "long"))
    assert short["users_code"] == long["users_code"] and list(short["users_code"]) == ["a_tiny_net"]
    assert short["config"] == "a_tiny_net-wide" and short["weights_sha256"] == long["weights_sha256"]
    assert started(world.data, *QUICK, *TOLD, "--work-dir", "short", "--eps", "4/255") == 0  # it grows
    assert len(lines(net / "short")) == 4 * 3


def test_another_option_or_file_does_not_go_on_with_the_rows(world, net, capsys):
    assert started(world.data, *QUICK, *TOLD, "--work-dir", "run") == 0
    assert started(world.data, *QUICK, *TOLD, "--work-dir", "run", "--size-divisor", "32") == 2
    assert "config_sha256" in capsys.readouterr().err
    Path("elsewhere").mkdir()
    shutil.move("a_tiny_net.py", "elsewhere/a_tiny_net.py")
    sys.modules.pop("a_tiny_net")
    words = ("evaluate", "elsewhere/a_tiny_net.py:wide", "wide.pth", "--data", str(world.data), *QUICK, *TOLD)
    assert main([*words, "--work-dir", "run"]) == 0  # where the file lies makes no difference


def test_what_the_folder_tells_need_not_be_said(world, net, capsys):
    """Three classes in classes.json, weights in an entry with a prefix; the default work dir is named by the file."""
    assert started(world.data, *QUICK, function="build") == 0
    folder = RunFolder(net / "work_dirs" / "a_tiny_net" / "evaluation")
    assert len(folder.rows()) == 4 * 2


def test_names_come_from_a_file_or_the_words(world, net, tmp_path_factory):
    data = tmp_path_factory.mktemp("plain") / "data"
    shutil.copytree(world.data, data)
    (data / "classes.json").unlink()
    Path("names.txt").write_text("dark grey\nmiddle\n\nbright\n")
    for number, words in enumerate((["names.txt"], ["dark grey", "middle", "bright"])):
        told = ("--class-names", *words, "--target", "class:middle", "--work-dir", number)
        assert started(data, *QUICK, *told, function="build") == 0
    assert lines(net / "0") == lines(net / "1")
    assert (
        started(data, *QUICK, "--num-classes", "3", "--target", "class:class_1", "--work-dir", "2", function="build")
        == 0
    )
    assert lines(net / "0") == lines(net / "2")


def test_an_id_of_void_is_said(world, net, tmp_path_factory, capsys):
    data = tmp_path_factory.mktemp("void") / "data"
    shutil.copytree(world.data, data)
    from PIL import Image

    for path in (data / "labels" / "test").iterdir():
        Image.open(path).point([3 if value == 255 else value for value in range(256)]).save(path)
    assert started(data, *QUICK, "--work-dir", "no", function="build") == 2
    assert "3" in capsys.readouterr().err
    assert started(data, *QUICK, "--ignore-index", "3", "--work-dir", "run", function="build") == 0
    assert started(world.data, *QUICK, "--work-dir", "other", function="build") == 0
    ours, others = ({tuple(row.counts["fn"]) for row in RunFolder(net / name).rows()} for name in ("run", "other"))
    assert ours == others


REFUSED = {
    "no data": (["a_tiny_net.py:build", "narrow.pth"], "a_tiny_net.py:build needs --data FOLDER"),
    "no weights": (["a_tiny_net.py:build", "--data", "DATA"], "a_tiny_net.py:build needs a CHECKPOINT after it"),
    "no number": (["a_tiny_net.py:build", "narrow.pth", "--data", "PLAIN"], "needs --num-classes K (or --class-names"),
    "another number": (
        ["a_tiny_net.py:build", "narrow.pth", "--data", "DATA", "--num-classes", "4"],
        "--num-classes 4, but there are 3 class names",
    ),
    "no folder": (["a_tiny_net.py:build", "narrow.pth", "--data", "missing"], "no such folder of data: 'missing'"),
    "no such split": (
        ["a_tiny_net.py:build", "narrow.pth", "--data", "DATA", "--split", "tset"],
        "unknown split 'tset'; did you mean test",
    ),
    "no such function": (["a_tiny_net.py:bulid", "narrow.pth", "--data", "DATA"], "did you mean build"),
    "no such file": (["a_tiny_nte.py:build", "narrow.pth", "--data", "DATA"], "a_tiny_nte.py: no such file"),
    "other weights": (["a_tiny_net.py:build", "wide.pth", "--data", "DATA"], "wrong number of classes: 5 in the"),
    "beside a config": (["CONFIG", "WEIGHTS", "--num-classes", "3"], "--num-classes goes with FILE.py:FUNCTION; the"),
    "data beside a config": (["CONFIG", "WEIGHTS", "--data", "DATA"], "says it in test_dataloader"),
    "a word as mean": (
        ["a_tiny_net.py:build", "narrow.pth", "--mean", "half"],
        "--mean: expected a number, got 'half'",
    ),
    "an order": (["a_tiny_net.py:build", "narrow.pth", "--channel-order", "gbr"], "unknown value 'gbr'"),
    "a channel": (["a_tiny_net.py:build", "narrow.pth", "--keep-classes", "a-b"], "expected a whole number >= 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_missing_or_wrong_is_told_in_one_line(case, world, net, capsys):
    plain = net / "plain"
    shutil.copytree(world.data, plain)
    (plain / "classes.json").unlink()
    words, told = REFUSED[case]
    named = {"DATA": world.data, "PLAIN": plain, "CONFIG": world.config, "WEIGHTS": world.weights}
    assert main(["evaluate", *(str(named.get(word, word)) for word in words), "--no-checks", "--work-dir", "run"]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert not (net / "run" / "run.json").exists()


def test_a_function_is_no_config_elsewhere(net, capsys):
    for command in (["train", "a_tiny_net.py:build"], ["targets", "a_tiny_net.py:build"]):
        assert main(command) == 2
        assert "a function that makes a network goes with `segrobust evaluate`" in capsys.readouterr().err


def test_names_of_models_in_tables():
    names = {"my_net.py:build": "my_net", "a/my_net.py:large": "my_net-large", "package.nets:small": "package-small"}
    assert {text: model_name(text) for text in names} == names


def test_options_of_a_network_are_those_of_wrap():
    network = Network.of(num_classes=11, mean=(0.1, 0.2, 0.3), keep_classes=range(11))
    assert network.given() == {"num_classes": 11, "mean": (0.1, 0.2, 0.3), "keep_classes": tuple(range(11))}
    assert Network.of(keep_classes=["2-4", 0, "7-7"]).given() == {"keep_classes": (2, 3, 4, 0, 7)}
    assert Network.of(class_names=["a", "b"]).num_classes == 2 and Network().given() == {}
    for wrong in (dict(ignore_index=True), dict(ignore_index="x"), dict(num_classes=1), dict(mean="a")):
        with pytest.raises(UserError, match=next(iter(wrong))):
            Network.of(**wrong)
    assert Network.of(ignore_index="-1").ignore_index == -1
