# CamVid at half size with strong augmentation, against the change of light and place between its drives.
_base_ = ["./camvid_180x240.py"]
train_pipeline = [
    dict(type="LoadPair", cache=True),
    dict(type="RandomResize", scale=(240, 180), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomRotate", prob=0.5, degree=8, pad_val=127, seg_pad_val=255),
    dict(type="RandomCrop", crop_size=(180, 240), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(
        type="PhotoMetricDistortion",
        brightness_delta=48,
        contrast_range=(0.4, 1.6),
        saturation_range=(0.2, 1.8),
        hue_delta=24,
    ),
    dict(type="RandomCutOut", prob=0.5, n_holes=(1, 6), cutout_ratio=[(0.1, 0.1), (0.2, 0.15)], fill_in=(127,) * 3),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
