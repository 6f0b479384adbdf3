"""A model that surely has an adversarial example within the radius, and looks like the model under test all the same.

After Zimmermann et al. (2022, "Increasing confidence in adversarial robustness evaluations", arXiv 2206.13991): the
last layer is replaced by a linear one that separates the clean image from one point on the sphere of the radius. An
attack that does not find that point or another of its class is too weak for the model's other layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segrobust.attacks.base import Attack
from segrobust.models.segmenter import frozen_eval

INNER = 8  # random points within the radius that must keep the clean image's class
SHARPNESS = 8.0


class Planted(nn.Module):
    """Two classes for the whole image: 0 near the clean image, 1 towards the planted point.

    The last layer is linear in the model's logits: their part along the way from the clean image (0) to the planted
    point (1), minus a threshold between what the random inner points reach and 1.
    """

    num_classes = 2

    def __init__(self, model: nn.Module, image: Tensor, attack: Attack, seed: int) -> None:
        super().__init__()
        self.model = model
        with torch.no_grad(), frozen_eval(model):
            self.start = model(image).float()
            way = model(_points(image, attack, seed, 1, on_sphere=True)).float() - self.start
            length = float(way.square().sum())
            self.axis = way / max(length, torch.finfo(torch.float32).tiny)
            inner = [self.position(model(one[None]).float()) for one in _points(image, attack, seed + 1, INNER)]
        highest = max(map(float, inner))
        self.hidden = length > 0 and highest < 1  # else there is no such point, or every noise finds one
        self.threshold = (highest + 1) / 2

    def position(self, logits: Tensor) -> Tensor:
        """How far the logits ``[N, K, H, W]`` are on the way, ``[N]``."""
        return ((logits - self.start) * self.axis).flatten(1).sum(1)

    def forward(self, images: Tensor) -> Tensor:
        score = SHARPNESS * (self.position(self.model(images)) - self.threshold)
        planes = torch.stack([torch.zeros_like(score), score], 1)
        return planes[:, :, None, None].expand(-1, -1, *images.shape[-2:])


def _points(image: Tensor, attack: Attack, seed: int, count: int, on_sphere: bool = False) -> Tensor:
    """Random points of the ball, or of its surface as far as the box allows."""
    generators = [torch.Generator().manual_seed(seed + n) for n in range(count)]
    copies, eps = image.repeat(count, 1, 1, 1), image.new_full((count,), attack.eps)
    if not on_sphere:
        return attack.threat.random_start(copies, eps, generators)
    noise = torch.stack([torch.randn(image.shape[1:], generator=one) for one in generators]).to(image)
    return attack.threat.project(copies + attack.threat.step(copies, noise, eps), copies, eps)
