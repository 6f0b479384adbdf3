_base_ = [
    "../_base_/models/segformer_mit-b4.py",
    "mmseg::_base_/datasets/cityscapes.py",
    "../_base_/schedules/adamw_160k.py",
    "../_base_/default_runtime.py",
]
model = dict(
    data_preprocessor=dict(size=(512, 1024)),
    decode_head=dict(num_classes=19),
)
