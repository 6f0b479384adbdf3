"""The half precision in which an attack's gradients may be computed."""

from __future__ import annotations

import torch

from segrobust.core.errors import unknown_name

AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}


def amp_name(amp: bool | str) -> str | bool:
    """The half precision that is meant: a name in ``AMP``, or False for none."""
    if amp in AMP or amp is False:
        return amp
    if amp is True:
        return next(iter(AMP))
    raise unknown_name("amp", str(amp), AMP)
