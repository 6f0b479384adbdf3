"""One look at the model: five passes per image, from which most checks of the contract and the gradient are read."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segrobust.attacks.gradient import Engine, ModelError
from segrobust.attacks.segmentation import Goal
from segrobust.checks.context import Context, once
from segrobust.checks.verdicts import Skip
from segrobust.core.precision_names import FLOAT32
from segrobust.models.digests import state_digests
from segrobust.models.expectation import drawing
from segrobust.models.precision import IEEE, computing_in, products
from segrobust.models.segmenter import frozen_eval
from segrobust.studies.bench import Group

CHANGED_PERCENT = 0.01  # of the pixels: more than rounding explains
RELATIVE = 1e-3  # of the logits


@dataclass
class Difference:
    """Between the logits of two forwards that should be equal: pixels of another class, and how far they differ.

    largest: difference of logits, relative to the largest of them; inf where they are not finite.
    """

    changed: int = 0
    pixels: int = 0
    largest: float = 0.0

    def add(self, one: Tensor, other: Tensor) -> None:
        self.changed += int((one.argmax(1) != other.argmax(1)).sum())
        self.pixels += one[:, 0].numel()
        scale = one.abs().amax().clamp_min(torch.finfo(one.dtype).tiny)
        largest = float((one - other).abs().amax() / scale)
        self.largest = max(self.largest, largest) if largest == largest else float("inf")

    @property
    def percent(self) -> float:
        return 100 * self.changed / max(self.pixels, 1)

    @property
    def beyond_rounding(self) -> bool:
        return self.percent > CHANGED_PERCENT or self.largest > RELATIVE

    def beyond(self, other: Difference, factor: float) -> bool:
        """Whether it is more than ``factor`` times another in what is beyond rounding."""
        changed = self.percent > max(CHANGED_PERCENT, factor * other.percent)
        return changed or self.largest > max(RELATIVE, factor * other.largest)


@dataclass
class Probe:
    """What the passes showed.

    repeated, alone, attacked: the report's forward against itself, against each image in a batch of its own (or, a
        lone image, against a batch with its mirror image), and against the forward that attacks differentiate.
    seeded: where two forwards differ, two under one seed of all global generators.
    bounded: pixels with all logits inside [0, 1].
    still: valid pixels without any input gradient; ``saturated``: those whose cross-entropy has no gradient even with
        respect to the logits.
    broken: what the attack's forward or gradient failed with.
    dtypes: floating types of what the operations inside a forward give, whatever the logits are cast to at its end.
    rounded: how the model lets float32 products be rounded inside its forward, such as ``"tf32"``.
    sampled, differentiated: operations and generators that random numbers come from, and whether autograd records
        inside the forward.
    training: modules that a forward left in training mode.
    """

    repeated: Difference = field(default_factory=Difference)
    seeded: Difference = field(default_factory=Difference)
    alone: Difference = field(default_factory=Difference)
    attacked: Difference = field(default_factory=Difference)
    bounded: int = 0
    pixels: int = 0
    valid: int = 0
    still: int = 0
    saturated: int = 0
    dtypes: set[str] = field(default_factory=set)
    rounded: set[str] = field(default_factory=set)
    broken: str = ""
    sampled: set[str] = field(default_factory=set)
    differentiated: bool = False
    training: list[str] = field(default_factory=list)
    changed_state: list[str] = field(default_factory=list)


@once
def probe(context: Context) -> Probe:
    """Look at the model on the context's groups."""
    seen, before = Probe(), state_digests(context.model)
    for group in context.groups:
        draws = drawing((context.bench.seed, *group.ids), context.bench.device)  # known, each forward its own
        with frozen_eval(context.model), draws, computing_in(FLOAT32, context.bench.device):
            _forwards(context, group, seen)
            _gradient(context, group, seen)
            seen.training += [name or "the model" for name, part in context.model.named_modules() if part.training]
    after = state_digests(context.model)
    seen.changed_state = [name for name in before if before[name] != after[name]]
    seen.training = sorted(set(seen.training))
    return seen


