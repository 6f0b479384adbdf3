"""What segrobust adds to mmengine's training; importing this package registers all of it.

    custom_hooks = [dict(type="AdversarialTrainingHook", attack=dict(type="TsallisPGD", eps="4/255", steps=3))]
    val_cfg = dict(type="RobustValLoop", attack=dict(type="TsallisPGD", eps="4/255", steps=10), num_images=16)

``exact_resume`` tells how a config makes training resume bitwise.
"""

from segrobust.hooks.adversarial_training import AdversarialTrainingHook
from segrobust.hooks.exact_resume import ReseedHook, SeededDataset, SeededInfiniteSampler
from segrobust.hooks.robust_validation import RobustValLoop

__all__ = ["AdversarialTrainingHook", "ReseedHook", "RobustValLoop", "SeededDataset", "SeededInfiniteSampler"]
