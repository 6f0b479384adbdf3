"""Do two gradients of one batch agree bit for bit? Asked before a run, in its own contexts; what differs is named.

Only where they differ are both passes made once more, with every operation's inputs and outputs as sums on the device:
an operation whose inputs agree and whose outputs do not is the reason.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segrobust.attacks import weights
from segrobust.attacks.gradient import Engine
from segrobust.attacks.segmentation import Goal
from segrobust.core.errors import UserError
from segrobust.models.deterministic import operation_in
from segrobust.models.segmenter import Segmenter, frozen_eval
from segrobust.runs.executor import Executor
from segrobust.runs.repeatability import FIELD, as_text, merged
from segrobust.studies.attack import AttackStudy
from segrobust.studies.base import Study
from segrobust.studies.bench import Bench, Group
from segrobust.studies.universal import UniversalStudy

IMAGES = 2  # of the first batch
UNWRITTEN = ("empty", "new_empty")  # tensors that nobody has written to hold anything
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_LOG = logging.getLogger(__name__)


def note_repeatable(executor: Executor) -> None:
    """Add to the run's identity whether it repeats, where anything is to be computed; to be called by one process.

    What an earlier start has seen stays, and is no reason to refuse this one: what varies may agree by chance.
    """
    folder = executor.folder
    seen = repeatable(executor.bench, [study for study, _ in executor.missing()])
    run = folder.read_json("run.json")
    known = merged(run["identity"].get(FIELD), seen)
    if known != run["identity"].get(FIELD):
        folder.write_json("run.json", {**run, "identity": {**run["identity"], FIELD: known}})


def repeatable(bench: Bench, studies: Sequence[Study]) -> str | None:
    """``"yes"`` or ``"no (...)"``, see :mod:`segrobust.runs.repeatability`; None where nothing is attacked.

    The models are left as they were. None, too, where a pass fails: the run will meet the same error and tell it.
    """
    gradients = [study for study in studies if isinstance(study, AttackStudy | UniversalStudy)]
    attacked = {getattr(study, "surrogate", None): None for study in gradients}
    if not attacked:
        return None
    try:
        first = range(min(IMAGES, len(bench.source)))
        group = bench.groups({image: bench.source[image] for image in first})[0]
        return as_text(name for surrogate in attacked for name in not_repeating(bench, group, surrogate))
    except (UserError, RuntimeError, MemoryError) as error:
        _LOG.debug("whether gradients repeat was not found out: %s", error)
        return None


def not_repeating(bench: Bench, group: Group, surrogate: Segmenter | None = None) -> list[str]:
    """Names of what keeps two gradients of a group from being equal; none where they are."""
    model = surrogate or bench.model
    with _state_kept(model) as changed:
        first, second = (_gradient(bench, group, surrogate) for _ in range(2))
        if torch.equal(first, second):
            return []
        if names := changed():
            return [f"{name} changes" for name in names]
        return sorted(_reasons(bench, group, surrogate)) or ["an operation that is not known"]


def _reasons(bench: Bench, group: Group, surrogate: Segmenter | None) -> set[str]:
    """The operations that differ between two recorded passes, and those that torch itself has no such form for."""
    recorded: list[list[Step]] = []
    with bench.repeating(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            recorded = [_recorded(bench, group, surrogate) for _ in range(2)]
        except (UserError, RuntimeError, MemoryError) as error:  # it takes more memory, and a mode of torch's
            _LOG.warning("what keeps gradients from repeating was not found out: %s", error)
    alerts = {operation_in(str(one.message)) for one in said} - {""}
    return alerts | (_different(*recorded) if recorded else set())


def _gradient(bench: Bench, group: Group, surrogate: Segmenter | None) -> Tensor:
    """That of cross-entropy at the images, ``[N, 3, H, W]``, as an attack's first step has it; void counts as 0."""
    seeds = bench.seeds(group)
    model = bench.attacked(seeds, surrogate)
    labels = group.labels.masked_fill(group.labels == bench.source.ignore_index, 0)
    goal = Goal(labels, torch.ones_like(labels, dtype=torch.bool), highest=int(labels.max()))
    with bench.attacking(seeds), frozen_eval(model):
        return Engine(model, goal).gradient(group.images.float(), weights.ce, 0.0).gradient


