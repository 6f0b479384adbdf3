"""`segrobust checkpoint`: what is printed of files as people have them, and that its commands work as they stand."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from segrobust.cli import main
from segrobust.commands.models import known_models
from segrobust.models.checkpoint.loading import load_state_dict
from segrobust.models.load import load_segmenter
from segrobust.models.published import PUBLISHED
from segrobust.models.shipped import zoo
from tests.commands.conftest import CONFIG, tiny_weights
from tests.models.checkpoint.openmmlab import of_mmengine, of_mmseg_0, write_as_numpy_1
from tests.models.checkpoint.test_checkpoint import equal
from tests.models.papers.manifests import one_number_per_key, write_as_published

STANDARD = "camvid-fpn-r18w24-std-180x240"
QUICK = ["--attack", "cepgd", "--eps", "1/255", "--steps", "1", "--num-images", "1", "--no-checks", "--no-pictures"]
AUXILIARY = CONFIG.replace(
    "    train_cfg=dict()",
    '    auxiliary_head=dict(type="FCNHead", in_channels=32, in_index=2, channels=4, num_convs=1, concat_input=False,'
    ' num_classes=3, norm_cfg=dict(type="SyncBN"), align_corners=False),\n    train_cfg=dict()',
).replace('norm_cfg=dict(type="BN")', 'norm_cfg=dict(type="SyncBN")')


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def told(capsys):
    """What ``inspect`` prints: the facts, the rows of the table, the lines after it."""

    def run(*arguments: object) -> tuple[dict[str, str], dict[str, list[str]], list[str]]:
        capsys.readouterr()
        assert main(["checkpoint", "inspect", *map(str, arguments)]) == 0
        out = capsys.readouterr().out
        facts, rest = out.split("\n\n", 1)
        rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in rest.splitlines() if line.startswith("│")]
        after = rest.splitlines()
        after = after[max((n for n, line in enumerate(after) if line.startswith(("└", "match:"))), default=-1) + 1 :]
        return dict(line.split(": ", 1) for line in facts.splitlines()), {row[0]: row[1:] for row in rows}, after

    return run


def test_an_mmseg_checkpoint_beside_its_config(world, told, tmp_path, capsys):
    weights = load_file(world.weights)
    path = tmp_path / "my weights.pth"
    torch.save(
        {"state_dict": weights, "meta": {"epoch": 3, "dataset_meta": {"classes": ["dark", "grey", "bright"]}}}, path
    )
    facts, rows, after = told(path, "--model", world.config)
    sizes = {name: sum(value.numel() for key, value in weights.items() if key.startswith(name) and "running" not in key
                       and "tracked" not in key) for name in ("backbone", "decode_head")}  # fmt: skip
    floats = sum(value.is_floating_point() for value in weights.values())
    assert facts == {
        "file": str(path),
        "format": "torch.save",
        "bytes": f"{path.stat().st_size:,}",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "envelope": "state_dict",
        "weights": "raw",
        "tensors": str(len(weights)),
        "parameters": f"{sum(sizes.values()):,}",
        "dtypes": facts["dtypes"],
        "parts": f"backbone {sizes['backbone']:,}, decode_head {sizes['decode_head']:,}",
        "outputs": "decode_head.conv_seg 3",
        "first": facts["first"],
        "last": facts["last"],
        "classes": "3: dark, grey, bright",
        "epoch": "3",
    }
    assert set(facts["dtypes"].split(", ")) == {f"float32 {floats}", f"int64 {len(weights) - floats}"}
    assert rows[str(world.config)] == ["yes", str(len(weights)), "0", "0", "0"]
    own, *others = rows
    assert own == str(world.config) and len(others) == 5 and {rows[name][0] for name in others} == {"no"}
    assert set(others) <= set(known_models())
    assert after[0] == f"to attack it as {world.config}:"
    evaluate, convert = (shlex.split(line) for line in after if line.startswith("  segrobust"))
    assert evaluate == ["segrobust", "evaluate", str(world.config), str(path)]
    assert main([*evaluate[1:], "--work-dir", str(tmp_path / "run"), *QUICK]) == 0
    capsys.readouterr()
    assert main(convert[1:]) == 0
    target = tmp_path / "my weights.safetensors"
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    assert capsys.readouterr().out.splitlines() == [str(target), f"sha256: {digest}"]
    assert equal(load_state_dict(target), load_state_dict(path))
    facts, rows, after = told(target, "--model", world.config)
    assert (facts["format"], facts["classes"]) == ("safetensors", "3: dark, grey, bright")
    assert not any("convert" in line for line in after)
    assert not any("convert" in line for line in told(path)[2])  # the new file is there


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("age", [of_mmseg_0, of_mmengine])
def test_openmmlabs_files_with_all_heads_fit_their_config(age, zipped, world, told, tmp_path):
    config = tmp_path / "published.py"
    config.write_text(AUXILIARY.replace("DATA_ROOT", repr(str(world.data))))
    weights = tiny_weights(config)
    path = write_as_numpy_1(age(weights, ["dark", "grey", "bright"]), tmp_path / "w.pth", zipped)
    facts, rows, after = told(path, "--model", config, world.config)
    assert facts["outputs"] == "decode_head.conv_seg 3, auxiliary_head.conv_seg 3"
    assert rows[str(config)] == ["yes", str(len(weights)), "0", "0", "0"]
    heads = sum(key.startswith("auxiliary_head") for key in weights)
    assert heads == 8 and rows[str(world.config)] == ["no", str(len(weights) - heads), "0", str(heads), "0"]
    assert f"{world.config}: the weights do not fit this model: the model has no place for auxiliary_head" in after[0]
    assert f"  segrobust evaluate {config} {path}" in after
    load_segmenter(config, path, device="cpu")
    _, _, after = told(path)
    name = "pspnet_r18-d8_512x1024_40k_cityscapes.py" if age is of_mmseg_0 else "fcn_r18_20230101_000000"
    assert after[-4] == (f"no model here takes it; its parts are those of an mmseg model, so name its config (its "
                         f"training was called {name}):")  # fmt: skip
    assert after[-3] == f"  segrobust checkpoint inspect {path} --model CONFIG.py"


def test_several_published_names_of_one_layout_are_all_told(told, tmp_path):
    from segrobust.models.papers.architectures import build_network

    name = "ddcat-pspnet50-voc-sat"
    with torch.device("meta"):
        state = build_network(PUBLISHED[name].arch, 21).state_dict()
    path = write_as_published(name, one_number_per_key(state), tmp_path / "w.pth")
    facts, rows, after = told(path)
    assert (facts["envelope"], facts["prefixes"], facts["epoch"]) == ("state_dict", "module.", "50")
    assert facts["format"] == "torch.save before torch 1.6" and facts["besides"] == "optimizer"
    assert facts["parameters"] == f"{PUBLISHED[name].parameters:,}"
    names = ["pirat-pspnet50-deepstem-voc", "ddcat-pspnet50-voc-nodefense", name]
    assert [row for row, cells in rows.items() if cells[0] == "yes"] == names and len(rows) == 5
    assert after[0].startswith(f"3 models have these keys and shapes ({', '.join(names)}), and neither keys nor shapes")
    assert after[1].endswith(f"{names[0]} {path} --cfg-options test_dataloader.dataset.data_root=FOLDER")
    renamed = path.rename(tmp_path / "train_epoch_50.pth")  # as its authors call it: two are left
    _, rows, after = told(renamed)
    assert list(rows)[:2] == [f"{one} (the name of its file)" for one in names[1:]]
    assert after[0].startswith(f"2 models have these keys and shapes ({', '.join(names[1:])})")


def test_a_shipped_file_is_known_by_its_digest(told, tmp_path):
    path = shutil.copy(zoo()[STANDARD].weights_path, tmp_path / "x.safetensors")
    _, rows, after = told(path)
    assert next(iter(rows)) == f"{STANDARD} (the same file)"
    assert after == [f"to attack it as {STANDARD}:", f"  segrobust evaluate {STANDARD} {path}"]


def test_a_function_of_ones_own(told, tmp_path, monkeypatch):
    (tmp_path / "inspected_net.py").write_text(
        "from torch import nn\n\n\ndef build():\n    return nn.Sequential(nn.Conv2d(3, 3, 1))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    weights = {
        f"model.{key}": value for key, value in torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1)).state_dict().items()
    }
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": weights, "epoch": 4, "global_step": 9, "pytorch-lightning_version": "2.4.0"}, path)
    facts, rows, after = told(path, "--model", f"{tmp_path}/inspected_net.py:build")
    assert (facts["prefixes"], facts["global_step"], facts["pytorch-lightning_version"]) == ("model.", "9", "2.4.0")
    assert rows == {f"{tmp_path}/inspected_net.py:build": ["yes", "2", "0", "0", "0"]}
    assert after[0].endswith("(--mean and --std, where it was trained with any, belong to it):")
    assert after[1] == f"  segrobust evaluate {tmp_path}/inspected_net.py:build {path} --data FOLDER --num-classes K"
    _, rows, after = told(path)
    assert rows == {} and after[0] == "no shipped or published model shares a key with it"
    assert after[1] == "no model here takes it; name the config or the function that makes its network:"
    assert after[2] == f"  segrobust checkpoint inspect {path} --model my_net.py:build"


def test_torchvisions_file_gives_the_line_of_its_config(told, tmp_path):
    from torchvision.models import get_model

    state = get_model("lraspp_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=4).state_dict()
    torch.save({"model": state, "epoch": 29}, tmp_path / "w.pth")
    line = 'model = dict(type="TorchvisionSegmenter", arch="lraspp_mobilenet_v3_large", num_classes=4)'
    facts, rows, after = told(tmp_path / "w.pth")
    assert rows[line][0] == "yes" and facts["epoch"] == "29"
    assert after[:2] == ["to attack it: this model in a config beside data of its classes:", f"  {line}"]


def test_both_kinds_of_weights_and_each_converted(told, world, tmp_path, capsys):
    raw = load_file(world.weights)
    ema = {f"module.{key}": value + 1 for key, value in raw.items()}
    path = tmp_path / "w.pth"
    torch.save({"model": raw, "model_ema": {**ema, "n_averaged": torch.tensor(5)}}, path)
    facts, _, _ = told(path)
    assert facts["weights"] == "raw"
    assert facts["other weights"] == "averaged (EMA), in model_ema; --weights ema takes them"
    for kind, weights in {"raw": raw, "ema": {key: value + 1 for key, value in raw.items()}}.items():
        target = tmp_path / f"{kind}.safetensors"
        assert main(["checkpoint", "convert", str(path), str(target), "--weights", kind]) == 0
        assert equal(load_file(target), weights)


def test_the_same_for_programs(world, tmp_path, capsys):
    assert main(["checkpoint", "inspect", str(world.weights), "--json", "--model", str(world.config)]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["sha256"] == hashlib.sha256(world.weights.read_bytes()).hexdigest()
    assert content["format"] == "safetensors" and content["outputs"] == {"decode_head.conv_seg": 3}
    best, other, *_ = content["models"]
    tensors = content["tensors"]
    assert best == {"name": str(world.config), "kind": "given", "fits": True, "match": tensors, "missing": 0,
                    "unexpected": 0, "other_shape": 0, "misfit": "", "hint": ""}  # fmt: skip
    assert not other["fits"] and other["misfit"]
    command = f"segrobust evaluate {shlex.quote(str(world.config))} {shlex.quote(str(world.weights))}"
    assert content["next"] == [{"why": f"to attack it as {world.config}", "command": command}]


def test_a_diverged_training_is_not_sent_on(told, world, tmp_path):
    weights = load_file(world.weights)
    weights["decode_head.conv_seg.bias"][:] = float("nan")
    save_file(weights, tmp_path / "x.safetensors")
    facts, _, after = told(tmp_path / "x.safetensors", "--model", world.config)
    assert facts["not finite"] == "1: decode_head.conv_seg.bias"
    assert after[0].startswith("no model takes NaN or infinity") and not any("evaluate" in line for line in after)


def test_names_in_a_file_cannot_steer_the_terminal(tmp_path, capsys):
    path, escape = tmp_path / "w.pth", "\x1b[31m"
    content = {"state_dict": {f"[bold]{escape}a.weight": torch.ones(1)}, "epoch": f"{escape}3", f"x{escape}": 1}
    torch.save({**content, "meta": {"CLASSES": [f"road{escape}", "[red]car"]}}, path)
    assert main(["checkpoint", "inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\\x1b[31m" in out and "[bold]" in out
    assert "classes: 2: road\\x1b[31m, [red]car\n" in out


def damaged(kind: str, tmp_path: Path, world) -> Path:
    path = tmp_path / "x.pth"
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("these are no weights\n")
    elif kind == "truncated torch.save":
        torch.save(load_file(world.weights), path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "truncated safetensors":
        path.write_bytes(world.weights.read_bytes()[:-100])
    return path


@pytest.mark.parametrize("command", ["inspect", "convert"])
@pytest.mark.parametrize(
    ("kind", "words"),
    [("missing", "no such file"), ("folder", "folder"), ("empty", "the file is empty"),
     ("text", "this is no checkpoint"), ("truncated torch.save", "damaged, incomplete"),
     ("truncated safetensors", "damaged, incomplete")],
)  # fmt: skip
def test_what_cannot_be_read_is_told_in_one_line(kind, words, command, world, tmp_path, capsys):
    path = damaged(kind, tmp_path, world)
    assert main(["checkpoint", command, str(path)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and words in said.err and "x.pth" in said.err
    assert not path.with_suffix(".safetensors").exists()


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_a_pickle_that_runs_code_is_refused_and_read_only_where_it_is_trusted(command, tmp_path, capsys):
    path, marker = tmp_path / "x.pth", tmp_path / "it ran"
    content = {"state_dict": {"a.weight": torch.ones(2)}, "payload": Payload(marker)}
    torch.save(content, path)
    assert main(["checkpoint", command, str(path)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "could run any program" in said.err
    assert not marker.exists() and not (tmp_path / "x.safetensors").exists()
    path.write_bytes(pickle.dumps(content))
    assert main(["checkpoint", command, str(path)]) == 2 and not marker.exists()
    torch.save(content, path)
    assert main(["checkpoint", command, str(path), "--trust-checkpoint"]) == 0
    assert marker.exists()  # that is what trust means
    if command == "inspect":
        after = capsys.readouterr().out.splitlines()[-3:]
        assert after[0].endswith(" --model my_net.py:build --trust-checkpoint")
        assert after[2] == f"  segrobust checkpoint convert {path} {tmp_path / 'x.safetensors'} --trust-checkpoint"
    if command == "convert":
        assert equal(load_file(tmp_path / "x.safetensors"), {"a.weight": torch.ones(2)})


def test_nothing_is_overwritten(world, tmp_path, capsys):
    target = tmp_path / "x.safetensors"
    target.write_bytes(b"mine")
    assert main(["checkpoint", "convert", str(world.weights), str(target)]) == 2
    assert "exists already" in capsys.readouterr().err and target.read_bytes() == b"mine"
    assert main(["checkpoint", "convert", str(world.weights)]) == 2


def test_weights_of_others_fit_the_example_that_loads_them(told, repository, monkeypatch):
    shared = Path(os.environ.get("SEGROBUST_SHARED", repository.parent / "shared" / "data"))
    path = shared / "real" / "weights" / "enet_camvid" / "ENet_default"
    if not path.is_file():
        pytest.skip(f"{path} is not here: weights of others are not in the repository")
    example = repository / "examples" / "own_network"
    monkeypatch.syspath_prepend(example)
    models = [f"{example}/enet_camvid.py:build", f"{example}/enet_dabnet_cityscapes.py:enet"]
    facts, rows, _ = told(path, "--model", *models)
    assert facts["parameters"] == "359,780" and rows[models[0]] == ["yes", "554", "0", "0", "0"]
    assert rows[models[1]][0] == "no"
