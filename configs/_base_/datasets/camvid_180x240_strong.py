# As camvid_180x240.py, with strong augmentation. Val is cut from a training drive, test has streets and light of its
# own: a model that fits train and val well may still lack what test needs.
crop_size = (180, 240)
train_pipeline = [
    dict(type="LoadPair", cache=True),
    dict(type="RandomResize", scale=(240, 180), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomRotate", prob=0.5, degree=8, pad_val=0, seg_pad_val=255),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(
        type="PhotoMetricDistortion",
        brightness_delta=48,
        contrast_range=(0.4, 1.6),
        saturation_range=(0.2, 1.8),
        hue_delta=24,
    ),
    dict(type="RandomGrayscale", prob=0.1, keep_channels=True),
    dict(
        type="RandomCutOut",
        prob=0.5,
        n_holes=(1, 4),
        cutout_ratio=[(0.1, 0.1), (0.2, 0.2), (0.1, 0.3)],
        seg_fill_in=255,
    ),
    dict(type="PackSegInputs"),
]
test_pipeline = [dict(type="LoadPair", scale=(240, 180)), dict(type="PackSegInputs")]
train_dataloader = dict(  # sampler, dataset and ReseedHook: a resumed training continues bitwise
    batch_size=8,
    num_workers=0,
    sampler=dict(type="SeededInfiniteSampler"),
    dataset=dict(
        type="SeededDataset",
        dataset=dict(type="CamVidDataset", data_root=None, split="train", pipeline=train_pipeline),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="CamVidDataset", data_root=None, split="val", test_mode=True, pipeline=test_pipeline),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="CamVidDataset", data_root=None, split="test", test_mode=True, pipeline=test_pipeline),
)
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
# pixels per class over the 367 training labels, for the class-balanced attack
class_counts = [10682767, 14750079, 623349, 20076880, 2845085, 6166762, 743859, 714595, 3719877, 405385, 184967]
attack_defaults = dict(BalancedPGD=dict(class_counts=class_counts))
