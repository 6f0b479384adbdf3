# Class weights and dropout of the standard model's second stage, whose weights adversarial training starts from.
_base_ = ["./fpn_r18w24.py"]
model = dict(
    decode_head=dict(
        dropout_ratio=0.2,
        loss_decode=dict(class_weight=[0.72, 0.66, 1.46, 0.62, 1.0, 0.82, 1.4, 1.41, 0.94, 1.58, 1.58]),
    )
)
