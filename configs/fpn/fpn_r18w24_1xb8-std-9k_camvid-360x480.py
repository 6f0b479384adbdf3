_base_ = [
    "../_base_/models/fpn_r18w24.py",
    "../_base_/datasets/camvid_360x480.py",
    "../_base_/schedules/adamw_9k.py",
    "../_base_/default_runtime.py",
]
model = dict(data_preprocessor=dict(size=(360, 480)))
