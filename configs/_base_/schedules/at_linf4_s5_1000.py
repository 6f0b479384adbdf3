# The passes of at_linf4_1500.py for an attack of 5 steps: 7 forward and 5 input-gradient passes, then a forward and a
# full backward pass, 15 in all against 10.
_base_ = ["./at_linf4_1500.py"]
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=100, end=1000),
]
train_cfg = dict(max_iters=1000)
