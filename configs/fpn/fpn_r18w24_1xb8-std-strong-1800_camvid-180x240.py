_base_ = [
    "../_base_/models/fpn_r18w24_flat.py",
    "../_base_/datasets/camvid_180x240_strong.py",
    "../_base_/schedules/adamw_strong_1800.py",
    "../_base_/default_runtime.py",
]
load_from = "work_dirs/fpn_r18w24_1xb8-std-3k_camvid-180x240/iter_3000.pth"  # the first stage
