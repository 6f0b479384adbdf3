"""Reading configs: shipped names, files, references, and one line for everything that can be wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from segrobust.core.errors import UserError
from segrobust.models.mm import load_config

BAD = {
    "missing.py": (None, "no such config file, nor a shipped model"),
    "folder.py": ("/", "expected a config file, this is a directory"),
    "weights.pth": ("x", r"expected a config \(.py, .json, .yaml, .yml\), got a file ending in .pth"),
    "syntax.py": ("model = dict(\n", r"syntax.py: line 1: '\(' was never closed"),
    "name.py": ("a = 1\nmodel = undefined_name\n", "NameError: name 'undefined_name' is not defined"),
    "raises.py": ("model = dict(a=1)['b']\n", "KeyError: 'b'"),
    "base.py": ("_base_ = ['nowhere.py']\n", "FileNotFoundError: .*nowhere.py"),
    "reference.py": ("_base_ = ['mmdet::a/b.py']\n", "mmdet is not installed"),
    "imports.py": ("custom_imports = dict(imports=['no_such_module_at_all'])\n", "ImportError: "),
    "broken.json": ('{"model": ', "JSONDecodeError"),
    "broken.yaml": ("model: [1\n", "ParserError"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_config_is_told_in_one_line_with_its_name(name, tmp_path):
    content, words = BAD[name]
    path = tmp_path / name
    if content == "/":
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=words) as refusal:
        load_config(path)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).startswith(str(path))


def test_options_override_and_impossible_ones_are_told(tmp_path):
    path = tmp_path / "config.py"
    path.write_text("model = dict(depth=1)\nstages = [dict(a=1)]\n")
    config = load_config(path, {"model.depth": 2, "stages.0.a": 3, "randomness.seed": 4})
    assert (config.model.depth, config.stages[0].a, config.randomness.seed) == (2, 3, 4)
    with pytest.raises(UserError, match="unknown config entry 'modle'; did you mean model"):
        load_config(path, {"modle.depth": 2})
    with pytest.raises(UserError, match=r"--cfg-options for .*Index 7 exceeds"):
        load_config(path, {"stages.7.a": 1})


def test_references_into_mmseg_resolve_without_pip(tmp_path, monkeypatch):
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "check_call", refuse)
    assert load_config("mmseg::fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py").model.backbone.type == "FastSCNN"
    path = tmp_path / "config.py"
    path.write_text("_base_ = ['mmseg::_base_/models/fast_scnn.py']\nseed = 1\n")
    assert load_config(path).model.backbone.type == "FastSCNN"
    with pytest.raises(UserError, match="installed mmseg has no such config"):
        load_config("mmseg::fastscnn/nothing.py")
    with pytest.raises(UserError, match="only mmseg:: references"):
        load_config("mmdet::a/b.py")


def run(code: str, repository: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True)


def test_the_package_itself_imports_no_torch(repository):
    code = "import sys, segrobust, segrobust.models.mm; print('torch' in sys.modules, 'mmengine' in sys.modules)"
    result = run(code, repository)
    assert (result.stdout, result.stderr) == ("False False\n", "")
    assert run("import segrobust; segrobust.nothing", repository).stderr.endswith("no attribute 'nothing'\n")


def test_the_first_import_of_mmseg_is_quiet_on_both_streams(repository):
    code = """
from segrobust.models.mm import import_mmseg
import_mmseg()
import_mmseg()
from mmengine.registry import DefaultScope
from mmseg.registry import DATASETS
print(DefaultScope.get_current_instance().scope_name, bool(DATASETS.get("CamVidDataset")))
print(bool(DATASETS.get("SeededDataset")))
"""
    result = run(code, repository)
    assert result.stderr == ""
    assert result.stdout == "mmseg True\nTrue\n"


def test_a_data_set_is_got_quietly_and_safely_as_the_first_thing(repository):
    code = """
from segrobust import ImageLabelFolder
from mmengine.registry import WEIGHT_INITIALIZERS
print(ImageLabelFolder.__name__, WEIGHT_INITIALIZERS.get("Pretrained").__name__)
"""
    result = run(code, repository)
    assert (result.stdout, result.stderr) == ("ImageLabelFolder StrictPretrained\n", "")


def test_mmengines_own_runner_gets_all_of_ours_safely_by_custom_imports(repository, tmp_path):
    (tmp_path / "own.py").write_text('custom_imports = dict(imports=["segrobust.hooks"])')
    code = f"""
from mmengine import Config
Config.fromfile({str(tmp_path / "own.py")!r})
from mmengine.registry import HOOKS, WEIGHT_INITIALIZERS
from mmseg.registry import DATASETS
print(bool(HOOKS.get("AdversarialTrainingHook")), bool(DATASETS.get("CamVidDataset")))
print(WEIGHT_INITIALIZERS.get("Pretrained").__name__)
"""
    result = run(code, repository)
    assert result.stderr == ""
    assert result.stdout == "True True\nStrictPretrained\n"


def test_custom_imports_see_the_current_folder_whoever_loads_the_config(in_tmp, monkeypatch):
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder not in ("", str(in_tmp))])
    (in_tmp / "part_of_mine.py").write_text("here = True")
    (in_tmp / "data.json").write_text("{}")
    load_config("data.json")
    assert str(in_tmp) not in sys.path
    (in_tmp / "own.py").write_text('custom_imports = dict(imports=["part_of_mine"])')
    load_config("own.py")
    assert sys.modules.pop("part_of_mine").here and sys.path[-1] == str(in_tmp)  # last: it hides no other module


def test_only_the_known_lines_are_dropped():
    from segrobust.models.mm import without_noise

    text = "a warning\nCould not import OneDL\nCould not import OneDL and something else\nno newline"
    assert without_noise(text) == "a warning\nCould not import OneDL and something else\nno newline"


def test_references_into_mmseg_need_no_ending_and_are_suggested():
    name = "mmseg::fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024"
    assert load_config(name).model == load_config(f"{name}.py").model
    slips = {
        "mmseg::fastscnn/fast_scnn_8xb4-160k_cityscape-512x1024": f"did you mean {name}",
        "mmseg::fast_scnn_8xb4-160k_cityscapes-512x1024.py": f"did you mean {name}",  # the folder is missing
        "mmseg::../../../setup": "no such config",
        "mmseg::xyzzy": "the installed mmseg has no such config",
        "mmdet::a/b": "only mmseg:: references",
    }
    for slip, words in slips.items():
        with pytest.raises(UserError, match=words) as refusal:
            load_config(slip)
        assert str(refusal.value).startswith(slip) and "\n" not in str(refusal.value)
