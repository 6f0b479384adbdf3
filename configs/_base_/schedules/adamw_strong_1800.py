# Second stage, from weights of the first.
_base_ = ["./adamw_3k.py"]
optim_wrapper = dict(optimizer=dict(lr=1.5e-3, weight_decay=0.05))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=100, end=1800),
]
train_cfg = dict(max_iters=1800, val_interval=600)
default_hooks = dict(checkpoint=dict(interval=600))
