_base_ = [
    "../_base_/models/fpn_r18w24.py",
    "../_base_/datasets/camvid_360x480.py",
    "../_base_/schedules/pgdat_linf4_s3_5k.py",
    "../_base_/default_runtime.py",
]
model = dict(data_preprocessor=dict(size=(360, 480)))
load_from = "work_dirs/fpn_r18w24_1xb8-std-9k_camvid-360x480/iter_9000.pth"  # train the standard one first
