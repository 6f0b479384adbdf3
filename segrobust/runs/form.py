"""In which form a model is attacked: the precision of its gradients, and how its weights are kept."""

from __future__ import annotations

import torch

from segrobust.core.errors import unknown_name
from segrobust.datasets.source import Source
from segrobust.models.inference_form import inference_form
from segrobust.models.segmenter import Segmenter

AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}
CHECKED_IMAGES = 4


def amp_name(amp: bool | str) -> str | bool:
    """The half precision that is meant: a name in ``AMP``, or False for none."""
    if amp in AMP or amp is False:
        return amp
    if amp is True:
        return next(iter(AMP))
    raise unknown_name("amp", str(amp), AMP)


def faster_form(model: Segmenter, dataset: Source, **form: bool) -> Segmenter:
    """``inference_form`` of the model, checked on the first images that are as large as the first one.

    Without any ``form`` the model itself.
    """
    if not any(form.values()):
        return model
    samples = [dataset[i] for i in range(min(CHECKED_IMAGES, len(dataset)))]
    images = [sample.image for sample in samples if sample.image.shape == samples[0].image.shape]
    return inference_form(model, torch.stack(images).to(next(model.parameters()).device), **form)
