# Adversarial training from standard weights, for rows that are compared: 1500 iterations, each of 3 attack passes and
# one training step (4 forward and 3 input-gradient passes, then a forward and a full backward pass, which is two).
_base_ = ["./adamw_3k.py"]
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=0.05))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=100, end=1500),
]
train_cfg = dict(max_iters=1500)
default_hooks = dict(checkpoint=dict(save_best=None))
robust_validation = dict(
    type="RobustValidationHook",
    attack=dict(type="TsallisPGD", eps="4/255", steps=10, optimiser="pgd", radius_reduction=False),
    num_images=25,
)
