"""Models of transformers: the library's own predictions, from a local folder alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from segrobust.attacks import build_attack
from segrobust.core.errors import UserError
from segrobust.models.adapters.huggingface import HuggingFaceSegmenter
from segrobust.models.digests import model_identity
from segrobust.models.load import load_segmenter
from tests.models.adapters.saved import CLASSES, SIDE, huggingface_parts, no_sockets, odd_images, save_huggingface

pytest.importorskip("transformers")
KINDS = ["segformer", "upernet", "dpt", "eomt", "maskformer", "mask2former"]
QUERIES = ("eomt", "maskformer", "mask2former")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    no_sockets(monkeypatch)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """A saved model of each kind, in a folder of its name."""
    root = tmp_path_factory.mktemp("saved")
    for kind in KINDS:
        save_huggingface(root / kind, kind)
    return root


@pytest.fixture
def segformer(folders, tmp_path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(folders / "segformer", tmp_path / "segformer"))


def edit(file: Path, **changes) -> None:
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def predicted(folder: Path, images: Tensor, eight_bit: bool = False) -> tuple[Tensor, Tensor]:
    """Scores and classes as the library's users get them."""
    import transformers as hf

    kind = json.loads((folder / "config.json").read_text())["architectures"][0]
    net = getattr(hf, kind).from_pretrained(folder, local_files_only=True).eval()
    processor = hf.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    pixels = images * 255
    inputs = processor(list(pixels.round().byte() if eight_bit else pixels), return_tensors="pt")
    with torch.no_grad():
        outputs = net(**inputs)
    sizes = [tuple(images.shape[-2:])] * len(images)
    scores = processor.post_process_semantic_segmentation(outputs, sizes, return_segmentation_scores=True)
    classes = processor.post_process_semantic_segmentation(outputs, sizes)
    return torch.stack([one.segmentation_scores for one in scores]), torch.stack(classes)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_classes_are_those_of_the_library_on_odd_sizes(folders, kind):
    model, images = (
        load_segmenter(dict(model=dict(type="HuggingFaceSegmenter", folder=str(folders / kind)))),
        odd_images(),
    )
    scores, classes = predicted(folders / kind, images)
    with torch.no_grad():
        logits = model(images)
    assert logits.shape == (2, CLASSES, 45, 71) and logits.dtype == torch.float32
    torch.testing.assert_close(logits.exp() if kind in QUERIES else logits, scores, rtol=1e-4, atol=1e-5)
    assert (logits.argmax(1) != classes).float().mean() < 1e-3 and classes.unique().numel() > 1


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_8_bits_get_the_same_classes(folders, kind):
    """The library rounds resized pixels to 8 bits; what is attacked, and reported, is not rounded."""
    images = (odd_images() * 255).round() / 255
    images = images.repeat_interleave(3, -1).repeat_interleave(3, -2)
    model = HuggingFaceSegmenter(str(folders / kind))
    with torch.no_grad():
        found = model(images).argmax(1)
    assert (found == predicted(folders / kind, images, eight_bit=True)[1]).float().mean() > 0.97


@pytest.mark.parametrize("kind", KINDS)
def test_every_pixel_has_a_gradient_and_it_is_the_right_one(folders, kind):
    model, images = HuggingFaceSegmenter(str(folders / kind)), odd_images()[:1]
    weights = torch.randn(1, CLASSES, 45, 71, generator=torch.Generator().manual_seed(0))

    def value(points: Tensor) -> Tensor:
        return (model(points).softmax(1) * weights).sum()

    points = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(points), points)
    assert (gradient.abs().sum(1) > 0).float().mean() > 0.95
    step = 2e-4 * gradient / gradient.norm()
    with torch.no_grad():
        rise = value(images + step) - value(images - step)
    assert torch.isclose(rise, 4e-4 * gradient.norm(), rtol=0.05)


def test_attacks_find_what_they_look_for(folders):
    for kind in ("segformer", "mask2former"):
        model, images = HuggingFaceSegmenter(str(folders / kind)), odd_images()
        with torch.no_grad():
            labels = model(images).argmax(1)
        result = build_attack("CEPGD", steps=4, eps="16/255")(model, images, labels)
        assert (result.pixel_error > 0.02).all()
        assert all(parameter.grad is None for parameter in model.parameters())


def test_a_pass_inside_inference_mode_leaves_later_ones_a_gradient(segformer):
    model = HuggingFaceSegmenter(str(segformer))
    with torch.inference_mode():
        model(odd_images())
    points = odd_images().requires_grad_()
    assert torch.autograd.grad(model(points)[:, 0].sum(), points)[0].abs().sum() > 0


