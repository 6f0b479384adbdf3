# SegFormer (Xie et al., 2021) as mmseg describes it, with random weights: to start from others, name a local file in
# model.backbone.init_cfg = dict(type="Pretrained", checkpoint=FILE) or load_from.
_base_ = "mmseg::_base_/models/segformer_mit-b0.py"
