# UPerNet on ConvNeXt-T: timm's backbone in mmseg's decoder, which needs no mmpretrain. Weights are random: to start
# from others, name a local file in model.backbone.checkpoint_path (the backbone's) or load_from (all of them).
_base_ = "mmseg::_base_/models/upernet_r50.py"
widths = [96, 192, 384, 768]
model = dict(
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type="TIMMBackbone",
        model_name="convnext_tiny",
        features_only=True,
        pretrained=False,
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.4,
    ),
    decode_head=dict(in_channels=widths),
    auxiliary_head=dict(in_channels=384),
)
