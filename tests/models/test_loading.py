"""From a config and a checkpoint to a segmenter: mmseg, torchvision, and what ships with the package."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from mmengine import Config
from safetensors.torch import save_file
from torch.nn import functional as F

from segrobust.core.errors import UserError
from segrobust.models import shipped
from segrobust.models.adapters.torchvision import TorchvisionSegmenter
from segrobust.models.checkpoint.loading import convert_checkpoint
from segrobust.models.load import load_segmenter
from tests.models.tiny import mmseg_config, tiny_mmseg

LRASPP = dict(type="TorchvisionSegmenter", arch="lraspp_mobilenet_v3_large", num_classes=4)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def in_memory_of_loaded(model):
    """The format that ``load_segmenter`` chooses; another one rounds differently."""
    return model.eval().to(memory_format=torch.channels_last)


def test_mmseg_config_and_checkpoint_give_back_the_same_model(tmp_path, images):
    model = tiny_mmseg()
    path = tmp_path / "x.pth"
    torch.save({"state_dict": model.module.state_dict(), "meta": {}}, path)
    (tmp_path / "x.py").write_text(mmseg_config().pretty_text)
    loaded = load_segmenter(tmp_path / "x.py", path, device="cpu")
    assert not any(part.training for part in loaded.modules())
    assert torch.equal(loaded(images), in_memory_of_loaded(model)(images))

    convert_checkpoint(path, tmp_path / "half.safetensors", half=True)
    half = load_segmenter(mmseg_config(), tmp_path / "half.safetensors", device="cpu")
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    assert torch.equal(half.module.decode_head.conv_seg.bias, model.module.decode_head.conv_seg.bias.half().float())


def test_torchvision_from_a_dict_equals_torchvision_by_hand(tmp_path, images):
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large
    from torchvision.transforms.functional import normalize

    net = in_memory_of_loaded(lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4))
    path = tmp_path / "x.safetensors"
    save_file({key: value.contiguous() for key, value in net.state_dict().items()}, path)
    model = load_segmenter(dict(model=LRASPP), path, device="cpu")
    by_hand = net(normalize(images, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))["out"]
    assert torch.equal(model(images), by_hand)
    raw = in_memory_of_loaded(TorchvisionSegmenter("lraspp_mobilenet_v3_large", 4, mean=None, std=None))
    raw.net.load_state_dict(net.state_dict())
    assert torch.equal(raw(images), net(images)["out"])
    assert (model.name, model.num_classes, model.class_names[3]) == ("lraspp_mobilenet_v3_large", 4, "class_3")


@pytest.mark.parametrize("arch", ["deeplabv3_mobilenet_v3_large", "fcn_resnet50"])
def test_other_torchvision_models_with_and_without_their_auxiliary_head(arch, images):
    model = TorchvisionSegmenter(arch, 3, aux_loss=True).eval()
    assert any(key.startswith("net.aux_classifier") for key in model.state_dict())
    logits = model(images)
    assert logits.shape == (1, 3, 64, 96)
    expected = model.net.classifier(model.net.backbone((images - model.mean) / model.std)["out"])
    assert torch.equal(logits, F.interpolate(expected, size=(64, 96), mode="bilinear", align_corners=False))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(arch="lraspp_mobilenet_v2"), "did you mean lraspp_mobilenet_v3_large"),
        (dict(weights="DEFAULT"), "unexpected keyword argument 'weights'"),
        (dict(aux_loss=True), "it has no auxiliary head"),
        (dict(num_classes=None), "num_classes: expected an integer"),
        (dict(class_names=["a"]), "class_names: expected one entry per class"),
    ],
)
def test_wrong_torchvision_settings_are_told(change, words):
    with pytest.raises(UserError, match=words):
        load_segmenter(dict(model=LRASPP | change), device="cpu")


def test_wrong_inputs_are_told_in_one_line(tmp_path):
    model = tiny_mmseg()
    path = tmp_path / "x.pth"
    torch.save(model.module.state_dict(), path)
    cases = [
        ((Config(dict(seed=1)), path), {}, r"expected an entry model=dict\(type=...\)"),
        ((dict(model=dict(type="TorchvisionSegmenter")), path), {}, "missing 2 .* arguments: 'arch' and 'num_classes'"),
        ((mmseg_config(head=dict(num_classes=7)), path), {}, "wrong number of classes: 5 in the checkpoint, 7 in the"),
        ((mmseg_config(head=dict(num_convs=2)), path), {}, r"the file lacks decode_head\.convs\.1"),
        ((dict(model=LRASPP), path), {}, "the weights of another model"),
        ((mmseg_config(), path), dict(device="gpu"), 'device: expected "auto"'),
        ((mmseg_config(), tmp_path / "y.pth"), {}, "no such checkpoint file"),
        (("no-such-model",), {}, "nor a shipped model"),
    ]
    for arguments, options, words in cases:
        with pytest.raises(UserError, match=words) as refusal:
            load_segmenter(*arguments, **{"device": "cpu", **options})
        assert "\n" not in str(refusal.value)


def test_a_loaded_model_knows_what_its_config_says_besides_the_weights():
    def digest(**options):
        config = mmseg_config()
        config.merge_from_dict(options)
        return load_segmenter(config, device="cpu").config_sha256

    plain = digest()
    assert plain == digest(work_dir="elsewhere") and tiny_mmseg().config_sha256 is None
    changed = {"model.test_cfg.mode": "slide"}, {"model.data_preprocessor.mean": [1, 1, 1]}
    assert len({plain, *(digest(**options) for options in changed)}) == 3


def test_random_weights_are_not_silent(caplog):
    with caplog.at_level(logging.WARNING):
        load_segmenter(mmseg_config(), device="cpu")
    assert "the weights are random" in caplog.text


def test_a_shipped_name_needs_no_checkpoint(tmp_path, monkeypatch, images):
    model = tiny_mmseg()
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    assert shipped.zoo() == {}
    config = mmseg_config().to_dict() | {"description": "five classes, tiny"}
    (tmp_path / "tiny-std.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"tiny-std\.safetensors is missing"):
        shipped.zoo()
    save_file(model.module.state_dict(), tmp_path / "tiny-std.safetensors")
    (entry,) = shipped.zoo().values()
    assert (entry.name, entry.description) == ("tiny-std", "five classes, tiny")
    for config in ("tiny-std", tmp_path / "tiny-std.json"):
        assert torch.equal(load_segmenter(config, device="cpu")(images), in_memory_of_loaded(model)(images))
    with pytest.raises(UserError, match="did you mean the shipped model tiny-std"):
        load_segmenter("tiny-std2")


def test_every_shipped_model_loads_and_predicts(images):
    for name, entry in shipped.zoo().items():
        model = load_segmenter(name, device="cpu")
        assert entry.description
        assert entry.weights_path.stat().st_size <= 5_000_000
        with torch.no_grad():
            logits = model(images)
        assert logits.shape == (1, model.num_classes, 64, 96)
        assert logits.isfinite().all()
        assert len(set(model.class_names)) == model.num_classes


def test_load_segmenter_leaves_the_format_alone_on_request():
    for wanted in (True, False):
        model = load_segmenter(mmseg_config(), device="cpu", channels_last=wanted)
        kernel = model.module.backbone.layer1[0].conv1.weight
        assert kernel.is_contiguous(memory_format=torch.channels_last) == wanted
