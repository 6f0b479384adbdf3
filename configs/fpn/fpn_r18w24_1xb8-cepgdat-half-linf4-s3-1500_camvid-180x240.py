# The attack sees images of 90x120; its change is resized to 180x240. No defense: nothing is left at 4/255
# (benchmarks/README.md).
_base_ = [
    "../_base_/models/fpn_r18w24_flat.py",
    "../_base_/datasets/camvid_180x240_strong.py",
    "../_base_/schedules/at_linf4_1500.py",
    "../_base_/attacks/cepgd_linf4_s3.py",
    "../_base_/default_runtime.py",
]
custom_hooks = [
    dict(type="ReseedHook"),
    dict(type="AdversarialTrainingHook", attack={{_base_.adversary}}, eps_warmup=200, scale=0.5),
    dict(type="EMAHook", momentum=0.005),
    {{_base_.robust_validation}},
]
load_from = "{{ fileDirname }}/../../segrobust/zoo/camvid-fpn-r18w24-std-180x240.safetensors"
