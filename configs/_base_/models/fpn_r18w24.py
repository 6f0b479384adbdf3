# A ResNet-18 of 24 base channels with a feature pyramid: 2.0 M parameters, logits at a quarter of the image size,
# trained from scratch. Plain convolutions: on a CPU they are about twice as fast as depthwise ones of equal accuracy.
norm_cfg = dict(type="BN", requires_grad=True)
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[127.5, 127.5, 127.5],
        std=[64.0, 64.0, 64.0],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(180, 240),
    ),
    backbone=dict(
        type="ResNetV1c",
        depth=18,
        base_channels=24,
        stem_channels=32,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        strides=(1, 2, 2, 2),
        dilations=(1, 1, 1, 1),
        norm_cfg=norm_cfg,
        norm_eval=False,
    ),
    neck=dict(type="FPN", in_channels=[24, 48, 96, 192], out_channels=64, num_outs=4),
    decode_head=dict(
        type="FPNHead",
        in_channels=[64, 64, 64, 64],
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=64,
        dropout_ratio=0.1,
        num_classes=11,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(
            type="CrossEntropyLoss",
            # min(sqrt(median frequency / frequency), 2.5) on CamVid's training labels
            class_weight=[0.52, 0.44, 2.14, 0.38, 1.0, 0.68, 1.96, 2.0, 0.88, 2.5, 2.5],
        ),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
