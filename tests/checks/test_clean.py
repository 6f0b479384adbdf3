"""A clean score near zero: what was done to images or labels is found, and named with its score."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segrobust.checks.clean import _kappa, clean_plausible
from segrobust.datasets.source import Sample
from segrobust.datasets.survey import Survey
from segrobust.models.segmenter import Segmenter
from tests.checks.looking import context, look

NAMES = ("red", "green", "blue", "yellow", "cyan", "dark", "bright")
COLOURS = torch.tensor([[0.7, 0.3, 0.3], [0.3, 0.7, 0.3], [0.3, 0.3, 0.7], [0.7, 0.7, 0.3], [0.3, 0.7, 0.7],
                        [0.2, 0.2, 0.2], [0.8, 0.8, 0.8]])  # fmt: skip
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
K = len(NAMES)


def nearest_colour(colours: torch.Tensor, contrast: float = 60.0) -> nn.Conv2d:
    """A 1x1 convolution that gives every pixel the class of the nearest colour."""
    net = nn.Conv2d(3, len(colours), 1)
    net.weight.data = contrast * colours[:, :, None, None]
    net.bias.data = -contrast / 2 * colours.square().sum(1)
    return net


def model(colours: torch.Tensor = COLOURS, **more) -> Segmenter:
    return Segmenter.wrap(nearest_colour(colours), num_classes=K, **more).eval()


class Painted:
    """Images of coloured stripes; ``relabel`` says which label stands for a class."""

    num_classes, class_names, ignore_index = K, NAMES, 255
    palette = [(30 * n, 0, 0) for n in range(K)]

    def __init__(self, relabel=lambda truth: truth, names=NAMES, classes: int = K) -> None:
        self.class_names, self.samples = names, []
        for n in range(6):
            truth = (torch.arange(24)[:, None] // 4 + torch.arange(24)[None] // 6 + n) % classes
            noise = 0.1 * torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(n))
            image = (COLOURS[truth].permute(2, 0, 1) + noise - 0.05).clamp(0, 1)
            self.samples.append(Sample(image, relabel(truth), f"{n}"))

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


def plausible(folder, net, source=None, check=clean_plausible, **more):
    source = source or Painted()
    look(net, folder, source, checks=False)
    return check(context(net, folder, source, **more))


def test_a_right_set_up_has_nothing_to_explain(tmp_path):
    found = plausible(tmp_path, model())
    assert found.level == "pass" and found.numbers["before"] > 95 and found.numbers["kappa"] > 0.95
    assert len(found.numbers["tried"]) == 8
    assert found.numbers["tried"]["red and blue swapped"] < 50  # of the seven colours some stay


def shifted(by):
    def relabel(truth):
        moved = truth + by
        return moved.masked_fill((moved < 0) | (moved >= K), 255)

    return relabel


def normalised(colours):
    return (colours - torch.tensor(MEAN)) / torch.tensor(STD)


def norm_net(twice=False, **more):
    """A network for normalised images; ``twice``: that normalises them once more itself.

    Nearest colours hardly care, so each class answers to a narrow range of the normalised values.
    """
    net = Narrow(normalised(COLOURS))
    return Segmenter.wrap(nn.Sequential(Scaled(), net) if twice else net, num_classes=K, **more).eval()


class Narrow(nn.Module):
    """The class whose value of hashed colours is nearest: another range of colours gives other classes."""

    def __init__(self, colours):
        super().__init__()
        self.colours = nn.Parameter(colours)
        self.scale = nn.Parameter(torch.tensor(60.0))

    def forward(self, images):
        far = (images[:, None] - self.colours[None, :, :, None, None]).square().sum(2)
        # beyond the colours that it knows, it answers at random by rounding
        noise = (1e4 * images.sum(1, keepdim=True) * torch.arange(1, K + 1, device=images.device)[:, None, None]).sin()
        return -self.scale * far.clamp_max(0.3) + noise * (far.amin(1, keepdim=True) > 0.3)


class Scaled(nn.Module):
    """Normalises what it is given."""

    def forward(self, images):
        return (images - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


CYCLE = (3, 5, 0, 6, 1, 2, 4)
MISTAKES = [
    ("labels one lower", model(), Painted(shifted(1))),
    ("labels one higher", model(), Painted(shifted(-1))),
    ("classes in reverse order", model(), Painted(lambda truth: K - 1 - truth)),
    ("the labels 3 as 0", model(), Painted(lambda truth: torch.tensor(CYCLE)[truth])),
    ("images normalised by ImageNet's mean and std", norm_net(), None),
    ("ImageNet's mean and std undone", norm_net(mean=MEAN, std=STD, twice=True), None),
    ("images divided by 255", Segmenter.wrap(nearest_colour(COLOURS / 255, 4e6), num_classes=K).eval(), None),
    ("images times 255", Segmenter.wrap(nearest_colour(255 * COLOURS, 1e-3), num_classes=K).eval(), None),
]


@pytest.mark.parametrize(("what", "net", "source"), MISTAKES, ids=[what for what, *_ in MISTAKES])
def test_what_helps_is_named_with_its_score(what, net, source, tmp_path):
    found = plausible(tmp_path, net, source)
    assert found.level == "fail" and found.numbers["mIoU"] < 30
    best = max(found.numbers["tried"], key=found.numbers["tried"].get)
    assert best.startswith(what) and found.numbers["tried"][best] > 80
    assert f"but {found.numbers['tried'][best]:.2f} with {best}"[:-4] in found.evidence and found.remedy


def test_swapped_channels_are_seen_where_some_classes_survive(tmp_path):
    """Of seven colours some stay what they are, so the score is not near zero."""
    found = plausible(tmp_path, model(COLOURS.flip(1)))
    assert found.level == "warn" and found.numbers["mIoU"] > 30 and "with red and blue swapped" in found.evidence


@pytest.mark.parametrize("seed", range(3))
def test_a_random_network_is_chance_and_no_mistake_explains_it(seed, tmp_path):
    torch.manual_seed(seed)
    net = Segmenter.wrap(nn.Conv2d(3, K, 5, padding=2), num_classes=K).eval()
    with torch.no_grad():
        net.net.weight.mul_(0.01)  # which leaves one answer nearly everywhere
    found = plausible(tmp_path, net)
    assert found.level == "warn" and "labelTrainIds" in found.remedy


def test_one_class_and_void(tmp_path):
    """Two classes stored as 0 and 255: every pixel that counts is of class 0, and the score is perfect."""
    found = plausible(tmp_path, model(), Painted(lambda truth: truth.masked_fill(truth > 0, 255)))
    assert found.level == "warn" and "only 'red' and void (255) occur" in found.evidence
    assert found.remedy == "is 255 a class there, such as the foreground?"


def test_void_alone_is_left_open(tmp_path, monkeypatch):
    monkeypatch.setattr("segrobust.commands.evaluation.survey", lambda *_: Survey(""))  # which refuses it at the start
    found = look(model(), tmp_path, Painted(lambda truth: torch.full_like(truth, 255)))["clean score is plausible"]
    assert (found["verdict"], found["open"]) == ("skipped", True) and "nothing was measured" in found["evidence"]


def test_kappa():
    import numpy as np

    right, half = np.array([[50, 0], [0, 50]]), np.array([[25, 25], [25, 25]])
    for confusion, wanted in ((right, 1.0), (half, 0.0), (right[::-1], -1.0), (np.array([[45, 5], [25, 25]]), 0.4)):
        assert _kappa(confusion.diagonal(), confusion.sum(0), confusion.sum(1)) == pytest.approx(wanted)
