"""What segrobust adds to mmengine's training; importing this package registers all of it, and our data sets.

    custom_hooks = [
        dict(type="AdversarialTrainingHook", attack=dict(type="TsallisPGD", eps="4/255", steps=3)),
        dict(type="RobustValidationHook", attack=dict(type="TsallisPGD", eps="4/255", steps=10), num_images=16),
        dict(type="RobustValidationHook", attack=dict(type="ALMAProx", steps=100), num_images=32),
    ]

``segrobust train`` imports it; a config for mmengine's own Runner says so::

    custom_imports = dict(imports=["segrobust.hooks"])

``segrobust train`` adds to every config what guards it (``DivergenceHook``, ``LoadFromHook``, ``OverfittingHook``).
``exact_resume`` tells what makes training resume bitwise, ``make_exact`` puts it into any config.
"""

from segrobust.hooks.adversarial_training import AdversarialTrainingHook
from segrobust.hooks.distributed import EqualBuffersHook
from segrobust.hooks.divergence import DivergenceHook
from segrobust.hooks.exact_resume import ReseedHook
from segrobust.hooks.load_from import LoadFromHook
from segrobust.hooks.overfitting import OverfittingHook
from segrobust.hooks.robust_validation import RobustValidationHook
from segrobust.models.mm import import_mmseg

import_mmseg()

__all__ = [
    "AdversarialTrainingHook",
    "DivergenceHook",
    "EqualBuffersHook",
    "LoadFromHook",
    "OverfittingHook",
    "ReseedHook",
    "RobustValidationHook",
]
