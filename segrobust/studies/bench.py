"""Where studies are made: one model, its images in groups of one size, and how predictions are taken and counted."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segrobust.attacks.segmentation import Segmentation, Task
from segrobust.core.groups import of_equal_size
from segrobust.core.precision_names import FLOAT32
from segrobust.core.rows import INPUT, ORIGINAL
from segrobust.core.seeds import image_seeds
from segrobust.datasets.source import Sample, Source
from segrobust.datasets.target_spec import FREE, KEPT
from segrobust.datasets.targets import Target
from segrobust.models.deterministic import deterministic
from segrobust.models.expectation import Expectation, drawing
from segrobust.models.precision import computing_in
from segrobust.models.replayed import Replayed
from segrobust.models.segmenter import Segmenter, frozen_eval
from segrobust.studies.sizes import size_classes


@dataclass(frozen=True)
class Group:
    """Images of one size: ids and samples ``[N]``, images ``[N, 3, H, W]``, labels and targets ``[N, H, W]``.

    kept: classes ``[N, H, W]`` that the pixels without a target are to keep, where the run has such.
    originals: the labels as their files have them, ``[N, h, w]``, where these are what is measured against.
    """

    ids: Sequence[int]
    samples: Sequence[Sample]
    images: Tensor
    labels: Tensor
    targets: Tensor | None = None
    originals: Tensor | None = None
    kept: Tensor | None = None

    @property
    def measured_labels(self) -> Tensor:
        """What predictions are compared with."""
        return self.labels if self.originals is None else self.originals

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) at which predictions are compared with labels."""
        return tuple(self.measured_labels.shape[1:])

    @cached_property
    def size_classes(self) -> Tensor:
        """How large the component is that each of these labels lies in, see :func:`size_classes`."""
        return size_classes(self.measured_labels)


