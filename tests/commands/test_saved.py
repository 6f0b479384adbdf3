"""``segrobust evaluate hf:FOLDER --data FOLDER`` and ``smp:FOLDER``: no config, no checkpoint, no network."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import segrobust
from segrobust.cli import main
from segrobust.commands.inputs import model_name
from segrobust.core.errors import UserError
from segrobust.core.own_code import names_function
from segrobust.models.load import load_segmenter
from segrobust.models.saved import names_saved, saved_model
from tests.commands.test_published import write_archive
from tests.models.adapters.saved import no_sockets, save_huggingface, save_smp
from tests.runs.toy_run import lines

pytest.importorskip("transformers")
pytest.importorskip("segmentation_models_pytorch")
NAMES = dict(enumerate(("dark", "grey", "bright", "red", "blue")))
QUICK = ("--attack", "cepgd", "--eps", "8/255", "--steps", "2", "--no-checks", "--no-pictures")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("models")
    save_huggingface(root / "segformer", names=NAMES)
    save_huggingface(root / "reduced", names=NAMES, do_reduce_labels=True)
    save_smp(root / "fpn")
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Three images with ids 0 to 4 and void."""
    root, rng = tmp_path_factory.mktemp("five") / "data", np.random.default_rng(0)
    for kind in ("images", "labels"):
        (root / kind / "test").mkdir(parents=True)
    for number in range(3):
        label = rng.integers(0, 5, (33, 47)).astype(np.uint8)
        label[:4] = 255
        Image.fromarray(rng.integers(0, 256, (33, 47, 3)).astype(np.uint8)).save(root / f"images/test/{number}.png")
        Image.fromarray(label).save(root / f"labels/test/{number}.png")
    return root


@pytest.fixture(autouse=True)
def alone(monkeypatch, in_tmp):
    no_sockets(monkeypatch)


def started(model: str, *words: object) -> int:
    return main([str(word) for word in ("evaluate", model, *words)])


def test_a_folder_under_a_protocol(models, tmp_path_factory, in_tmp, monkeypatch, capsys):
    root = write_archive(tmp_path_factory.mktemp("archive"), "VOC 2012", np.array([255, 0, 255, 20]))
    monkeypatch.setattr("tests.models.adapters.saved.CLASSES", 21)
    save_huggingface(in_tmp / "voc")
    words = ("--protocol", "voc473-ignore255", "--data-root", root, *QUICK, "--num-images", 1)
    assert started("hf:voc", *words, "--num-classes", 20) == 2
    assert "hf:voc has 21 classes, but 20 are told" in capsys.readouterr().err
    assert started(f"hf:{models / 'segformer'}", *words, "--work-dir", "five") == 2
    assert "has 21 classes, but the model 5" in capsys.readouterr().err
    assert started("hf:voc", *words, "--work-dir", "run") == 0
    run = json.loads((in_tmp / "run" / "run.json").read_text())
    assert run["identity"]["protocol"] == "voc473-ignore255" and run["about"]["sizes"].startswith(
        "attacked and measured at 473"
    )


@pytest.mark.parametrize(("prefix", "name"), [("hf", "segformer"), ("smp", "fpn")])
def test_a_folder_is_attacked_by_one_command(models, data, in_tmp, capsys, prefix, name):
    assert started(f"{prefix}:{models / name}", "--data", data, *QUICK, "--work-dir", "run") == 0
    assert f"{name}: clean" in capsys.readouterr().out
    assert len(lines(in_tmp / "run")) == 3 * 2
    identity = json.loads((in_tmp / "run" / "run.json").read_text())["identity"]
    assert identity["config"] == name and len(identity["checkpoint_sha256"]) == 64
    assert identity["class_names"][0] == ("dark" if prefix == "hf" else "class_0")
    moved = shutil.copytree(models / name, in_tmp / name)
    words = ("--data", data, *QUICK, "--work-dir", "run", "--eps", "4/255")
    assert started(f"{prefix}:{moved}", *words) == 0  # the same model elsewhere goes on
    assert len(lines(in_tmp / "run")) == 3 * 3
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(config | {"drop_path_rate": 0.3, "decoder_dropout": 0.3}))
    assert started(f"{prefix}:{moved}", *words) == 2
    assert "config_sha256" in capsys.readouterr().err


def test_the_config_that_says_the_same_is_the_same_run(models, data, in_tmp):
    assert started(f"hf:{models / 'segformer'}", "--data", data, *QUICK, "--work-dir", "short") == 0
    text = f"model = dict(type='HuggingFaceSegmenter', folder={str(models / 'segformer')!r})\n"
    text += f"test_dataloader = dict(dataset=dict(type='ImageLabelFolder', data_root={str(data)!r}, split='test',\n"
    text += f"    metainfo=dict(classes={tuple(NAMES.values())!r}), test_mode=True,\n"
    text += "    pipeline=[dict(type='LoadPair'), dict(type='PackSegInputs')]))"
    Path("long.py").write_text(text)
    weights = models / "segformer" / "model.safetensors"
    assert started("long.py", weights, *QUICK, "--work-dir", "long") == 0
    assert lines(in_tmp / "short") == lines(in_tmp / "long")


