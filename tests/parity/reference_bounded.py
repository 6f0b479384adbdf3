"""PGD and APGD with the losses of SegPGD, CosPGD, masked and Tsallis cross-entropy, step by step, for one image.

Written from the formulas alone, in float64, with autograd through each published loss; nothing of the package is used.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F


def cross_entropy(logits, labels, progress):
    return F.cross_entropy(logits, labels, reduction="none")


def segpgd(logits, labels, progress):
    late = progress / 2
    share = torch.where(logits.argmax(1) == labels, 1 - late, late)
    return share * F.cross_entropy(logits, labels, reduction="none")


def cospgd(logits, labels, progress):
    onehot = F.one_hot(labels, logits.shape[1]).permute(0, 3, 1, 2).to(logits.dtype)
    cosine = F.cosine_similarity(logits.softmax(1), onehot, dim=1)
    return cosine.detach() * F.cross_entropy(logits, labels, reduction="none")


def masked(logits, labels, progress):
    return (logits.argmax(1) == labels) * F.cross_entropy(logits, labels, reduction="none")


def tsallis(logits, labels, progress):
    q = -2 + 3 * progress
    p = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    return (1 - p ** (1 - q)) / (1 - q)


LOSSES = {"CEPGD": cross_entropy, "SegPGD": segpgd, "CosPGD": cospgd, "MaskedPGD": masked, "TsallisPGD": tsallis}


@dataclass
class Trajectory:
    """Of the points in the order in which the network sees them."""

    points: list = field(default_factory=list)
    losses: list = field(default_factory=list)  # mean cross-entropy over the valid pixels
    errors: list = field(default_factory=list)  # share of the valid pixels that are wrong
    sizes: list = field(default_factory=list)  # of the step from each point to the next
    kept: torch.Tensor | None = None  # what is returned

    def add(self, points, loss, error):
        self.points.append(points)
        self.losses.append(loss)
        self.errors.append(error)


def look(network, points, labels, valid, loss, progress):
    points = points.detach().requires_grad_()
    logits = network(points)
    (gradient,) = torch.autograd.grad((loss(logits, labels, progress) * valid).sum(), points)
    tracked = (F.cross_entropy(logits, labels, reduction="none") * valid).sum() / valid.sum()
    error = ((logits.argmax(1) != labels) & valid).sum() / valid.sum()
    return gradient, tracked.item(), error.item()


def clip(points, clean, eps):
    return (clean + (points - clean).clamp(-eps, eps)).clamp(0, 1)


def pgd(network, clean, labels, valid, start, eps, step_size, steps, loss):
    found, points = Trajectory(), start
    for step in range(steps):
        gradient, tracked, error = look(network, points, labels, valid, loss, step / steps)
        found.add(points, tracked, error)
        found.sizes.append(step_size)
        points = clip(points + step_size * gradient.sign(), clean, eps)
    found.add(points, *look(network, points, labels, valid, loss, 0.0)[1:])
    found.kept = points
    return found


class LookBacks:
    """When APGD halves its step size: asked after every iterate.

    The losses of the iterates after the start are numbered 0, 1, ...; a look back counts how often one exceeds that
    before it. For number 0 AutoAttack's code takes the last, still empty place of its list, a zero; that of
    TsallisPGD skips a look back that reaches so far.
    """

    def __init__(self, steps, start_loss, halves_first=True):
        self.steps, self.halves_first = steps, halves_first
        self.history = [0.0] * steps
        self.best_before, self.halved_before = start_loss, True
        self.window, self.since = max(int(0.22 * steps), 1), 0

    def halve(self, i, loss, best_loss):
        self.history[i] = loss
        self.since += 1
        if self.since < self.window:
            return False
        increases = sum(self.history[i - n] > self.history[i - n - 1] for n in range(self.window))
        oscillates = increases <= 0.75 * self.window and (self.halves_first or i - self.window >= 0)
        halve = oscillates or (not self.halved_before and self.best_before >= best_loss)
        self.halved_before, self.best_before, self.since = halve, best_loss, 0
        self.window = max(self.window - max(int(0.03 * self.steps), 1), max(int(0.06 * self.steps), 1))
        return halve


def apgd(network, clean, labels, valid, start, eps, steps, loss, handover="error", halves_first=True):
    """One run at one radius; the best iterate by ``handover`` is kept, of equals the latest."""
    found, points = Trajectory(), clip(start, clean, eps)
    gradient, tracked, error = look(network, points, labels, valid, loss, 0.0)
    previous, size = points, 2 * eps
    best, best_gradient, best_loss = points, gradient, tracked
    fewest_right, most_wrong = points, error
    control = LookBacks(steps, tracked, halves_first)
    found.add(points, tracked, error)
    for i in range(steps):
        found.sizes.append(size)
        a = 0.75 if i > 0 else 1.0
        ahead = clip(points + size * gradient.sign(), clean, eps)
        ahead = clip(points + a * (ahead - points) + (1 - a) * (points - previous), clean, eps)
        previous, points = points, ahead
        gradient, tracked, error = look(network, points, labels, valid, loss, (i + 1) / steps)
        found.add(points, tracked, error)
        if error >= most_wrong:
            fewest_right, most_wrong = points, error
        if tracked >= best_loss:
            best, best_gradient, best_loss = points, gradient, tracked
        if control.halve(i, tracked, best_loss):
            size /= 2
            points, gradient = best, best_gradient
    found.kept = fewest_right if handover == "error" else best
    return found


def with_radius_reduction(network, clean, labels, valid, start, eps, steps, loss, handover="error", halves_first=True):
    """Stages at 2, 1.5 and 1 times eps; all but the last hand over by ``handover``, the last one's best by error."""
    lengths = [int(0.3 * steps), int(0.3 * steps)]
    lengths.append(steps - sum(lengths))
    whole, points = Trajectory(), start
    for factor, length in zip((2, 1.5, 1), lengths, strict=True):
        kind = "error" if factor == 1 else handover
        run = apgd(network, clean, labels, valid, points, factor * eps, length, loss, kind, halves_first)
        for name in ("points", "losses", "errors", "sizes"):
            getattr(whole, name).extend(getattr(run, name))
        points = whole.kept = run.kept
    return whole
