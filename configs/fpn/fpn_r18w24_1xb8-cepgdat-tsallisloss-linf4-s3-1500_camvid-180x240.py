# Cross-entropy at the beginning; in the end a pixel counts by the square root of its probability (q = 0.5). Ours.
_base_ = [
    "../_base_/models/fpn_r18w24_flat.py",
    "../_base_/datasets/camvid_180x240_strong.py",
    "../_base_/schedules/at_linf4_1500.py",
    "../_base_/attacks/cepgd_linf4_s3.py",
    "../_base_/default_runtime.py",
]
custom_imports = dict(imports=["segrobust.recipes"])
custom_hooks = [
    dict(type="ReseedHook"),
    dict(type="AdversarialTrainingHook", attack={{_base_.adversary}}, eps_warmup=200),
    dict(type="EMAHook", momentum=0.005),
    {{_base_.robust_validation}},
]
model = dict(
    decode_head=dict(
        loss_decode=dict(
            _delete_=True,
            type="TsallisLoss",
            q=1.0,
            q_end=0.5,
            class_weight=[0.72, 0.66, 1.46, 0.62, 1.0, 0.82, 1.4, 1.41, 0.94, 1.58, 1.58],
        )
    )
)
load_from = "{{ fileDirname }}/../../segrobust/zoo/camvid-fpn-r18w24-std-180x240.safetensors"
