# Free training (arXiv 1904.12843): each batch 4 times in a row, one backward for weights and perturbation, 3 passes an
# iteration in place of 10.
_base_ = [
    "../_base_/models/fpn_r18w24_flat.py",
    "../_base_/datasets/camvid_180x240_strong.py",
    "../_base_/schedules/at_linf4_1500.py",
    "../_base_/default_runtime.py",
]
train_dataloader = dict(sampler=dict(batch_size=8, repeats=4))
custom_hooks = [
    dict(type="ReseedHook"),
    dict(type="FreeAdversarialTrainingHook", eps="4/255", replays=4),
    dict(type="EMAHook", momentum=0.005),
    {{_base_.robust_validation}},
]
load_from = "{{ fileDirname }}/../../segrobust/zoo/camvid-fpn-r18w24-std-180x240.safetensors"
