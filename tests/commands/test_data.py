"""What the command line says of data that are possible but hardly meant, and at which size it measured."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from segrobust.cli import main


@pytest.fixture
def copy(world, tmp_path):
    """A config on a copy of the data that may be spoilt, and its labels' folder."""
    shutil.copytree(world.data, tmp_path / "data")
    config = tmp_path / "tiny.py"
    config.write_text(world.config.read_text().replace(repr(str(world.data)), repr(str(tmp_path / "data"))))
    return config, tmp_path / "data/labels/test"


def relabel(labels, change):
    for path in labels.iterdir():
        Image.fromarray(change(np.array(Image.open(path)))).save(path)


def test_void_alone_is_an_error_before_any_attack(world, copy, tmp_path, capsys):
    config, labels = copy
    relabel(labels, lambda ids: np.full_like(ids, 255))
    assert main(world.evaluate(tmp_path / "run", config=config)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "nothing can be measured: every pixel of all 4 labels is void (255)" in error
    assert not (tmp_path / "run/rows").exists()


def test_masks_of_0_and_255_are_named_and_sizes_told(world, copy, tmp_path, capsys, caplog):
    config, labels = copy
    relabel(labels, lambda ids: np.where(ids > 0, 255, 0).astype(np.uint8))
    assert main(world.evaluate(tmp_path / "run", config=config)) == 0
    assert "only class 0 (dark) and void (255) occur in 4 labels" in caplog.text
    assert "attacked and measured at 32x48 (height x width)" in capsys.readouterr().out


def test_the_metrics_size_is_an_option(world, copy, tmp_path, capsys):
    config, _ = copy
    resized = '[dict(type="LoadPair", scale=(24, 16)), dict(type="PackSegInputs")]'
    config.write_text(config.read_text().replace('[dict(type="LoadPair"), dict(type="PackSegInputs")]', resized))
    assert main(world.evaluate(tmp_path / "run", "--metric-size", "original", config=config)) == 0
    told = "attacked at 16x24 (height x width), the size after the test pipeline; measured at 32x48, as stored"
    assert told in capsys.readouterr().out
    assert json.loads((tmp_path / "run/run.json").read_text())["identity"]["metric_size"] == "original"
    assert told in (tmp_path / "run/report.html").read_text()


def test_a_checkpoint_of_the_same_classes_in_another_order(world, tmp_path, capsys):
    from safetensors.torch import load_file

    meta = dict(dataset_meta=dict(classes=("bright", "grey", "dark")))
    torch.save(dict(state_dict=load_file(world.weights), meta=meta), tmp_path / "reversed.pth")
    assert main(world.evaluate(tmp_path / "run", weights=tmp_path / "reversed.pth")) == 2
    assert "those of the checkpoint reversed: class 0 is 'dark' in the data and 'bright'" in capsys.readouterr().err


def test_a_model_with_the_classes_of_the_data_in_another_order(tmp_path):
    from segrobust.commands.evaluation import evaluate
    from segrobust.core.errors import UserError
    from segrobust.models.segmenter import Segmenter
    from tests.attacks.toys import SmallNet
    from tests.runs.toy_run import K, ToySource

    model = Segmenter.wrap(SmallNet(K), num_classes=K, class_names=ToySource.class_names[::-1])
    with pytest.raises(UserError, match="those of the model reversed"):
        evaluate(model, ToySource(), work_dir=tmp_path)
