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
COMMANDS = re.findall(r"^segrobust (evaluate .*)$", README, re.MULTILINE)
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
