"""A look at a few samples before any attack: is there anything to measure, and at which size?"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from torch import Tensor

from segrobust.core.errors import UserError
from segrobust.core.rows import INPUT, METRIC_SIZES, ORIGINAL
from segrobust.datasets.source import Sample, Source, evenly_spaced

LOOKED_AT = 8


@dataclass(frozen=True)
class Survey:
    """What was seen: sizes in words, and warnings of one line each."""

    sizes: str
    warnings: tuple[str, ...] = ()


def survey(source: Source, metric_size: str = INPUT) -> Survey:
    """Look at a few evenly spaced samples (at all of them only while none has a labelled pixel).

    Args:
        metric_size: where predictions are compared with labels: ``"input"``, at the size of the network's input, which
            is attacked, or ``"original"``, at that of the label's file, to which logits are then resized.

    Raises:
        UserError: every pixel of every image is void, a file cannot be read, or no such metric size (for these data).
    """
    if metric_size not in METRIC_SIZES:
        raise UserError(f"metric_size: expected one of {', '.join(METRIC_SIZES)}, got {metric_size!r}")
    if metric_size == ORIGINAL and not all(hasattr(source, name) for name in ("original_label", "file_size")):
        raise UserError("metric size original: this data set does not tell labels as their files have them")
    chosen = evenly_spaced(len(source), LOOKED_AT)
    samples = [source[index] for index in chosen]
    ids = [_ids(sample.label) for sample in samples]
    void = source.ignore_index
    if all(seen <= {void} for seen in ids):
        _refuse_void_alone(source, set(chosen))
    warnings = (two_values(set().union(*ids), source.class_names, void, len(samples)),)
    return Survey(_sizes(source, chosen, samples, metric_size), tuple(filter(None, warnings)))


def _ids(label: Tensor) -> set[int]:
    return set(label.unique().tolist())


def _refuse_void_alone(source: Source, seen: set[int]) -> None:
    void = source.ignore_index
    if not any((source[index].label != void).any() for index in range(len(source)) if index not in seen):
        raise UserError(f"nothing can be measured: every pixel of all {len(source)} labels is void ({void}); "
                        "are these the right labels, and is a class stored as void?")  # fmt: skip


def two_values(ids: Set[int], class_names: Sequence[str], void: int, count: int) -> str | None:
    """Masks of 0 and 255 are how image programs store two classes; of two classes, either may be stored as void.

    ids: the class ids and void that occur in ``count`` labels.
    """
    classes = ids - {void}
    if void not in ids or len(classes) != 1 or len(class_names) < 2:
        return None
    (only,) = classes
    if only and len(class_names) > 2:
        return None
    side = "foreground" if only == 0 else "background"
    return (
        f"only class {only} ({class_names[only]}) and void ({void}) occur in {count} labels looked at: "
        f"is {void} the {side}? It counts for nothing; store classes as 0, 1, ..."
    )


def _sizes(source: Source, chosen: Sequence[int], samples: Sequence[Sample], metric_size: str) -> str:
    inputs = _listed(tuple(sample.label.shape) for sample in samples)
    if metric_size == ORIGINAL:
        labels = _listed(tuple(source.original_label(index).shape) for index in chosen)
        return (
            f"attacked at {inputs} (height x width), the size after the test pipeline; measured at {labels}, as stored"
        )
    text = f"attacked and measured at {inputs} (height x width), the size after the test pipeline"
    if not hasattr(source, "file_size"):
        return text
    files = _listed(source.file_size(index) for index in chosen)
    return text if files == inputs else f"{text}; the image files are {files}"


def _listed(sizes) -> str:
    found = list(dict.fromkeys(sizes))
    shown = f"{found[0][0]}x{found[0][1]}"
    return shown if len(found) == 1 else f"{shown} and other sizes"
