_base_ = ["./fpn_r18w24_1xb8-almaat-linf4-s5-300_camvid-180x240.py"]  # the same with PGD in place of ALMA-prox
attack = dict(type="TsallisPGD", eps="4/255", steps=5, optimiser="pgd", radius_reduction=False, keep="last")
custom_hooks = [
    dict(type="ReseedHook"),
    dict(type="AdversarialTrainingHook", attack=attack),
    dict(type="EMAHook", momentum=0.02),
    {{_base_.robust_validation}},
    {{_base_.min_norm_validation}},
]
