_base_ = ["./pgdat_linf4_s3_1500.py"]
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=100, end=5000),
]
train_cfg = dict(max_iters=5000, val_interval=500)
default_hooks = dict(checkpoint=dict(interval=500))