def _forwards(context: Context, group: Group, seen: Probe) -> None:
    images, model = group.images.float(), context.model
    watch = Watch()
    with torch.no_grad():
        states = _states()
        with watch:
            logits = model(images).float()
        seen.sampled |= {name for name, state in _states().items() if state != states[name]}
        seen.repeated.add(logits, model(images).float())
        if seen.repeated.largest:
            seen.seeded.add(*(_drawn(model, images) for _ in range(2)))
        if len(images) > 1:
            alone = torch.cat([model(image[None]).float() for image in images])
            seen.alone.add(logits, alone)
        else:
            seen.alone.add(logits, model(torch.cat([images, images.flip(-1)]))[:1].float())
    seen.dtypes |= watch.dtypes
    seen.rounded |= watch.rounded
    seen.sampled |= watch.sampled
    seen.differentiated |= watch.differentiated
    bounded = ((logits >= 0) & (logits <= 1)).all(1)
    seen.bounded += int(bounded.sum())
    seen.pixels += bounded.numel()


def _states() -> dict[str, object]:
    """Where the global generators outside torch stand."""
    _, words, position, *_ = np.random.get_state()
    return {"numpy.random": (words.tobytes(), position), "random": random.getstate()}


def _drawn(model: torch.nn.Module, images: Tensor) -> Tensor:
    with drawing((0,), images.device):
        return model(images).float()


def _gradient(context: Context, group: Group, seen: Probe) -> None:
    """The attacks' own forward and gradient of cross-entropy, at the same images."""
    valid = group.labels != context.void
    wanted = group.labels.masked_fill(~valid, 0)
    engine = Engine(context.model, Goal(wanted, valid, highest=int(wanted.max())))

    def ascent(logits: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        slope = logits.softmax(1).scatter_add_(1, wanted.unsqueeze(1), torch.full_like(logits[:, :1], -1))
        slope.mul_(valid.unsqueeze(1))
        return slope, (logits, slope)

    try:
        gradient, (logits, slope) = engine.backward(group.images.float(), ascent)
    except ModelError as error:
        seen.broken = str(error)
        return
    with torch.no_grad():
        seen.attacked.add(context.model(group.images.float()).float(), logits)
    seen.valid += int(valid.sum())
    seen.still += int(((gradient == 0).all(1) & valid).sum())
    seen.saturated += int(((slope == 0).all(1) & valid).sum())


def refuse_random(context: Context, why: str = "") -> None:
    """Skip a check that compares forwards, where two of the same batch differ by more than rounding."""
    if probe(context).repeated.beyond_rounding:
        raise Skip(f"two forwards of the same batch differ already{why}")


class Watch(TorchDispatchMode):
    """Notes the types that a forward without autograd computes in, and what it should not do: let products be rounded,
    draw random numbers, or switch autograd on."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[str] = set()
        self.rounded: set[str] = set()
        self.sampled: set[str] = set()
        self.differentiated = False

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if _draws(operation, args, kwargs or {}):
            self.sampled.add(operation.name().removeprefix("aten::"))
        self.differentiated |= torch.is_grad_enabled()
        self.rounded |= set(products().values()) - {IEEE, "none"}
        given = operation(*args, **(kwargs or {}))
        self.dtypes |= floating_types(tree_leaves(given))
        return given


def _draws(operation: Any, given: Sequence[Any], named: Mapping[str, Any]) -> bool:
    """Whether it draws random numbers as it is called: attention does where its dropout is above 0."""
    if torch.Tag.nondeterministic_seeded not in operation.tags:
        return False
    names = [argument.name for argument in operation._schema.arguments]
    if "dropout_p" not in names:
        return True
    at = names.index("dropout_p")
    return bool(given[at] if at < len(given) else named.get("dropout_p", 0.0))


def floating_types(values: Iterable[object]) -> set[str]:
    """Names, such as ``"bfloat16"``, of the floating types among the tensors of ``values``."""
    tensors = (value for value in values if isinstance(value, Tensor) and value.is_floating_point())
    return {str(tensor.dtype).removeprefix("torch.") for tensor in tensors}
