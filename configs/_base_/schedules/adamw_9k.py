_base_ = ["./adamw_3k.py"]
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=500),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=500, end=9000),
]
train_cfg = dict(max_iters=9000, val_interval=1000)
default_hooks = dict(checkpoint=dict(interval=1000))
