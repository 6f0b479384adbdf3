_base_ = ["./segformer_mit-b4_4xb4-160k_ade20k-512x512.py", "../_base_/schedules/pgdat_linf4_s3.py"]
