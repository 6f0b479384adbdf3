_base_ = [
    "../_base_/models/fpn_r18w24.py",
    "../_base_/datasets/camvid_180x240_strong.py",
    "../_base_/schedules/at_linf4_s5_1000.py",
    "../_base_/attacks/almaprox_linf4_s5.py",
    "../_base_/default_runtime.py",
]
# class weights and dropout of the standard model's second stage, whose weights this starts from
model = dict(
    decode_head=dict(
        dropout_ratio=0.2,
        loss_decode=dict(class_weight=[0.72, 0.66, 1.46, 0.62, 1.0, 0.82, 1.4, 1.41, 0.94, 1.58, 1.58]),
    )
)
custom_hooks = [
    dict(type="ReseedHook"),
    dict(type="AdversarialTrainingHook", attack={{_base_.adversary}}, eps_warmup=200),
    dict(type="EMAHook", momentum=0.005),
    {{_base_.robust_validation}},
]
load_from = "{{ fileDirname }}/../../segrobust/zoo/camvid-fpn-r18w24-std-180x240.safetensors"
