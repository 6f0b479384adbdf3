_base_ = [
    "../_base_/models/fpn_r18w24.py",
    "../_base_/datasets/camvid_180x240.py",
    "../_base_/schedules/pgdat_linf4_s3_1500.py",
    "../_base_/default_runtime.py",
]
load_from = "work_dirs/fpn_r18w24_1xb8-std-3k_camvid-180x240/best_mIoU_iter_2000.pth"  # train the standard one first
