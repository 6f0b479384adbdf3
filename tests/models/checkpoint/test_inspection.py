"""What is told of a file without any model: where its weights lie, of which kind, and what its trainer stored."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from segrobust.core.errors import UserError
from segrobust.models.checkpoint.inspection import inspect_checkpoint
from segrobust.models.checkpoint.loading import convert_checkpoint, load_state_dict
from segrobust.models.checkpoint.reading import safetensors_notes, sha256, stored_class_names
from tests.models.checkpoint.openmmlab import of_mmengine, of_mmseg_0, write_as_numpy_1
from tests.models.checkpoint.test_checkpoint import equal
from tests.models.tiny import TinyNet

ROOT = Path(__file__).resolve().parents[3]
SHARED = Path(os.environ.get("SEGROBUST_SHARED", ROOT.parent / "shared" / "data"))
CASES = SHARED.parent / "cases"
WEIGHTS = TinyNet().state_dict()
UNDER = {f"module.{key}": value for key, value in WEIGHTS.items()}
FILES = {  # content, and of what is told: envelope, weights, prefixes, besides
    "raw": (WEIGHTS, "the whole file", "raw", None, None),
    "DDP": ({"state_dict": UNDER, "epoch": 4}, "state_dict", "raw", ["module."], None),
    "compiled DDP": (
        {"model": {f"module._orig_mod.{key}": value for key, value in WEIGHTS.items()}, "optimizer": {}},
        "model", "raw", ["_orig_mod.", "module."], ["optimizer"],
    ),
    "Lightning": (
        {"state_dict": {f"model.{key}": value for key, value in WEIGHTS.items()}, "epoch": 9, "global_step": 70,
         "pytorch-lightning_version": "2.4.0", "optimizer_states": [], "callbacks": {}},
        "state_dict", "raw", ["model."], ["callbacks", "optimizer_states"],
    ),
    "EMA alone": ({"ema": UNDER, "epoch": 3}, "ema", "averaged (EMA)", ["module."], None),
    "counted average": ({"model_ema": {**UNDER, "n_averaged": torch.tensor(5)}}, "model_ema", "averaged (EMA)",
                        ["module."], None),
}  # fmt: skip


def saved(tmp_path: Path, content: object, name: str = "w.pth") -> Path:
    torch.save(content, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("style", FILES)
def test_where_the_weights_lie_and_what_stands_before_their_names(style, tmp_path):
    content, envelope, kind, prefixes, besides = FILES[style]
    facts, weights = inspect_checkpoint(saved(tmp_path, content))
    assert (facts["envelope"], facts["weights"]) == (envelope, kind)
    assert (facts.get("prefixes"), facts.get("besides")) == (prefixes, besides)
    assert facts["tensors"] == 9 == len(weights)
    assert equal(weights, load_state_dict(tmp_path / "w.pth"))
    told = {"DDP": {"epoch": 4}, "EMA alone": {"epoch": 3}, "Lightning": {
        "epoch": 9, "global_step": 70, "pytorch-lightning_version": "2.4.0"}}.get(style, {})  # fmt: skip
    assert {
        name: facts[name] for name in ("epoch", "global_step", "pytorch-lightning_version") if name in facts
    } == told


def test_the_average_beside_the_weights_of_mmengine_is_told_with_its_flag(tmp_path):
    content = {"state_dict": WEIGHTS, "ema_state_dict": {**UNDER, "steps": torch.tensor(9)},
               "meta": {"iter": 9, "mmengine_version": "0.10.5"}}  # fmt: skip
    facts, _ = inspect_checkpoint(saved(tmp_path, content))  # EMAHook stores the averaged ones as the model's
    assert (facts["envelope"], facts["weights"]) == ("state_dict", "averaged (EMA)")
    assert facts["other weights"] == "raw, in ema_state_dict; --weights raw takes them"
    content = {"state_dict": WEIGHTS, "ema": {"shadow_params": list(WEIGHTS.values())}}
    facts, _ = inspect_checkpoint(saved(tmp_path, content))
    assert facts["other weights"] == "averaged (EMA), in a list without names (ema.shadow_params)"


@pytest.mark.parametrize("zipped", [True, False])
def test_openmmlabs_files_of_both_ages(zipped, tmp_path):
    heads = {f"{head}.conv_seg.{key}": torch.full((3, 2, 1, 1) if key == "weight" else (3,), 0.5)
             for head in ("decode_head", "auxiliary_head") for key in ("weight", "bias")}  # fmt: skip
    weights = {"backbone.conv1.weight": torch.ones(2, 3, 1, 1), **heads}
    path = write_as_numpy_1(of_mmseg_0(weights, ["road", "car", "sky"]), tmp_path / "old.pth", zipped)
    facts, read = inspect_checkpoint(path)
    assert equal(read, weights)
    assert facts["format"] == ("torch.save" if zipped else "torch.save before torch 1.6")
    assert facts["parts"] == {"backbone": 6, "decode_head": 9, "auxiliary_head": 9}
    assert facts["outputs"] == {"decode_head.conv_seg": 3, "auxiliary_head.conv_seg": 3}
    assert facts["classes"] == ["road", "car", "sky"]
    assert (facts["epoch"], facts["iter"], facts["mmseg_version"]) == (54, 40000, "0.11.0")
    assert facts["exp_name"] == "pspnet_r18-d8_512x1024_40k_cityscapes.py" and facts["besides"] == ["optimizer"]
    path = write_as_numpy_1(of_mmengine(weights, ["road", "car", "sky"]), tmp_path / "new.pth", zipped)
    facts, _ = inspect_checkpoint(path)
    assert facts["classes"] == ["road", "car", "sky"] and facts["besides"] == ["message_hub", "optimizer"]
    assert (facts["epoch"], facts["iter"], facts["mmengine_version"]) == (7, 80000, "0.7.0")
    assert (facts["experiment_name"], facts["time"]) == ("fcn_r18_20230101_000000", "20230102_000000")
    json.dumps(facts, allow_nan=False)


def test_a_name_that_promises_a_sha256(tmp_path, caplog):
    path = saved(tmp_path, WEIGHTS)
    right, wrong = tmp_path / f"net-{sha256(path)[:8]}.pth", tmp_path / "net-01234567.pth"
    for other in (right, wrong):
        shutil.copy(path, other)
    assert "file name" not in inspect_checkpoint(path)[0]
    assert inspect_checkpoint(right)[0]["file name"] == "promises this sha256"
    assert inspect_checkpoint(wrong)[0]["file name"] == "promises another sha256: the file was changed or cut short"


@pytest.mark.parametrize(
    ("value", "told"),
    [(3, 3), (np.float32(0.5), 0.5), (torch.tensor(7), 7), (float("nan"), "nan"), ("a\nb", None), ("x" * 300, None),
     ({"a": 1}, None), (torch.zeros(2), None)],
)  # fmt: skip
def test_of_what_a_trainer_stored_short_values_are_told(value, told, tmp_path):
    facts, _ = inspect_checkpoint(saved(tmp_path, {"state_dict": WEIGHTS, "epoch": value}))
    assert facts.get("epoch") == told
    json.dumps(facts, allow_nan=False)


def test_numbers_that_are_none_are_told(tmp_path):
    broken = {**WEIGHTS, "last.bias": torch.full((5,), float("nan"))}
    facts, _ = inspect_checkpoint(saved(tmp_path, broken))
    assert facts["not finite"] == ["last.bias"]
    assert "not finite" not in inspect_checkpoint(saved(tmp_path, WEIGHTS))[0]


def test_where_no_weights_are_found_the_error_names_those_that_look_like_it(tmp_path):
    content = {"nets": {"student": WEIGHTS, "teacher": UNDER}, "optimizer": {"state": {0: {"momentum": torch.ones(2)}}}}
    with pytest.raises(UserError, match=r"lie in nets\.student, nets\.teacher: name one as envelope='nets\.student'"):
        inspect_checkpoint(saved(tmp_path, content))
    assert equal(load_state_dict(tmp_path / "w.pth", envelope="nets.student"), WEIGHTS)
    with pytest.raises(UserError, match=r"; it holds 'epoch': int, 'log': list$") as refusal:
        inspect_checkpoint(saved(tmp_path, {"epoch": 3, "log": [1.5]}))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("meta", [{"dataset_meta": {"classes": ("Straße", "car")}}, {"CLASSES": ["Straße", "car"]}])
def test_conversion_keeps_the_class_names_where_our_reader_finds_them(meta, tmp_path):
    path = saved(tmp_path, {"state_dict": WEIGHTS, "meta": meta})
    convert_checkpoint(path, tmp_path / "a.safetensors")
    convert_checkpoint(tmp_path / "a.safetensors", tmp_path / "b.safetensors")  # and once more
    for name in ("a", "b"):
        assert stored_class_names(tmp_path / f"{name}.safetensors") == ("Straße", "car")
        assert equal(load_state_dict(tmp_path / f"{name}.safetensors"), WEIGHTS)
    assert safetensors_notes(tmp_path / "a.safetensors").keys() == {"format", "classes"}


@pytest.mark.parametrize("text", ["road,car", '{"a": 1}', "[1, 2]", '"road"', "[" * 100000])
def test_notes_that_are_no_list_of_names_are_left_alone(text, tmp_path):
    save_file(dict(WEIGHTS), tmp_path / "x.safetensors", metadata={"classes": text})
    assert stored_class_names(tmp_path / "x.safetensors") == ()


@pytest.mark.parametrize("case", ["c01_prefixes", "c03_ema"])
def test_cases_from_the_field(case, tmp_path):
    if not (CASES / case / "make.py").is_file():
        pytest.skip(f"{CASES / case} is not here")
    shutil.copytree(CASES / case, tmp_path / case)
    environment = {**os.environ, "PYTHONPATH": str(CASES / "lib")}
    subprocess.run([sys.executable, tmp_path / case / "make.py"], check=True, env=environment)
    for path in sorted((tmp_path / case).glob("*.pth")):
        facts, weights = inspect_checkpoint(path)
        if case == "c01_prefixes":
            known = {"module": ["module."], "orig_mod": ["_orig_mod."], "module_module": ["module.", "module."],
                     "module_orig_mod": ["_orig_mod.", "module."], "orig_mod_module": ["_orig_mod.", "module."],
                     "model": ["model."], "net": ["net."], "module_and_step": ["module."]}  # fmt: skip
            assert facts["prefixes"] == known[path.stem]
            assert facts["outputs"][next(iter(facts["outputs"]))] == 3
        else:
            alone = path.stem == "ema_only"
            assert facts["weights"] == ("averaged (EMA)" if alone else "raw")
            assert ("other weights" in facts) != alone
        assert facts["tensors"] == 2 == len(weights)


@pytest.mark.parametrize(
    ("file", "envelope", "tensors", "format"),
    [
        ("enet_camvid/ENet_default", "the whole file", 554, "torch.save before torch 1.6"),
        ("enet_cityscapes/enet_crop-1024_800epoch.pth", "state_dict", 430, "torch.save"),
        ("dabnet_cityscapes/dabtnet_crop-1024_800epoch.pth", "state_dict", 414, "torch.save"),
    ],
)
def test_weights_of_others(file, envelope, tensors, format, tmp_path):
    path = SHARED / "real" / "weights" / file
    if not path.is_file():
        pytest.skip(f"{path} is not here: weights of others are not in the repository")
    facts, weights = inspect_checkpoint(path)
    assert (facts["envelope"], facts["tensors"], facts["format"]) == (envelope, tensors, format)
    convert_checkpoint(path, tmp_path / "x.safetensors")
    assert equal(load_state_dict(tmp_path / "x.safetensors"), OrderedDict(weights))
    if envelope == "state_dict":
        assert facts["besides"] == ["best_score", "optimizer", "scheduler"] and facts["cur_epoch"] > 0
