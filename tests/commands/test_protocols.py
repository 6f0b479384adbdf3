"""``--protocol`` and ``--data-root`` on the command line: what is measured, what the run says, what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from segrobust.cli import main
from segrobust.commands.inputs import Inputs
from segrobust.models.load import load_segmenter
from tests.commands.test_own_network import CONFIG as OWN_CONFIG
from tests.commands.test_published import write_archive

NAME = "voc473-void-as-background-21"
FILE = "from torch import nn\n\ndef build(): return nn.Conv2d(3, 21, 1)\n"
QUICK = ("--attack", "cepgd", "--eps", "8/255", "--steps", "1", "--no-checks", "--no-pictures")


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """VOC 2012 in its official layout, two images of 50x40: void on half of it, background on a quarter."""
    return write_archive(tmp_path_factory.mktemp("archive"), "VOC 2012", np.array([255, 0, 255, 20]))


@pytest.fixture
def net(in_tmp, monkeypatch):
    """A network of one layer that says background everywhere, by a function, and by a config whose data are nowhere."""
    Path("one_layer.py").write_text(FILE)
    config = OWN_CONFIG.replace("a_tiny_net.py:wide", "one_layer.py:build").replace("keep_classes=[4, 0, 1],", "")
    config = config.replace("num_classes=3", "num_classes=21").replace('class_names=("dark", "grey", "bright")', "")
    Path("one_layer_config.py").write_text(config.replace("DATA", "'nowhere'"))
    bias = torch.zeros(21)
    bias[0] = 9.0
    torch.save({"weight": torch.zeros(21, 3, 1, 1), "bias": bias}, "net.pth")
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part])
    yield in_tmp
    sys.modules.pop("one_layer", None)


def started(*words: object) -> int:
    return main([str(word) for word in ("evaluate", *words)])


def clean(folder: str) -> dict:
    return next(one for one in json.loads(Path(folder, "summary.json").read_text()) if one["study"] == "clean")


def test_the_protocol_decides_what_void_counts_for(archive, net, capsys):
    for name, run in ((NAME, "counted"), ("voc473-ignore255", "ignored")):
        words = ("one_layer_config.py", "net.pth", "--protocol", name, "--data-root", archive, *QUICK)
        assert started(*words, "--work-dir", run) == 0
    assert clean("counted")["aAcc"] == pytest.approx(75.05, abs=0.01)
    assert clean("ignored")["aAcc"] == pytest.approx(50.0, abs=0.01)
    run, page = json.loads(Path("counted/run.json").read_text()), Path("counted/report.html").read_text()
    assert run["identity"]["protocol"] == NAME
    assert run["about"]["sizes"].startswith("attacked and measured at 473x473")
    assert "network's input" in run["about"]["eps_in"] and "network's input" in run["about"]["measured_at"]
    for shown in ("Protocol", NAME, "eps lives in", "Measured at"):
        assert shown in page
    capsys.readouterr()
    assert started(*words[:3], NAME, *words[4:], "--work-dir", "ignored") == 2  # another protocol is another run
    assert "protocol" in capsys.readouterr().err


def test_a_function_needs_no_more_than_the_protocol(archive, net, capsys):
    words = ("one_layer.py:build", "net.pth", "--protocol", NAME)
    assert started(*words, "--data-root", archive, *QUICK, "--work-dir", "run") == 0
    assert clean("run")["aAcc"] == pytest.approx(75.05, abs=0.01)
    assert started(*words) == 2
    assert "needs --data-root DIR" in capsys.readouterr().err
    assert started(*words, "--data-root", archive, "--data", archive) == 2
    assert "--data: --protocol" in capsys.readouterr().err
    assert started(*words[:2], "--data-root", archive) == 2
    assert "say --data FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--protocol", "ade512-150"), "official ADE20K archive"),
        (("--protocol", "voc473"), "did you mean"),
        (("--protocol", NAME, "--metric-size", "original"), "measures at metric size input"),
        (("--protocol", NAME, "--cfg-options", "test_dataloader.dataset.pipeline=[]"), "leave one of the two out"),
        (("--protocol", NAME, "--data-root", "nowhere"), "no such folder: 'nowhere'"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(options, words, archive, net, capsys):
    root = () if "--data-root" in options else ("--data-root", archive)
    assert started("one_layer_config.py", "net.pth", *options, *root, *QUICK, "--work-dir", "run") == 2
    said = capsys.readouterr().err.strip()
    assert words in said and said.count("\n") == 0


def test_classes_that_do_not_fit_the_protocol_are_refused(net, capsys, tmp_path):
    root = write_archive(tmp_path / "ade", "ADE20K", np.array([0, 1, 150]))
    words = ("one_layer_config.py", "net.pth", "--protocol", "ade512-151", "--data-root", root, *QUICK)
    assert started(*words) == 2
    said = capsys.readouterr().err.strip()
    assert said.endswith("protocol ade512-151 has 151 classes, but the model 21") and said.count("\n") == 0


def test_a_data_root_alone_moves_the_configs_own_data(world, in_tmp, capsys):
    text = world.config.read_text().replace(repr(str(world.data)), "'nowhere'")
    Path("moved.py").write_text(text)
    words = ("moved.py", world.weights, *QUICK, "--work-dir", "run")
    assert started(*words) == 2
    assert "nowhere" in capsys.readouterr().err
    assert started(*words, "--data-root", world.data) == 0
    assert "protocol" not in json.loads(Path("run/run.json").read_text())["identity"]


def test_a_published_model_takes_its_papers_protocol_unless_its_data_are_changed(in_tmp):
    Path("x.pth").touch()

    def chosen(config: str, **more: object) -> str | None:
        return Inputs(config=config, checkpoint="x.pth", **more).protocol

    assert chosen("pirat-upernet-convnext-t-voc") == NAME
    assert chosen("pirat-segmenter-vit-s-ade20k") == "ade512-151"
    assert chosen("ddcat-pspnet50-voc-ddcat") is None  # tiles with averaged answers
    assert chosen("pirat-pspnet50-voc", protocol="voc473-ignore255") == "voc473-ignore255"
    assert chosen("pirat-pspnet50-voc", cfg_options=["test_dataloader.dataset.data_root=x"]) == NAME
    assert chosen("pirat-pspnet50-voc", cfg_options=["test_dataloader.dataset.pipeline=[]"]) is None


def test_the_default_reads_the_data_where_cfg_options_say(archive, in_tmp, monkeypatch):
    name = "pirat-pspnet50-voc"
    torch.save(load_segmenter(name, device="cpu").net.state_dict(), "mine.pth")
    where = f"test_dataloader.dataset.data_root={archive}"
    words = (name, "mine.pth", "--cfg-options", where, "--num-images", "1", *QUICK, "--work-dir", "run")
    assert started(*words) == 0
    run = json.loads(Path("run/run.json").read_text())
    assert run["identity"]["protocol"] == NAME and "473x473" in run["about"]["sizes"]
