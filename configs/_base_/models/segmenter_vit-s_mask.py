# Segmenter (Strudel et al., 2021), ViT-S/16 with a mask transformer, on whole images. Weights are random: to start from
# others, name a local file in model.pretrained (the backbone's) or load_from (all of them).
_base_ = "mmseg::_base_/models/segmenter_vit-b16_mask.py"
model = dict(
    pretrained=None,
    backbone=dict(embed_dims=384, num_heads=6),
    decode_head=dict(in_channels=384, channels=384, embed_dims=384, num_heads=6),
    test_cfg=dict(_delete_=True, mode="whole"),
)
