"""Transfer: images that are attacked on one model, the surrogate, and measured on another.

    evaluate(model, dataset, ["CosPGD"], eps=["4/255"], surrogate=other, work_dir="work_dirs/transfer")

Where such images do more harm than those attacked on the model itself, the model's gradients are masked. Rows carry
the surrogate's name, ``CosPGD@other``, so that nobody takes them for an attack that saw the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from segrobust.core.errors import UserError
from segrobust.models.segmenter import Segmenter
from segrobust.studies.jobs import Job


def transferred(jobs: Sequence[Job], surrogate: Segmenter, model: Segmenter) -> list[Job]:
    """The same jobs with the surrogate's name in their labels.

    Raises:
        UserError: the two models do not have the same classes, or an attack looks for the smallest norm, which on the
            model itself means nothing.
    """
    if surrogate.num_classes != model.num_classes:
        raise UserError(
            f"expected a surrogate with the {model.num_classes} classes of the evaluated one, got "
            f"{surrogate.num_classes} ({surrogate.name})"
        )
    for job in jobs:
        if job.minimum_norm:
            raise UserError(
                f"{job.label} stops at the boundary of the model it attacks, {surrogate.name}, not at that of the "
                "evaluated one; transfer takes bounded attacks, such as cospgd"
            )
    return [job if job.attack is None else replace(job, label=f"{job.label}@{surrogate.name}") for job in jobs]