@contextlib.contextmanager
def _state_kept(model: nn.Module) -> Iterator[Any]:
    """The model's buffers come back as they were; yields a function that names those that differ by now."""
    names = {id(part): f"{name}." if name else "" for name, part in model.named_modules()}
    saved = [(part, key, one, one.clone()) for part in model.modules() for key, one in part._buffers.items()
             if one is not None]  # fmt: skip

    def changed() -> list[str]:
        return [f"{names[id(part)]}{key}" for part, key, _, was in saved if not _equal(part._buffers.get(key), was)]

    try:
        yield changed
    finally:
        with torch.no_grad():
            for part, key, own, was in saved:
                if part._buffers.get(key) is not own or not _equal(own, was):
                    part._buffers[key] = own.copy_(was)


def _equal(one: Tensor | None, other: Tensor) -> bool:
    return one is not None and one.shape == other.shape and torch.equal(one, other)


class Step(NamedTuple):
    """One operation: its name, with the module in whose forward it ran, and sums of what it got and gave."""

    name: str
    given: list[Tensor]
    made: list[Tensor]


class _Recorder(TorchDispatchMode):
    """Every operation of a forward and a backward; ``inside`` holds the names of the modules that are at work."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.inside: list[str] = []

    def entering(self, name: str) -> Callable[..., None]:
        return lambda *_: self.inside.append(name)

    def leaving(self, *_: object) -> None:
        self.inside.pop()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = _sums([args, kwargs])
        result = operation(*args, **kwargs)
        name = operation._schema.name.split("::")[-1]
        if not name.startswith(UNWRITTEN):
            place = f" of {self.inside[-1]}" if self.inside and self.inside[-1] else ""
            # what was written in place is among the arguments
            self.steps.append(Step(f"{name}{place}", given, _sums([result, args, kwargs])))
        return result


def _recorded(bench: Bench, group: Group, surrogate: Segmenter | None) -> list[Step]:
    recorder = _Recorder()
    with contextlib.ExitStack() as stack:
        for name, part in (surrogate or bench.model).named_modules():
            stack.callback(part.register_forward_pre_hook(recorder.entering(name)).remove)
            stack.callback(part.register_forward_hook(recorder.leaving, always_call=True).remove)
        with recorder:
            _gradient(bench, group, surrogate)
    return recorder.steps


def _sums(values: Any) -> list[Tensor]:
    """Per tensor one integer ``[]`` of all its bits and their places; addition of integers has no rounding."""
    return [
        _sum(one.detach()) for one in tree_leaves(values) if isinstance(one, Tensor) and one.layout == torch.strided
    ]


def _sum(tensor: Tensor) -> Tensor:
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    bits = tensor.resolve_neg().contiguous().view(-1).view(BITS[tensor.element_size()]).long()
    return (bits * torch.arange(1, len(bits) + 1, device=bits.device)).sum()


def _different(first: Iterable[Step], second: Iterable[Step]) -> set[str]:
    """Names of the operations whose inputs agree and outputs do not; where there are none, what comes from outside
    torch: the first operation whose outputs differ."""
    found, earliest = set(), ""
    for one, other in zip(first, second, strict=False):
        if one.name != other.name:
            return found or {earliest or other.name}
        if _read(one.made) == _read(other.made):
            continue
        earliest = earliest or one.name
        if _read(one.given) == _read(other.given):
            found.add(one.name)
    return found or ({earliest} if earliest else set())


def _read(sums: Sequence[Tensor]) -> list[int]:
    return [int(one) for one in sums]
