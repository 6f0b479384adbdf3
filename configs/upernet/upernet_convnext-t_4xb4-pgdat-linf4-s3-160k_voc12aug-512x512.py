_base_ = ["./upernet_convnext-t_4xb4-160k_voc12aug-512x512.py", "../_base_/schedules/pgdat_linf4_s3.py"]
