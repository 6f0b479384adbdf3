"""Losses for adversarial training: over clean images and their attacked ones (TRADES, MART), and TsallisLoss.

``segrobust train`` imports it; a config whose model names ``TsallisLoss`` says so for whatever else builds the model::

    custom_imports = dict(imports=["segrobust.recipes"])

DDC-AT's segmentor is in ``segrobust.recipes.ddcat``, which imports mmseg and is named in the same way.
"""

from segrobust.recipes.paired import PAIRED_LOSSES, PairedLoss, Seen, build_paired_loss, register_paired_loss
from segrobust.recipes.tsallis import TsallisLoss

__all__ = ["PAIRED_LOSSES", "PairedLoss", "Seen", "TsallisLoss", "build_paired_loss", "register_paired_loss"]
