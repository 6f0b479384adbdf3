_base_ = [
    "../_base_/models/fpn_r18w24_flat.py",
    "../_base_/datasets/camvid_180x240_strong.py",
    "../_base_/schedules/pgdat_linf4_s3_strong_900.py",
    "../_base_/default_runtime.py",
]
load_from = "work_dirs/fpn_r18w24_1xb8-pgdat-linf4-s3-1500_camvid-180x240/iter_1500.pth"  # the first stage
