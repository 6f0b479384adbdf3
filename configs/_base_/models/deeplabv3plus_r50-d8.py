# DeepLabV3+ on a dilated ResNet-50, as mmseg describes it. Weights are random: to start from others, name a local
# file in model.pretrained (the backbone's) or load_from (all of them).
_base_ = "mmseg::_base_/models/deeplabv3plus_r50-d8.py"
model = dict(pretrained=None)