@dataclass
class Bench:
    """One model on one source, and the settings under which images are shown to it.

    model: what is measured, and attacked where a study names no surrogate.
    seed: of all random numbers; an image's follow from it and from the image's place in the source.
    precision: what attacks compute in, see :mod:`segrobust.models.precision`; what is reported is float32.
    eot: attacks follow the mean of so many draws of a randomised model.
    metric_size: ``"input"`` or ``"original"``, see :func:`segrobust.datasets.survey.survey`.
    target: what targeted attacks are to make of every pixel; None: attacks are untargeted.
    rest: ``"kept"``: targeted attacks are to leave labelled pixels without a target at the model's clean prediction,
        which rows count; ``"free"``: these may become anything.
    mask: where attacks may write, ``[H, W]``; None: everywhere.
    deterministic: passes on a GPU repeat, those of attacks and those that are reported; nothing else on a CPU.
    cuda_graphs: attacks replay passes of one shape as CUDA graphs; decides nothing but the time.
    """

    model: Segmenter
    source: Source
    seed: int = 0
    precision: str = FLOAT32
    eot: int = 1
    metric_size: str = INPUT
    target: Target | None = None
    rest: str = FREE
    mask: Tensor | None = None
    deterministic: bool = True
    cuda_graphs: bool = True
    _replayed: dict[Segmenter, Replayed] = field(default_factory=dict, init=False, repr=False)

    @property
    def task(self) -> Task:
        """What labels and predictions mean."""
        return Segmentation(self.source.num_classes, self.source.ignore_index)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def _on_cuda(self) -> bool:
        return self.device.type == "cuda"

    def groups(self, samples: Mapping[int, Sample]) -> list[Group]:
        """Samples by their ids, in groups of equal size (and of labels that have equal size in their files)."""
        stored = {i: self.source.file_size(i) if self.metric_size == ORIGINAL else None for i in samples}
        groups = of_equal_size({i: (*sample.label.shape, stored[i]) for i, sample in samples.items()})
        return [self.group(ids, [samples[i] for i in ids]) for ids in groups]

    def group(self, ids: Sequence[int], samples: Sequence[Sample]) -> Group:
        """Samples of one size on the model's device, with their targets if the run has any."""
        images = torch.stack([sample.image for sample in samples]).to(self.device)
        labels = torch.stack([sample.label for sample in samples]).to(self.device)
        logits = functools.cache(lambda: self.logits(images, ids))
        targets = self.target and self.target(samples, logits).to(self.device)
        originals = kept = None
        if targets is not None and self.rest == KEPT:
            void = self.source.ignore_index
            outside = (labels != void) & (targets == void)
            kept = logits().argmax(1).masked_fill(~outside, void)
        if self.metric_size == ORIGINAL:
            originals = torch.stack([self.source.original_label(i) for i in ids]).to(self.device)
        return Group(ids, samples, images, labels, targets, originals, kept)

    def seeds(self, group: Group, seed: int | None = None) -> list[int]:
        """One per image, from the run's seed or another and the image's place."""
        return image_seeds(self.seed if seed is None else seed, group.ids)

    def attacked(self, seeds: Sequence[int], surrogate: Segmenter | None = None) -> nn.Module:
        """The model as attacks see it: itself or a surrogate, or its mean over draws that begin with the first seed."""
        model = surrogate or self.model
        if self.eot == 1:
            return self._with_graphs(model)
        mean_of_draws = Expectation(model, self.eot)
        mean_of_draws.begin(seeds[0])
        return mean_of_draws

    def _with_graphs(self, model: Segmenter) -> nn.Module:
        """The model with its passes replayed, the same object throughout the run; itself where that is of no use."""
        if not (self.cuda_graphs and self._on_cuda) or model.checkpointing:
            return model
        return self._replayed.setdefault(model, Replayed(model))

    @property
    def held_by_graphs(self) -> int:
        """Bytes of the GPU that no tensor takes."""
        return sum(model.held or 0 for model in self._replayed.values())

    def give_graphs_up(self) -> bool:
        """Attack with eager passes from now on; whether that gives memory back."""
        replayed = [model for model in self._replayed.values() if model.held is not None]
        for model in replayed:
            model.release()
        self.cuda_graphs = False
        return bool(replayed)

    @contextmanager
    def attacking(self, seeds: Sequence[int]) -> Iterator[None]:
        """A context for attacks: known random numbers of the model's own, and the precision of the gradients."""
        products = computing_in(self.precision, self.device)
        with self.repeating(), drawing(tuple(seeds), self.device), products:
            yield

    def repeating(self) -> AbstractContextManager[None]:
        """The context of every pass: where a GPU is asked to repeat itself, it has other forms of some operations."""
        return deterministic(self.device, self.deterministic)

    @torch.no_grad()
    def logits(self, images: Tensor, ids: Sequence[int] = ()) -> Tensor:
        """Logits ``[N, K, H, W]`` of one forward on float32 images, in true float32: no mixed precision, no TF32.

        Inside, a network works in the precision of its weights. A randomised model makes one known draw for these ids.

        Every batch has a draw of its own, or a run would measure a single one of a defence that draws per forward.
        """
        exact = computing_in(FLOAT32, self.device)
        with self.repeating(), frozen_eval(self.model), drawing((self.seed, *ids), self.device), exact:
            return self.model(images.float())

    def predict(self, images: Tensor, ids: Sequence[int] = ()) -> Tensor:
        """Class ids ``[N, H, W]``, the largest of ``logits``."""
        return self.logits(images, ids).argmax(1)

    def measured(self, images: Tensor, group: Group) -> Tensor:
        """The same at the size of the metric: what is reported. Like mmseg, logits are resized before the argmax."""
        logits = self.logits(images, group.ids)
        if group.originals is None:
            return logits.argmax(1)
        corners = self.model.align_corners
        with self.repeating():
            resized = (F.interpolate(one[None], group.size, mode="bilinear", align_corners=corners) for one in logits)
            return torch.cat([one.argmax(1) for one in resized])  # one at a time: they may be large
