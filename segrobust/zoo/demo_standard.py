# `segrobust demo`, first part: a model that learns the synthetic scenes in about a minute on two cores.
size = (64, 96)
norm_cfg = dict(type="BN", requires_grad=True)
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor", mean=[127.5] * 3, std=[64.0] * 3, bgr_to_rgb=True, seg_pad_val=255, size=size
    ),
    backbone=dict(
        type="ResNetV1c",
        depth=18,
        base_channels=16,
        stem_channels=16,
        out_indices=(0, 1, 2, 3),
        dilations=(1, 1, 1, 1),
        strides=(1, 2, 2, 2),
        norm_cfg=norm_cfg,
    ),
    neck=dict(type="FPN", in_channels=[16, 32, 64, 128], out_channels=32, num_outs=4),
    decode_head=dict(
        type="FPNHead",
        in_channels=[32] * 4,
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=32,
        dropout_ratio=0.0,
        num_classes=9,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss"),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)

data_root = "work_dirs/demo/scenes"
load, pack = dict(type="LoadPair", cache=True), dict(type="PackSegInputs")
train_pipeline = [load, dict(type="RandomFlip", prob=0.5), dict(type="PhotoMetricDistortion"), pack]
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type="SeededInfiniteSampler"),
    dataset=dict(
        type="SeededDataset",
        dataset=dict(type="SyntheticScenes", data_root=data_root, split="train", pipeline=train_pipeline),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="SyntheticScenes", data_root=data_root, split="val", pipeline=[load, pack], test_mode=True),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="SyntheticScenes", data_root=data_root, split="test", pipeline=[load, pack], test_mode=True),
)
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.02),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=60, end=600),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=600, val_interval=600)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=25, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=150, max_keep_ckpts=1),
    sampler_seed=dict(type="DistSamplerSeedHook"),
)
custom_hooks = [dict(type="ReseedHook"), dict(type="EMAHook", momentum=0.02)]

default_scope = "mmseg"
env_cfg = dict(mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0))
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
load_from = None
resume = False
