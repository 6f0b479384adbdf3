# `segrobust demo`, second part: the same model, from the weights of the first part, with TsallisPGD in the loop.
_base_ = ["./demo_standard.py"]
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=40),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=40, end=400),
]
train_cfg = dict(max_iters=400, val_interval=400)
default_hooks = dict(checkpoint=dict(interval=100))
adversary = dict(type="TsallisPGD", eps="4/255", steps=3, optimiser="pgd", radius_reduction=False, keep="last")
custom_hooks = [
    dict(type="ReseedHook"),
    dict(type="EMAHook", momentum=0.02),
    dict(type="AdversarialTrainingHook", attack=adversary, eps_warmup=50),
]
load_from = "work_dirs/demo/standard/iter_600.pth"
