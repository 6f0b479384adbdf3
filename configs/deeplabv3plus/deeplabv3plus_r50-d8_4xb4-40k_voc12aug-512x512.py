_base_ = [
    "../_base_/models/deeplabv3plus_r50-d8.py",
    "mmseg::_base_/datasets/pascal_voc12_aug.py",
    "mmseg::_base_/schedules/schedule_40k.py",
    "../_base_/default_runtime.py",
]
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    decode_head=dict(num_classes=21),
    auxiliary_head=dict(num_classes=21),
)