def test_reduced_labels_are_shifted_by_the_data(models, data, in_tmp, caplog, capsys):
    """The model's class is one less than the id in the file, and 0 is void; the data set does it, once, and is told."""
    raw = Path(shutil.copytree(data, in_tmp / "raw"))
    for file in (raw / "labels" / "test").iterdir():
        label = np.array(Image.open(file)).astype(int)
        Image.fromarray(np.where(label == 255, 0, label + 1).astype(np.uint8)).save(file)
    reduced, plain = f"hf:{models / 'reduced'}", f"hf:{models / 'segformer'}"
    assert started(plain, "--data", data, *QUICK, "--work-dir", "plain") == 0
    assert "do_reduce_labels" not in caplog.text
    assert started(reduced, "--data", raw, *QUICK, "--work-dir", "reduced") == 0
    assert "do_reduce_labels: label 0 becomes void and every other one less" in caplog.text
    assert lines(in_tmp / "plain") == lines(in_tmp / "reduced")
    off = ("--cfg-options", "test_dataloader.dataset.reduce_zero_label=False", "--work-dir", "off")
    assert started(reduced, "--data", data, *QUICK, *off) == 0
    assert lines(in_tmp / "off") == lines(in_tmp / "plain")
    assert started(plain, "--data", raw, *QUICK, "--work-dir", "wrong") == 2  # an id 5 where there are 5 classes
    assert "holds the id 5" in capsys.readouterr().err
    for name, model in (("a", load_segmenter(reduced)), ("b", load_segmenter(plain))):
        segrobust.evaluate(model, raw if name == "a" else data, ["CEPGD(steps=2)"], eps=["8/255"], work_dir=name,
                           checks=False, pictures=False)  # fmt: skip
    assert lines(in_tmp / "a") == lines(in_tmp / "b") == lines(in_tmp / "plain")


def test_a_model_of_another_library_is_a_surrogate(models, data, in_tmp):
    words = ("--surrogate", f"smp:{models / 'fpn'}", "--work-dir", "run")
    assert started(f"hf:{models / 'segformer'}", "--data", data, *QUICK, *words) == 0
    assert len(lines(in_tmp / "run")) == 3 * 2


REFUSED = {
    "no data": (["hf:segformer"], "needs --data FOLDER"),
    "no folder": (["hf:missing", "--data", "DATA"], "missing: no such folder, and nothing is downloaded"),
    "a name on the hub": (["hf:nvidia/segformer-b0", "--data", "DATA"], "nothing is downloaded"),
    "of the other library": (["smp:segformer", "--data", "DATA"], "is it one of transformers (hf:FOLDER)?"),
    "a mean": (["hf:segformer", "--data", "DATA", "--mean", "0", "0", "0"], "--mean: the folder segformer tells it"),
    "another number": (["hf:segformer", "--data", "DATA", "--num-classes", "4"], "has 5 classes, but 4 are told"),
    "an order": (
        ["hf:segformer", "--data", "DATA", "--class-names", "grey", "dark", "bright", "red", "blue"],
        "in another order: class 0 is 'grey' in the data and 'dark' in the model hf:segformer",
    ),
    "training": (["TRAIN", "hf:segformer"], "train_dataloader"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_missing_or_wrong_is_told_in_one_line(models, data, monkeypatch, capsys, case):
    monkeypatch.chdir(models)
    words, told = REFUSED[case]
    words = [str(data) if word == "DATA" else word for word in words]
    command = ["train", *words[1:]] if words[0] == "TRAIN" else ["evaluate", *words]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_the_form_of_a_folder():
    assert names_saved("hf:a/b") and names_saved("smp:C:/x") and not names_saved("mmseg::pspnet/x")
    assert not names_saved("hf::x") and not names_saved("hub:x") and not names_saved("hf.py:build")
    assert not names_function("hf:build") and names_function("hf.py:build") and names_function("smp_nets:build")
    with pytest.raises(UserError, match="no such folder"):
        saved_model("smp:nowhere")


def test_names_in_tables(models):
    assert model_name(f"hf:{models / 'segformer'}") == "segformer"


def test_no_library_is_imported_before_a_model_of_it(repository):
    """Afterwards mmengine imports transformers where it is installed, for an optimizer."""
    code = """
import sys
import segrobust, segrobust.cli, segrobust.models.load, segrobust.commands.evaluation
print(*[name for name in ("transformers", "segmentation_models_pytorch", "timm") if name in sys.modules])
segrobust.load_segmenter("camvid-fpn-r18w24-std-180x240")
print(*[name for name in ("segmentation_models_pytorch",) if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repository)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "\n\n"
