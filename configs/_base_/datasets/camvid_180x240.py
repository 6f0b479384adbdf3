# CamVid at half size: images shrunk by pixel area, labels by nearest neighbour; evaluated at 180x240.
crop_size = (180, 240)
train_pipeline = [
    dict(type="LoadPair", cache=True),
    dict(type="RandomResize", scale=(240, 180), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
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
