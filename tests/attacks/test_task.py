"""An attack knows labels and logits through the task alone: a task of the test's own, depth, needs no other change."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from segrobust.attacks import build_attack
from segrobust.attacks.segmentation import Segmentation

EPS = 0.1
FAR = 0.08  # an error of the depth from which on a pixel is at the goal


class Depth(nn.Module):
    """Depth ``[N, 1, H, W]``, linear in each pixel's channels."""

    weights = torch.tensor([0.5, -0.25, 0.25]).view(1, 3, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        return (images * self.weights).sum(1, keepdim=True)


@dataclass(frozen=True)
class DepthGoal:
    """Every valid depth is to be wrong by ``FAR``."""

    depth: Tensor
    valid: Tensor
    mask: Tensor | None = None
    targeted: bool = False

    @property
    def judged(self) -> Tensor:
        return self.valid

    @property
    def pixels(self) -> Tensor:
        return self.valid.flatten(1).sum(1)

    def subset(self, rows: Tensor) -> DepthGoal:
        return replace(self, depth=self.depth[rows], valid=self.valid[rows])

    def share(self, reached: Tensor) -> Tensor:
        return reached.flatten(1).sum(1) / self.pixels.clamp_min(1)

    def restrict(self, points: Tensor, clean: Tensor) -> Tensor:
        return points

    def check(self, logits: Tensor) -> None:
        assert logits.shape[1] == 1

    def measure(self, logits: Tensor, memory) -> tuple[Tensor, Tensor]:
        error = (logits[:, 0] - self.depth).abs() * self.valid
        return error.flatten(1).sum(1), error > FAR

    def logit_gradient(self, logits, weight, progress, sharpness, memory):
        away = torch.where(logits[:, 0] >= self.depth, 1.0, -1.0) * self.valid
        return away.unsqueeze(1), self.measure(logits, memory)


class DepthTask:
    def goal(self, images, labels, targets, targeted, mask=None) -> DepthGoal:
        return DepthGoal(labels / 100, labels >= 0)


@pytest.mark.parametrize("name", ["FGSM", "DDN"])
def test_depth_enters_by_a_task_of_its_own(name):
    images = torch.full((2, 3, 4, 4), 0.5)
    labels = torch.full((2, 4, 4), 25)  # the depth of every pixel in hundredths
    labels[:, 0] = -1  # unknown
    attack = build_attack("FGSM", eps=EPS) if name == "FGSM" else build_attack("DDN", steps=100)
    result = attack(Depth(), images, labels, task=DepthTask())
    delta = result.images - images
    assert result.found.all() and (result.pixel_error == 1).all() and not delta[:, :, 0].any()
    if name == "FGSM":  # the farthest that a depth can go: eps times the weights' length in L1
        assert torch.allclose((Depth()(delta)[:, 0, 1:]).abs(), torch.tensor(EPS * 1.0), atol=1e-6)
    else:  # the nearest image whose depths are all wrong enough: along the weights
        nearest = FAR / Depth.weights.norm() * 12**0.5
        assert (result.distance >= nearest * (1 - 1e-5)).all() and (result.distance < 1.02 * nearest).all()


def test_counts_and_the_goal_agree_about_segmentation():
    """Untargeted, what is at the goal is what the counts call false negatives; void and targets leave pixels out."""
    generator = torch.Generator().manual_seed(0)
    prediction, labels, targets = torch.randint(4, (3, 2, 6, 7), generator=generator)
    labels[0, :2], targets[:, :, 3] = 255, 255
    task = Segmentation(num_classes=4, ignore_index=255)
    counts, (reached, judged) = task.counts(prediction, labels), task.at_goal(prediction, labels)
    assert reached.tolist() == [sum(one["fn"]) for one in counts]
    assert judged.tolist() == [sum(one["fn"]) + sum(one["tp"]) for one in counts] == [28, 42]
    counted = (labels != 255) & (targets != 255)
    reached, judged = task.at_goal(prediction, labels, targets)
    assert judged.tolist() == counted.flatten(1).sum(1).tolist() == [24, 36]
    assert reached.tolist() == [int((p[c] == t[c]).sum()) for p, t, c in zip(prediction, targets, counted, strict=True)]


def test_several_predictions_may_be_of_one_image():
    labels = torch.tensor([[[0, 1, 255]]])
    predictions = torch.tensor([[[0, 0, 0]], [[1, 0, 0]], [[0, 1, 1]]])
    reached, judged = Segmentation(2).at_goal(predictions, labels)
    assert (reached.tolist(), judged.tolist()) == ([1, 2, 0], [2, 2, 2])
