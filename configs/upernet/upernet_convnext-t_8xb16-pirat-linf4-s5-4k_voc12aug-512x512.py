# PIR-AT (arXiv 2306.12941): the backbone starts from a robust ImageNet classifier, the decoder from random weights, and
# every image is attacked; 50 epochs of VOC at 128 images a batch. The classifier is a file with timm's names for
# convnext_tiny: name it in SEGROBUST_ROBUST_BACKBONE, or with --cfg-options model.backbone.checkpoint_path=FILE. Mean
# and std of data_preprocessor must be those that it was trained with; one that takes [0, 1] has mean 0 and std 255.
_base_ = ["./upernet_convnext-t_4xb4-160k_voc12aug-512x512.py", "../_base_/attacks/cepgd_linf4_s5_pirat.py"]
model = dict(
    backbone=dict(checkpoint_path="{{$SEGROBUST_ROBUST_BACKBONE:robust_convnext_tiny.safetensors}}"),
)
train_dataloader = dict(batch_size=16)
optim_wrapper = dict(
    optimizer=dict(lr=1e-3, weight_decay=0.01), paramwise_cfg=dict(custom_keys={"head": dict(lr_mult=1.0)})
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=400),
    dict(type="PolyLR", power=1.0, eta_min=0.0, by_epoch=False, begin=400, end=4134),
]
train_cfg = dict(max_iters=4134, val_interval=800)
default_hooks = dict(checkpoint=dict(interval=800))
custom_hooks = [
    dict(type="AdversarialTrainingHook", attack={{_base_.adversary}}),
    dict(
        type="RobustValidationHook",
        attack=dict(type="TsallisPGD", eps="4/255", steps=10, optimiser="pgd", radius_reduction=False),
        num_images=25,
    ),
]
