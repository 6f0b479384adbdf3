_base_ = ["./segformer_mit-b3_4xb2-160k_cityscapes-512x1024.py", "../_base_/schedules/pgdat_linf4_s3.py"]
