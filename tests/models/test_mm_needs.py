"""What a model of mmseg's needs is said from its config, before anything is built; others are not refused."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import torch

from segrobust.core.errors import UserError
from segrobust.models import mm_needs, mm_ops
from segrobust.models.adapters.mmseg import MMSegSegmenter
from segrobust.models.mm import import_mmseg, load_config
from segrobust.models.mm_needs import check_needs, missing_package
from tests.models.tiny import mmseg_config

import_mmseg()
MMDET = "needs the package onedl-mmdetection (model.decode_head.type='{}'), which is not installed: pip install"
COMPILED = r"needs mmcv's compiled operators \({}\), which the installed onedl-mmcv lacks"


@pytest.fixture
def bare(monkeypatch):
    """As where neither extra package nor a compiled mmcv is installed."""
    gone = {*mm_needs.PACKAGES, mm_ops.EXTENSION}
    for module in (mm_needs, mm_ops):
        monkeypatch.setattr(module, "find_spec", lambda name: None if name in gone else importlib.util.find_spec(name))


@pytest.fixture
def building(monkeypatch):
    """Fails where a model is built."""
    from mmseg.registry import MODELS

    monkeypatch.setattr(MODELS, "build", lambda *_, **__: pytest.fail("a model was built"))


@pytest.mark.parametrize("name, message", [
    ("maskformer/maskformer_r50-d32_8xb2-160k_ade20k-512x512.py", MMDET.format("MaskFormerHead")),
    ("mask2former/mask2former_swin-s_8xb2-90k_cityscapes-512x1024.py", MMDET.format("Mask2FormerHead")),
    ("psanet/psanet_r50-d8_4xb4-80k_ade20k-512x512.py", "needs mmcv's compiled operators (model.decode_head.type="),
    ("vpd/vpd_sd_4xb8-25k_nyu-512x512.py", "model.type='DepthEstimator': it estimates depth, and only models that"),
    ("swin/swin-tiny-patch4-window7_upernet_1xb8-20k_levir-256x256.py", "mean has 6 values: only models of one RGB"),
])  # fmt: skip
def test_mmsegs_own_configs_tell_what_they_need(name, message, bare, building):
    with pytest.raises(UserError) as caught:
        MMSegSegmenter.from_config(load_config(f"mmseg::{name}"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model, message", [
    (dict(type="EncoderDecoder", backbone=dict(type="mmpretrain.ConvNeXt")),
     r"needs the package onedl-mmpretrain \(model\.backbone\.type='mmpretrain\.ConvNeXt'\).*segrobust\[mm\]"),
    (dict(decode_head=[dict(type="FCNHead"), dict(inner=dict(type="mmdet.PixelDecoder"))]),
     r"onedl-mmdetection \(model\.decode_head\.1\.inner\.type='mmdet\.PixelDecoder'\)"),
    (dict(backbone=dict(dcn=dict(type="DCNv2"))), COMPILED.format(r"model\.backbone\.dcn\.type='DCNv2'")),
    (dict(decode_head=dict(type="mmseg.PSAHead")), COMPILED.format(r"model\.decode_head\.type='mmseg\.PSAHead'")),
])  # fmt: skip
def test_packages_and_operators_are_named_wherever_they_stand(model, message, bare):
    with pytest.raises(UserError, match=message):
        check_needs(model)


def test_nothing_is_asked_for_where_it_is_installed(monkeypatch):
    for module in (mm_needs, mm_ops):
        monkeypatch.setattr(module, "find_spec", lambda name: object())
    check_needs(dict(backbone=dict(type="mmpretrain.ConvNeXt"), decode_head=dict(type="PSAHead"),
                     data_preprocessor=dict(mean=[1, 2, 3])))  # fmt: skip


def test_training_says_it_too(bare, tmp_path):
    from segrobust.commands.training import prepare
    from tests.hooks.toys import toy_config

    config = toy_config(iters=1)
    config.model.backbone = dict(type="mmpretrain.ConvNeXt")
    with pytest.raises(UserError, match="needs the package onedl-mmpretrain"):
        prepare(config, tmp_path, False, False, None, "none")


def test_plain_models_need_nothing(bare):
    check_needs(mmseg_config().model.to_dict())
    check_needs(dict(decode_head=dict(type="mmdet2.MyHead"), data_preprocessor=dict(mean=None)))


def test_a_config_whose_custom_imports_are_not_installed(bare, tmp_path):
    if importlib.util.find_spec("mmpretrain"):
        pytest.skip("onedl-mmpretrain is installed")
    for name in ("convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py",
                 "poolformer/fpn_poolformer_s12_8xb4-40k_ade20k-512x512.py"):  # fmt: skip
        with pytest.raises(
            UserError, match=r"onedl-mmpretrain \(its custom_imports\), which is not installed"
        ) as caught:
            load_config(f"mmseg::{name}")
        assert "\n" not in str(caught.value)


def test_another_module_that_is_missing_is_no_package_of_ours(bare):
    assert missing_package(ModuleNotFoundError("no", name="mine")) is None
    assert missing_package(ValueError("no")) is None
    try:
        try:
            raise ModuleNotFoundError("no", name="mmdet.models")
        except ImportError:
            raise ImportError("failed to import")  # noqa: B904  (as mmengine does it)
    except ImportError as error:
        assert missing_package(error) == "mmdet"


def test_operators_that_are_plain_pytorch_work_and_others_say_so():
    if mm_ops.has_compiled_operators():
        pytest.skip("mmcv was built with its operators")
    from mmcv.ops import CrissCrossAttention, point_sample, roi_align
    from mmengine.utils.dl_utils import mmcv_full_available

    ramp = torch.arange(12.0).reshape(1, 1, 3, 4)
    assert point_sample(ramp, torch.tensor([[[0.125, 0.5], [0.875, 0.5]]])).flatten().tolist() == [4, 7]
    attention = CrissCrossAttention(16)
    assert torch.equal(attention(torch.ones(1, 16, 3, 3)), torch.ones(1, 16, 3, 3))  # gamma starts at zero
    with pytest.raises(UserError, match=r"mmcv's compiled operators \(roi_align_forward\)"):
        roi_align(ramp, torch.zeros(1, 5), 2)
    assert not mmcv_full_available()
    assert mm_ops.EXTENSION not in sys.modules


def test_deformable_attention_is_plain_on_every_device(monkeypatch):
    if mm_ops.has_compiled_operators():
        pytest.skip("mmcv was built with its operators")
    import mmcv.ops.multi_scale_deform_attn as attention
    import mmseg.models.losses.focal_loss as focal_loss

    monkeypatch.setattr(attention, "IS_CUDA_AVAILABLE", True)  # as on a machine with a GPU
    mm_ops.import_operators()
    assert attention.IS_CUDA_AVAILABLE is False
    assert focal_loss._sigmoid_focal_loss is None


def test_mmcv_is_imported_quietly():
    code = "from segrobust.models.mm import import_mmseg; import_mmseg()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
