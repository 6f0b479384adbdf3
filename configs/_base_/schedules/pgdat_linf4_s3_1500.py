# Adversarial fine-tuning of standard weights. One iteration costs 3.3 standard ones: 4 forward and 3 input-gradient
# passes for the attack, then one forward and a full backward pass (twice an input gradient).
adversary = dict(type="TsallisPGD", eps="4/255", steps=3, optimiser="pgd", radius_reduction=False, keep="last")
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.999), weight_decay=0.02),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=100, end=1500),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=1500, val_interval=250)
val_cfg = dict(type="ValLoop")
robust_validation = dict(
    type="RobustValidationHook",
    attack=dict(type="TsallisPGD", eps="4/255", steps=10, optimiser="pgd", radius_reduction=False),
    num_images=25,
)
test_cfg = dict(type="TestLoop")
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=25, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=250, max_keep_ckpts=2, save_best="robust/mIoU"),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    visualization=dict(type="SegVisualizationHook"),
)
custom_hooks = [
    dict(type="ReseedHook"),
    dict(type="AdversarialTrainingHook", attack=adversary, eps_warmup=200),
    dict(type="EMAHook", momentum=0.005),
    robust_validation,
]
