# Second stage of adversarial training, from weights of the first.
_base_ = ["./pgdat_linf4_s3_1500.py"]
optim_wrapper = dict(optimizer=dict(weight_decay=0.05))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=50, end=900),
]
train_cfg = dict(max_iters=900, val_interval=300)
default_hooks = dict(checkpoint=dict(interval=300))
