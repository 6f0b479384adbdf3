_base_ = [
    "../_base_/models/fpn_r18w24.py",
    "../_base_/datasets/camvid_180x240.py",
    "../_base_/schedules/adamw_3k.py",
    "../_base_/default_runtime.py",
]
