# The attack's passes in bf16, the training step in float32.
_base_ = [
    "../_base_/models/fpn_r18w24_flat.py",
    "../_base_/datasets/camvid_180x240_strong.py",
    "../_base_/schedules/at_linf4_1500.py",
    "../_base_/attacks/cepgd_linf4_s3.py",
    "../_base_/default_runtime.py",
]
custom_hooks = [
    dict(type="ReseedHook"),
    dict(type="AdversarialTrainingHook", attack={{_base_.adversary}}, eps_warmup=200, precision="bf16"),
    dict(type="EMAHook", momentum=0.005),
    {{_base_.robust_validation}},
]
load_from = "{{ fileDirname }}/../../segrobust/zoo/camvid-fpn-r18w24-std-180x240.safetensors"
