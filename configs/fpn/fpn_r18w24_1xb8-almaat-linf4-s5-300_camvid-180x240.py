_base_ = [
    "../_base_/models/fpn_r18w24.py",
    "../_base_/datasets/camvid_180x240.py",
    "../_base_/schedules/almaat_linf4_s5_300.py",
    "../_base_/default_runtime.py",
]
load_from = "{{ fileDirname }}/../../segrobust/zoo/camvid-fpn-r18w24-std-180x240.safetensors"  # the standard weights
