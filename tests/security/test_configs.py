"""A .py config is a program; JSON and YAML configs are data, and what would make a program of them is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from segrobust.core.errors import UserError
from segrobust.models.mm import load_config

MODEL = {"type": "EncoderDecoder", "backbone": {"type": "mmseg.ResNet", "depth": 18}}


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_yaml_tags_do_not_run(tmp_path):
    marker = tmp_path / "marker"
    for suffix in (".yaml", ".yml"):
        path = write(tmp_path / f"evil{suffix}", f"model: !!python/object/apply:os.system ['touch {marker}']\n")
        with pytest.raises(UserError, match=r"a Python object in YAML is not built: .*os\.system"):
            load_config(path)
        heir = write(tmp_path / "heir.yaml", f"_base_: evil{suffix}\n")
        with pytest.raises(UserError, match="a Python object in YAML"):
            load_config(heir)
    assert not marker.exists()


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"model": {"type": "os.system", "command": "x"}}, "'os.system' names an arbitrary Python object"),
        ({"model": MODEL, "train": [{"hook": {"type": "subprocess.run"}}]}, "'subprocess.run'"),
        ({"model": {"type": "mmseg.utils.collect_env"}}, "'mmseg.utils.collect_env'"),
        ({"optim_wrapper": {"constructor": "os.system"}}, "'os.system'"),
        ({"custom_imports": {"imports": ["evil"]}}, "custom_imports run code"),
        ({"model": {"backbone": {"type": "mmpretrain.HuggingFaceClassifier"}}}, "runs the code that a model's folder"),
        ({"model": {"type": "HuggingFaceClassifier", "_scope_": "mmpretrain"}}, "runs the code that a model's folder"),
        ({"_base_": "evil.py"}, "'evil.py' is not JSON or YAML"),
        ({"_base_": ["good.json", "mmseg::_base_/models/x.py"]}, "is not JSON or YAML"),
        ({"_base_": "typed.json"}, "'os.system'"),
        ([1, 2], "expected a mapping at the top, got list"),
    ],
)
def test_data_configs_cannot_name_or_inherit_programs(content, words, suffix, tmp_path):
    marker = tmp_path / "marker"
    write(tmp_path / "evil.py", f"open({str(marker)!r}, 'w').close()\n")
    write(tmp_path / "good.json", {"model": MODEL})
    write(tmp_path / "typed.json", {"hook": {"type": "os.system"}})
    with pytest.raises(UserError, match=words) as refusal:
        load_config(write(tmp_path / f"config{suffix}", content))
    assert "\n" not in str(refusal.value)
    assert not marker.exists()


def test_ordinary_data_configs_load(tmp_path):
    write(tmp_path / "base.json", {"model": MODEL, "seed": 1})
    path = write(tmp_path / "config.yaml", "_base_: base.json\nseed: 2\nmodel:\n  backbone:\n    depth: 50\n")
    config = load_config(path, {"model.backbone.style": "pytorch"})
    assert config.seed == 2
    assert config.model.backbone == {"type": "mmseg.ResNet", "depth": 50, "style": "pytorch"}
