_base_ = [
    "../_base_/models/fpn_r18w24.py",
    "../_base_/datasets/camvid_180x240_strong.py",
    "../_base_/schedules/pgdat_linf4_s3_strong_900.py",
    "../_base_/default_runtime.py",
]
# flatter class weights (about the square root of the first stage's) and more dropout
model = dict(
    decode_head=dict(
        dropout_ratio=0.2,
        loss_decode=dict(class_weight=[0.72, 0.66, 1.46, 0.62, 1.0, 0.82, 1.4, 1.41, 0.94, 1.58, 1.58]),
    )
)
load_from = "work_dirs/fpn_r18w24_1xb8-pgdat-linf4-s3-1500_camvid-180x240/iter_1500.pth"  # the first stage
