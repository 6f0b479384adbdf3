_base_ = [
    "../_base_/models/segformer_mit-b2.py",
    "mmseg::_base_/datasets/ade20k.py",
    "../_base_/schedules/adamw_160k.py",
    "../_base_/default_runtime.py",
]
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    decode_head=dict(num_classes=150),
)
