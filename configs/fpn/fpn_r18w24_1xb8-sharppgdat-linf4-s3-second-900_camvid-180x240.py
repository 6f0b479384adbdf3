# A second stage of 900 iterations after the 1500 of sharppgdat-linf4-s3-1500, at the full radius at once. Its own
# weights are shipped: their mean with the first stage's is less robust.
_base_ = ["./fpn_r18w24_1xb8-sharppgdat-linf4-s3-1500_camvid-180x240.py"]
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=50, end=900),
]
custom_hooks = [
    dict(type="ReseedHook"),
    dict(type="AdversarialTrainingHook", attack={{_base_.adversary}}),
    dict(type="EMAHook", momentum=0.005),
    {{_base_.robust_validation}},
]
train_cfg = dict(max_iters=900)
load_from = "work_dirs/fpn_r18w24_1xb8-sharppgdat-linf4-s3-1500_camvid-180x240/iter_1500.pth"  # the first stage
