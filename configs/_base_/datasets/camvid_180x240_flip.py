# CamVid at half size, whole images: flips and colours alone.
_base_ = ["./camvid_180x240.py"]
train_pipeline = [
    dict(type="LoadPair", scale=(240, 180), cache=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
