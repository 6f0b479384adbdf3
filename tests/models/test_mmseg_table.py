"""The table of mmseg's own configs: which are tried, and what its lines say."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from segrobust.models import mm_ops
from segrobust.models.mm import configs_of_mmseg, import_mmseg


@pytest.fixture(scope="module")
def table(request):
    import_mmseg()
    file = request.config.rootpath / "tools" / "mmseg_models.py"
    spec = importlib.util.spec_from_file_location("mmseg_models", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    return module


def test_one_config_per_family_and_data_set(table):
    chosen = table.one_per_family_and_data(configs_of_mmseg())
    assert len(chosen) > 100
    assert len({name.split("/")[0] for name in chosen}) == len({name.split("/")[0] for name in configs_of_mmseg()})
    assert [name for name in chosen if name.startswith("segformer/")] == [
        "segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py",
        "segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py",
    ]
    assert "beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py" in chosen
    assert "san/san-vit-b16_coco-stuff164k-640x640.py" in chosen
    assert not any(name.startswith("_base_") for name in chosen)


def test_what_its_lines_say(table):
    attacked = table.tried("fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py")
    assert (attacked.result, attacked.detail) == ("attacked", "EncoderDecoder-DepthwiseSeparableFCNHead")
    if not mm_ops.has_compiled_operators():
        needs = table.tried("psanet/psanet_r50-d8_4xb4-80k_ade20k-512x512.py")
        assert needs.result == "needs a package"
        assert "mmcv's compiled operators" in needs.detail
    depth = table.tried("vpd/vpd_sd_4xb8-25k_nyu-512x512.py")
    assert (depth.result, "estimates depth" in depth.detail) == ("other answers", True)
    own_size = table.tried("mobilenet_v3/mobilenet-v3-d8-s_lraspp_4xb4-320k_cityscapes-512x1024.py")
    assert own_size.result == "attacked at its size"
    assert "takes that of its training, 512x1024" in own_size.detail
