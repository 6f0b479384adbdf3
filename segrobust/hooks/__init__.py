"""What segrobust adds to mmengine's training; importing this package registers all of it, and our data sets.

``segrobust train`` imports it; a config for mmengine's own Runner says so::

    custom_imports = dict(imports=["segrobust.hooks"])
"""

from segrobust.hooks.adversarial_training import AdversarialTrainingHook
from segrobust.hooks.distributed import EqualBuffersHook
from segrobust.hooks.divergence import DivergenceHook
from segrobust.hooks.exact_resume import ReseedHook
from segrobust.hooks.free_training import FreeAdversarialTrainingHook
from segrobust.hooks.load_from import LoadFromHook
from segrobust.hooks.overfitting import OverfittingHook
from segrobust.hooks.robust_validation import RobustValidationHook
from segrobust.models.mm import import_mmseg

import_mmseg()

__all__ = [
    "AdversarialTrainingHook",
    "DivergenceHook",
    "EqualBuffersHook",
    "FreeAdversarialTrainingHook",
    "LoadFromHook",
    "OverfittingHook",
    "ReseedHook",
    "RobustValidationHook",
]