def test_preparation_comes_from_the_folder(segformer):
    images, before = odd_images(), HuggingFaceSegmenter(str(segformer))
    for change in (dict(image_mean=[0.1, 0.2, 0.3]), dict(image_std=[0.5, 0.6, 0.7]), dict(rescale_factor=1 / 127.5),
                   dict(size=dict(height=32, width=96)), dict(do_resize=False)):  # fmt: skip
        edit(segformer / "preprocessor_config.json", **change)
        model = HuggingFaceSegmenter(str(segformer))
        torch.testing.assert_close(model(images), predicted(segformer, images)[0], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(model(images), before(images))
        assert model_identity(model)["config_sha256"] != model_identity(before)["config_sha256"]
        before = model
    resized = HuggingFaceSegmenter(str(segformer), resize=True)
    assert not torch.allclose(resized(images), model(images))
    assert resized.config_sha256 != model.config_sha256


def test_what_the_folder_says_of_classes_and_labels(tmp_path):
    names = {index: f"thing {index}" for index in range(CLASSES)}
    save_huggingface(tmp_path, names=names, do_reduce_labels=True)
    model = HuggingFaceSegmenter(str(tmp_path))
    assert model.class_names == tuple(names.values()) and model.reduce_labels and model.ignore_index == 255
    edit(tmp_path / "preprocessor_config.json", do_reduce_labels=None, reduce_labels=True)
    assert HuggingFaceSegmenter(str(tmp_path)).reduce_labels
    edit(tmp_path / "preprocessor_config.json", reduce_labels=None)
    edit(tmp_path / "config.json", semantic_loss_ignore_index=7)
    other = HuggingFaceSegmenter(str(tmp_path), class_names=list("abcde"))
    assert not other.reduce_labels and other.ignore_index == 7 and other.class_names == tuple("abcde")


def test_the_identity_is_of_weights_and_files_wherever_they_lie(folders, tmp_path):
    def identity(folder: Path) -> dict:
        return model_identity(load_segmenter(f"hf:{folder}", device="cpu"))

    moved = tmp_path / "elsewhere" / "segformer"
    shutil.copytree(folders / "segformer", moved)
    first = identity(folders / "segformer")
    assert identity(moved) == first
    edit(moved / "preprocessor_config.json", do_resize=False)
    other = identity(moved)
    assert other["config_sha256"] != first["config_sha256"] and other["weights_sha256"] == first["weights_sha256"]
    save_huggingface(moved, names=None, do_resize=False)
    from safetensors.torch import load_file, save_file

    weights = load_file(moved / "model.safetensors")
    save_file({key: value + 1 if key.endswith("bias") else value for key, value in weights.items()},
              moved / "model.safetensors", metadata={"format": "pt"})  # fmt: skip
    assert identity(moved)["weights_sha256"] != first["weights_sha256"]


def test_weights_in_parts_and_in_plain_pickles_and_from_a_checkpoint(folders, segformer, tmp_path):
    from safetensors.torch import load_file, save_file

    images = odd_images()
    expected = HuggingFaceSegmenter(str(folders / "segformer"))(images)
    weights = load_file(segformer / "model.safetensors")
    (segformer / "model.safetensors").rename(tmp_path / "weights.safetensors")
    torch.save(weights, segformer / "pytorch_model.bin")
    assert torch.equal(HuggingFaceSegmenter(str(segformer))(images), expected)
    (segformer / "pytorch_model.bin").unlink()
    parts = {"a.safetensors": dict(list(weights.items())[::2]), "b.safetensors": dict(list(weights.items())[1::2])}
    for name, part in parts.items():
        save_file(part, segformer / name)
    index = {"weight_map": {key: name for name, part in parts.items() for key in part}}
    (segformer / "model.safetensors.index.json").write_text(json.dumps(index))
    model = load_segmenter(dict(model=dict(type="HuggingFaceSegmenter", folder=str(segformer))), device="cpu")
    torch.testing.assert_close(model(images), expected)
    save_file({key: value * 2 for key, value in weights.items()}, tmp_path / "twice.safetensors")
    for name, same in (("weights", True), ("twice", False)):
        model = load_segmenter(f"hf:{segformer}", tmp_path / f"{name}.safetensors", device="cpu")
        assert torch.allclose(model(images), expected, atol=1e-5) == same


class Runs:
    """A pickle that runs a program when it is read."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('it ran')",))


def wrong_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Runs()}, folder / "pytorch_model.bin")


def fewer_weights(folder: Path, drop: str = "classifier.bias", add: bool = False) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    value = weights.pop(next(key for key in weights if key.endswith(drop)))
    save_file(weights | ({"another.bias": value + 1, f"decode_head.{drop}": value} if add else {}),
              folder / "model.safetensors")  # fmt: skip


WRONG = {
    "no folder": (shutil.rmtree, "no such folder, and nothing is downloaded"),
    "no config": (lambda f: (f / "config.json").unlink(), "expected config.json and weights"),
    "no processor": (lambda f: (f / "preprocessor_config.json").unlink(), "preprocessor_config.json is missing"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no weights in it; expected model.safetensors"),
    "not JSON": (lambda f: (f / "config.json").write_text("{"), "config.json is not JSON"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "expected a JSON object, got list"),
    "another library": (lambda f: edit(f / "config.json", model_type=None, _model_class="Unet"), r"smp:FOLDER"),
    "no such type": (lambda f: edit(f / "config.json", model_type="segfromer"), "did you mean segformer"),
    "a classifier": (lambda f: edit(f / "config.json", model_type="vit"), "unknown segmenter of transformers 'vit'"),
    "of a classifier": (
        lambda f: edit(f / "config.json", architectures=["SegformerForImageClassification"]),
        "the weights of a SegformerForImageClassification; expected those of a SegformerForSemanticSegmentation",
    ),
    "a program as weights": (wrong_weights, "refused, it holds more than plain weights"),
    "a weight less": (fewer_weights, r"the file lacks decode_head\.classifier\.bias"),
    "a weight more": (lambda f: fewer_weights(f, add=True), r"the model has no place for another\.bias"),
    "other shapes": (lambda f: edit(f / "config.json", decoder_hidden_size=24), "size mismatch|mismatch"),
    "quantised": (lambda f: edit(f / "config.json", quantization_config={}), "quantised weights have no gradient"),
    "another processor": (
        lambda f: edit(f / "preprocessor_config.json", image_processor_type="ViTImageProcessor"),
        "ViTImageProcessor gives no semantic segmentation",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_folders_are_refused_in_one_line(segformer, case):
    change, words = WRONG[case]
    change(segformer)
    with pytest.raises(UserError, match=words) as refusal:
        load_segmenter(f"hf:{segformer}", device="cpu")
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 700


def test_code_and_backbones_that_a_folder_names_are_left_alone(folders, segformer, tmp_path):
    """Neither is a program of the folder's run, nor a backbone's weights asked for."""
    (segformer / "modeling.py").write_text("raise SystemExit('it ran')")
    named = {"AutoConfig": "modeling.Config", "AutoModelForSemanticSegmentation": "modeling.Model"}
    edit(segformer / "config.json", auto_map=named)
    edit(segformer / "preprocessor_config.json", auto_map={"AutoImageProcessor": "modeling.Processor"})
    images = odd_images()
    assert torch.equal(load_segmenter(f"hf:{segformer}", device="cpu")(images),
                       load_segmenter(f"hf:{folders / 'segformer'}", device="cpu")(images))  # fmt: skip
    upernet = Path(shutil.copytree(folders / "upernet", tmp_path / "upernet"))
    edit(upernet / "config.json", use_pretrained_backbone=True)
    HuggingFaceSegmenter(str(upernet))
    edit(upernet / "config.json", backbone_config=None, backbone="microsoft/resnet-50")
    with pytest.raises(UserError, match=r"upernet: config\.json: .*offline|upernet: .*resnet-50"):
        HuggingFaceSegmenter(str(upernet))


def test_the_package_that_is_missing_is_named_with_its_extra(segformer, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"needs the package transformers: pip install 'segrobust\[huggingface\]'"):
        HuggingFaceSegmenter(str(segformer))


def test_a_folder_beside_the_config_is_found(folders, tmp_path, monkeypatch):
    shutil.copytree(folders / "segformer", tmp_path / "configs" / "mine")
    (tmp_path / "configs" / "x.py").write_text("model = dict(type='HuggingFaceSegmenter', folder='mine')")
    monkeypatch.chdir(tmp_path)
    assert load_segmenter("configs/x.py", device="cpu").name == "mine"
    with pytest.raises(UserError, match="num_classes: the model has 5; leave it out"):
        HuggingFaceSegmenter("configs/mine", num_classes=4)


def test_nothing_of_the_librarys_settings_is_changed(folders, caplog):
    import huggingface_hub.constants as hub
    from transformers.utils import logging as log

    before = hub.HF_HUB_OFFLINE, log.get_verbosity(), log.is_progress_bar_enabled()
    load_segmenter(f"hf:{folders / 'segformer'}", device="cpu")
    assert (hub.HF_HUB_OFFLINE, log.get_verbosity(), log.is_progress_bar_enabled()) == before
    assert "random" not in caplog.text
    assert huggingface_parts("segformer")[1].size["height"] == SIDE
