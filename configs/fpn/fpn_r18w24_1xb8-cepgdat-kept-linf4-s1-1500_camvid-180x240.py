# One step an iteration, from where the image's attack ended in the epoch before (ATTA, arXiv 1912.11969): 5 passes in
# place of 10. Images are flipped and not cropped, so that a kept perturbation lies on its own pixels.
_base_ = [
    "../_base_/models/fpn_r18w24_flat.py",
    "../_base_/datasets/camvid_180x240_flip.py",
    "../_base_/schedules/at_linf4_1500.py",
    "../_base_/attacks/cepgd_linf4_s1_kept.py",
    "../_base_/default_runtime.py",
]
custom_hooks = [
    dict(type="ReseedHook"),
    dict(type="AdversarialTrainingHook", attack={{_base_.adversary}}, eps_warmup=200, keep_perturbations=True),
    dict(type="EMAHook", momentum=0.005),
    {{_base_.robust_validation}},
]
load_from = "{{ fileDirname }}/../../segrobust/zoo/camvid-fpn-r18w24-std-180x240.safetensors"
