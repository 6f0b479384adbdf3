_base_ = ["./segmenter_vit-s_mask_4xb4-160k_voc12aug-512x512.py", "../_base_/schedules/pgdat_linf4_s3.py"]
