# TRADES (arXiv 1901.08573). One iteration costs 14 passes: 5 forward and 3 input-gradient passes for the attack, then
# a forward and a full backward pass (two) of the clean and of the attacked images. 1070 iterations cost what 1500 of
# PGD-AT do (10 passes each).
_base_ = [
    "../_base_/models/fpn_r18w24_flat.py",
    "../_base_/datasets/camvid_180x240_strong.py",
    "../_base_/schedules/at_linf4_1500.py",
    "../_base_/attacks/klpgd_linf4_s3.py",
    "../_base_/default_runtime.py",
]
custom_hooks = [
    dict(type="ReseedHook"),
    dict(
        type="AdversarialTrainingHook", attack={{_base_.adversary}}, loss=dict(type="TRADES", beta=6.0), eps_warmup=200
    ),
    dict(type="EMAHook", momentum=0.005),
    {{_base_.robust_validation}},
]
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=100, end=1070),
]
train_cfg = dict(max_iters=1070)
load_from = "{{ fileDirname }}/../../segrobust/zoo/camvid-fpn-r18w24-std-180x240.safetensors"
