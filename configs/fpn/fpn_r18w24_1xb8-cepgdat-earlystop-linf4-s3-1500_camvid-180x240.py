# Ends where robust/mIoU has not risen by 0.2 points in three validations (arXiv 2002.11569), and keeps the best.
_base_ = [
    "../_base_/models/fpn_r18w24_flat.py",
    "../_base_/datasets/camvid_180x240_strong.py",
    "../_base_/schedules/at_linf4_1500.py",
    "../_base_/attacks/cepgd_linf4_s3.py",
    "../_base_/default_runtime.py",
]
train_cfg = dict(val_interval=100)
custom_hooks = [
    dict(type="ReseedHook"),
    dict(type="AdversarialTrainingHook", attack={{_base_.adversary}}, eps_warmup=200),
    dict(type="EMAHook", momentum=0.005),
    {{_base_.robust_validation}},
    dict(type="EarlyStoppingHook", monitor="robust/mIoU", rule="greater", min_delta=0.2, patience=3),
]
default_hooks = dict(checkpoint=dict(save_best="robust/mIoU"))
load_from = "{{ fileDirname }}/../../segrobust/zoo/camvid-fpn-r18w24-std-180x240.safetensors"
