"""Gradients that repeat bit for bit on a GPU, and what a run says of a model whose gradients do not."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segrobust import Segmenter, load_segmenter
from segrobust.checks.verdicts import NOT_TRUSTWORTHY
from segrobust.commands.evaluation import evaluate
from segrobust.datasets.source import Sample
from segrobust.models.deterministic import deterministic
from segrobust.models.segmenter import frozen_eval
from segrobust.runs.folder import RunFolder
from tests.attacks.toys import batch
from tests.gpu.runs import identity
from tests.runs.toy_run import RUN, K, ToySource, lines, toy_model

HONEST = {"attacks": ["TsallisPGD", "ALMAProx"], "steps": 40, "checks": True}  # enough for attacks to do their work
SHIPPED = ("camvid-fpn-r18w24-std-180x240", "camvid-fpn-r18w24-pgdat-linf4-180x240")


def gradients(model, images, count=3):
    with frozen_eval(model):
        for _ in range(count):
            points = images.detach().requires_grad_()
            logits = model(points)
            weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(6)).to(logits)
            yield torch.autograd.grad(logits, points, weights)[0]


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("name", SHIPPED)
def test_gradients_of_the_shipped_models_repeat(device, name):
    """With plain upsampling they do not: its backward adds in whatever order the threads arrive."""
    model = load_segmenter(name, device=device)
    images = torch.rand(8, 3, 180, 240, generator=torch.Generator().manual_seed(5)).to(device)
    with deterministic(device):
        first, *others = gradients(model, images)
    assert first.abs().max() > 0
    assert all(torch.equal(first, other) for other in others)
    (plain,) = gradients(model, images, 1)
    assert (first - plain).norm() <= 1e-3 * plain.norm()


@pytest.mark.parametrize("net", ["deeplabv3_resnet50", "lraspp_mobilenet_v3_large"])
def test_gradients_of_torchvisions_networks_repeat(device, net):
    from torchvision.models import segmentation

    torch.manual_seed(0)
    model = getattr(segmentation, net)(weights=None, weights_backbone=None, num_classes=K)
    model = Segmenter.wrap(model, num_classes=K, mean=(0.5,) * 3, std=(0.25,) * 3).to(device).eval()
    images = torch.rand(2, 3, 129, 161, generator=torch.Generator().manual_seed(5)).to(device)
    with deterministic(device):
        first, *others = gradients(model, images)
    assert first.abs().max() > 0 and all(torch.equal(first, other) for other in others)


class Bicubic(nn.Module):
    """Upsamples by splines, whose backward has no deterministic form."""

    def __init__(self) -> None:
        super().__init__()
        self.net = toy_model().net
        self.num_classes = K

    def forward(self, images):
        half = F.avg_pool2d(images, 2)
        return self.net(F.interpolate(half, images.shape[2:], mode="bicubic", align_corners=False))


@pytest.fixture(scope="module")
def of_splines(device, tmp_path_factory):
    folder = tmp_path_factory.mktemp("splines") / "run"
    source = ToySource(16)
    for place in range(16):  # its own predictions, but for a few pixels
        images, labels = batch(Bicubic(), count=1, size=24, seed=place)
        source.samples[place] = Sample(images[0], labels[0], f"{place}")
    model = Segmenter.wrap(Bicubic(), num_classes=K, name="splines").eval().to(device)
    evaluate(model, source, work_dir=folder, **{**RUN, **HONEST})
    return folder


def test_what_does_not_repeat_is_named(of_splines, device):
    told = identity(of_splines).get("repeatable", "yes")
    if device.type == "cpu":
        assert told == "yes"
    else:  # unless all sums came out equal by chance
        assert told == "yes" or (told.startswith("no (") and "bicubic" in told)
    page = (of_splines / "report.html").read_text()
    assert told == "yes" or "bicubic" in page


def test_what_does_not_repeat_is_no_reason_for_distrust(of_splines):
    checks = json.loads((of_splines / "checks.json").read_text())
    failed = [one["name"] for one in checks["checks"] if one["verdict"] == "fail"]
    assert "void ignored" not in failed and "deterministic forward" not in failed
    assert checks["trust"] != NOT_TRUSTWORTHY, failed


def test_without_determinism_the_run_ends_and_says_so(scenes, tmp_path):
    folder = scenes.evaluate(tmp_path / "fast", "--no-deterministic", attacks=("tsallis-pgd",))
    assert identity(folder)["deterministic"] is False
    assert len(lines(folder)) == 2 * 8
    plain = scenes.evaluate(tmp_path / "plain", attacks=("tsallis-pgd",))
    assert identity(plain).get("deterministic", True) is True
    right = [
        [sum(row.counts["tp"]) for row in RunFolder(run).rows() if row.condition.name == "clean"]
        for run in (folder, plain)
    ]
    assert len(right[0]) == 8  # up to rounding the forwards are the same
    assert all(abs(one - other) <= 3 for one, other in zip(*right, strict=True))
