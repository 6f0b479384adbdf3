"""The precision of attacks' gradients, by the names of ``Settings.amp``."""

from __future__ import annotations

import torch

AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}
