"""CONTRIBUTING.md is followed here, block by block: an attack, a study, a model, a data set and a recipe."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch

from segrobust.attacks import ATTACKS, build_attack
from segrobust.commands.evaluation import evaluate
from segrobust.core.own_code import import_own
from segrobust.models.load import load_segmenter
from segrobust.models.registry import SEGMENTERS
from segrobust.runs.folder import RunFolder
from tests.runs.toy_run import ToySource, toy_model

PAGE = (Path(__file__).resolve().parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", PAGE, re.DOTALL))
QUICK = {"checks": False, "pictures": False}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write a block as its file, where the current folder is; gives the file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    names: list[str] = []

    def write(name: str) -> Path:
        names.append(name)
        (tmp_path / f"{name}.py").write_text(BLOCKS[name])
        return tmp_path / f"{name}.py"

    yield write
    for name in names:
        sys.modules.pop(name, None)


def module(written, name: str):
    written(name)
    importlib.invalidate_caches()
    return importlib.import_module(name)


def test_every_block_is_followed():
    assert set(BLOCKS) == {"my_attack", "my_study", "my_model", "my_data", "my_recipe"}


def test_an_attack(written, tmp_path):
    import_own([written("my_attack").name])
    try:
        assert build_attack("confident(power=3)").power == 3
        summary = evaluate(toy_model(), ToySource(), ["confident(power=3)"], "8/255", steps=5, work_dir="run", **QUICK)
    finally:
        del ATTACKS["Confident"]
    assert [one["name"] for one in summary] == ["clean", "Confident", "worst_case"]
    assert summary[1]["aAcc"] < summary[0]["aAcc"] - 3


def test_a_study(written):
    study = module(written, "my_study").Darkened()
    summary = evaluate(toy_model(), ToySource(), studies=[study], work_dir="run", **QUICK)
    assert [(one["study"], one["severity"]) for one in summary] == [("clean", None), ("darkened", 2), ("darkened", 4)]
    source, right, counted = ToySource(), 0, 0
    for sample in source.samples:
        with torch.no_grad():
            prediction = toy_model()(sample.image[None] / 4).argmax(1)[0]
        right += int((prediction == sample.label).sum())
        counted += int((sample.label != 255).sum())
    assert summary[2]["aAcc"] == pytest.approx(100 * right / counted, abs=1e-3)
    evaluate(toy_model(), source, ["CEPGD"], "2/255", steps=2, studies=[study], work_dir="run", **QUICK)  # it grows
    assert len(RunFolder("run").rows()) == 7 * 4


def test_a_model_and_a_data_set(written):
    torch.manual_seed(0)
    made = module(written, "my_model").HalfSize
    try:
        model = load_segmenter({"model": dict(type="HalfSize", num_classes=2)}, device="cpu", channels_last=False)
    finally:
        del SEGMENTERS["HalfSize"]
    assert type(model) is made
    data = module(written, "my_data").Stripes()
    with torch.no_grad():
        model.net.weight.copy_(torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1))
        model.net.bias.zero_()
    summary = evaluate(model, data, ["CEPGD"], ["2/255", "64/255"], steps=10, work_dir="run", **QUICK)
    clean, near, far = (one["aAcc"] for one in summary[:3])
    assert clean == 100 and near == clean and far < 60


def test_a_recipe(written, tmp_path):
    from segrobust.commands.training import train
    from tests.hooks.toys import toy_config, with_plain_validation

    settings: dict = {}
    exec(compile(written("my_recipe").read_text(), "my_recipe.py", "exec"), settings)  # noqa: S102 - as a config is read
    config = with_plain_validation(toy_config(*settings["custom_hooks"], attack=None))
    runner = train(config, work_dir=tmp_path / "work")
    assert 0 <= runner.message_hub.get_scalar("val/robust/aAcc").current() <= 100
    assert any(type(hook).__name__ == "AdversarialTrainingHook" for hook in runner.hooks)
