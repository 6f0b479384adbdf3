# The second stage of the adversarial training: strong augmentation, milder class weights.
_base_ = [
    "../_base_/models/fpn_r18w24.py",
    "../_base_/datasets/camvid_180x240_strong.py",
    "../_base_/schedules/pgdat_linf4_s3_1500.py",
    "../_base_/default_runtime.py",
]
model = dict(
    decode_head=dict(
        dropout_ratio=0.2,
        # the square roots of the first training's weights: rare classes lose the false alarms, not their place
        loss_decode=dict(class_weight=[0.72, 0.66, 1.46, 0.62, 1.0, 0.82, 1.4, 1.41, 0.94, 1.58, 1.58]),
    )
)
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=0.05))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=50, end=900),
]
train_cfg = dict(max_iters=900, val_interval=300)
default_hooks = dict(checkpoint=dict(interval=300))
custom_hooks = [
    dict(type="ReseedHook"),
    dict(type="AdversarialTrainingHook", attack={{_base_.adversary}}),  # the full radius from the start
    dict(type="EMAHook", momentum=0.005),
]
load_from = "work_dirs/fpn_r18w24_1xb8-pgdat-linf4-s3-1500_camvid-180x240/iter_1500.pth"  # the first stage
