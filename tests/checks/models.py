"""Honest models, and models whose robustness or scores must not be believed; also a script, for several processes."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segrobust.attacks.base import Problem
from segrobust.attacks.bounded import CEPGD
from segrobust.attacks.gradient_attack import start_at_random
from segrobust.models.segmenter import Segmenter
from tests.attacks.toys import PixelLinear, SmallNet
from tests.runs.toy_run import K, ToySource


class Changed(nn.Module):
    """A network behind a change of its input and of its output."""

    def __init__(
        self,
        before: Callable[[Tensor], Tensor] = lambda images: images,
        after: Callable[[Tensor], Tensor] = lambda logits: logits,
        net: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.net, self.before, self.after = net or SmallNet(K), before, after

    def forward(self, images: Tensor) -> Tensor:
        return self.after(self.net(self.before(images)))


class LearningNorm(nn.BatchNorm2d):
    """Batch normalisation that uses and updates batch statistics even in eval mode."""

    def forward(self, features: Tensor) -> Tensor:
        return F.batch_norm(features, self.running_mean, self.running_var, self.weight, self.bias, True)


class Straightforward(nn.Module):
    """Switches itself to training mode in every forward."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.drop = SmallNet(K), nn.Dropout(0.0)

    def forward(self, images: Tensor) -> Tensor:
        self.drop.train()
        return self.drop(self.net(images))


class TwoPaths(nn.Module):
    """Another scale wherever a gradient is wanted."""

    def __init__(self) -> None:
        super().__init__()
        self.net = SmallNet(K)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images if images.requires_grad else images * 0.7)


def quantised(images: Tensor) -> Tensor:
    return (images * 15).round() / 15


def straight_through(images: Tensor) -> Tensor:
    return images + (quantised(images) - images).detach()


def misleading(images: Tensor) -> Tensor:
    """The images, with a gradient that points the wrong way."""
    return 2 * images.detach() - images


def blinded(images: Tensor) -> Tensor:
    """NaN in place of a bright image."""
    return images.masked_fill(images.mean((1, 2, 3), keepdim=True) > 0.9, float("nan"))


def noisy(images: Tensor) -> Tensor:
    return images + 0.1 * torch.randn_like(images)


def noisy_by_numpy(images: Tensor) -> Tensor:
    return images + 0.1 * torch.from_numpy(np.random.standard_normal(images.shape)).to(images)


def noisy_by_python(images: Tensor) -> Tensor:
    return images * random.uniform(0.5, 1)


class NoisyByItsOwn(nn.Module):
    """Noise from a generator that no seed of a run reaches; a little of it is what a GPU's sums do."""

    def __init__(self, size: float = 0.1) -> None:
        super().__init__()
        self.net, self.source, self.size = SmallNet(K), np.random.default_rng(0), size

    def forward(self, images: Tensor) -> Tensor:
        noise = torch.from_numpy(self.source.standard_normal(images.shape)).to(images)
        return self.net(images + self.size * noise)


class NoisyGradient(nn.Module):
    """A forward that repeats and a backward that does not, as that of bilinear upsampling on a GPU."""

    def __init__(self, size: float = 1e-6) -> None:
        super().__init__()
        self.net, self.source, self.size = SmallNet(K), np.random.default_rng(0), size

    def forward(self, images: Tensor) -> Tensor:
        if images.requires_grad:
            images = images * 1.0
            images.register_hook(self.disturbed)
        return self.net(images)

    def disturbed(self, slope: Tensor) -> Tensor:
        noise = torch.from_numpy(self.source.standard_normal(slope.shape)).to(slope)
        return slope + self.size * slope.abs().amax() * noise


def purified(images: Tensor) -> Tensor:
    """One step towards a flatter image by autograd."""
    with torch.enable_grad():
        points = images.detach().requires_grad_()
        (slope,) = torch.autograd.grad(F.avg_pool2d(points, 2).square().sum(), points)
    return images - 0.01 * slope


def with_norm(norm: nn.Module) -> nn.Module:
    net = SmallNet(K)
    net.norm = norm
    return net


BAD: dict[str, Callable[[], nn.Module]] = {
    "quantised": lambda: Changed(before=quantised),
    "straight_through": lambda: Changed(before=straight_through),
    "saturated": lambda: Changed(after=lambda logits: 1e4 * logits),
    "noisy": lambda: Changed(before=noisy),
    "noisy_by_numpy": lambda: Changed(before=noisy_by_numpy),
    "noisy_by_python": lambda: Changed(before=noisy_by_python),
    "noisy_by_its_own": NoisyByItsOwn,
    "purified": lambda: Changed(before=purified),
    "detached": lambda: Changed(after=Tensor.detach),
    "probabilities": lambda: Changed(after=lambda logits: logits.softmax(1)),
    "sigmoid": lambda: Changed(after=torch.sigmoid),
    "batch_dependent": lambda: Changed(after=lambda logits: logits + 3 * logits.mean((0, 2, 3), keepdim=True)),
    "batch_statistics": lambda: with_norm(nn.BatchNorm2d(8, track_running_stats=False)),
    "learning_norm": lambda: with_norm(LearningNorm(8)),
    "training_mode": Straightforward,
    "two_paths": TwoPaths,
    "blinded": lambda: Changed(before=blinded),
}
HONEST: dict[str, Callable[[], nn.Module]] = {"small": lambda: SmallNet(K), "linear": lambda: PixelLinear(K)}
INEXACT: dict[str, Callable[[], nn.Module]] = {  # honest too, but no two runs of an attack are equal
    "noisy_forward": lambda: NoisyByItsOwn(1e-6),
    "noisy_gradient": NoisyGradient,
}


def segmenter(name: str, **more: object) -> Segmenter:
    return Segmenter.wrap((BAD | HONEST | INEXACT)[name](), num_classes=K, name=name, **more).eval()


if __name__ == "__main__":
    from segrobust.commands.evaluation import evaluate

    torch.set_num_threads(1)
    source = ToySource()
    source[4].image.fill_(1)  # of the second batch
    evaluate(segmenter(sys.argv[2]), source, ["CEPGD"], ["8/255"], work_dir=sys.argv[1], steps=3, batch_size=3)


@dataclass(frozen=True, kw_only=True)
class Forgetful(CEPGD):
    """Searches, and returns where it began."""

    def run(self, problem: Problem) -> tuple[Tensor, Tensor]:
        super().run(problem)
        start = start_at_random(self, problem, 0, 1.0)
        return start, problem.engine.measure(start).error
