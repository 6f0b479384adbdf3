"""Every published layout: the network has its keys, a file of it loads strictly by name, and any other is refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from segrobust.core.errors import UserError
from segrobust.models.checkpoint.loading import load_strict
from segrobust.models.load import load_segmenter
from segrobust.models.papers.architectures import ARCHITECTURES, build_network
from segrobust.models.published import PUBLISHED
from tests.models.papers.manifests import (
    DIGESTS,
    digest,
    manifest,
    manifest_lines,
    one_number_per_key,
    state_lines,
    write_as_published,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def skeleton(name: str) -> torch.nn.Module:
    """The network without any memory behind its weights."""
    one = PUBLISHED[name]
    with torch.device("meta"):
        return build_network(one.arch, one.data.num_classes).eval()


@pytest.fixture(scope="module", params=PUBLISHED)
def name(request) -> str:
    return request.param


def test_there_is_a_name_for_every_manifest_and_every_network_has_one():
    assert PUBLISHED.keys() == DIGESTS.keys() and len(DIGESTS) == 19
    assert {one.arch for one in PUBLISHED.values()} == ARCHITECTURES.keys()


def test_the_network_has_exactly_the_published_keys_shapes_and_types(name):
    net = skeleton(name)
    assert digest(state_lines(net.state_dict())) == DIGESTS[name]
    assert sum(one.numel() for one in net.parameters()) == PUBLISHED[name].parameters


def test_the_facts_are_those_of_the_manifest(name):
    facts, one = manifest(name), PUBLISHED[name]
    if facts is None:
        pytest.skip("the manifests are not there; set SEGROBUST_SPEC to the folder that holds checkpoints/")
    lines = manifest_lines(facts)
    assert digest(lines) == DIGESTS[name] and sorted(lines) == sorted(state_lines(skeleton(name).state_dict()))
    assert (facts["num_classes"], facts["counts"]["parameter_elements"]) == (one.data.num_classes, one.parameters)
    checkpoint, source = facts["checkpoint"], facts["source"]
    assert (checkpoint["file"], checkpoint["wrapper_key"]) == (one.file, one.paper.envelope)
    assert (checkpoint["key_prefix"], source["repo"]) == (one.paper.prefix, one.paper.repository)
    for entry, plain in (("mean", [0.0] * 3), ("std", [1.0] * 3)):
        assert facts["input"][entry] == (one.paper.normalisation[entry] or plain)
    assert facts["dataset"].replace("PASCAL ", "").startswith(one.data.name)
    if "mIoU_sea_linf_4_255" in (printed := facts["published"] or {}):
        assert printed["clean_mIoU"] == one.scores["clean"].miou
        assert [printed[f"mIoU_sea_linf_{eps}_255"] for eps in (4, 8)] == [
            one.scores[f"SEA {eps}/255"].miou for eps in (4, 8)
        ]
    if one.paper.name == "PIR-AT" and (paper := facts.get("paper")):
        assert (paper["clean_aAcc"], paper["clean_mIoU"]) == one.scores["clean"]


def test_a_file_of_the_published_layout_loads_strictly_by_name(name, tmp_path):
    one = PUBLISHED[name]
    state = one_number_per_key(skeleton(name).state_dict())
    model = load_segmenter(name, write_as_published(name, state, tmp_path / "published.pth"), device="cpu")
    loaded = model.net.state_dict()
    assert loaded.keys() == state.keys()
    for key, value in state.items():
        assert loaded[key].dtype == value.dtype and (loaded[key] == value).all(), key
    assert (model.name, model.num_classes, model.ignore_index) == (name, one.data.num_classes, 255)
    assert model.class_names[-1] == {21: "tvmonitor", 151: "flag", 19: "bicycle"}[model.num_classes]
    assert model.class_names[0] == {21: "background", 151: "other", 19: "road"}[model.num_classes]
    assert not any(part.training for part in model.modules())
    assert not [key for key in model.state_dict() if not key.startswith("net.")]
    normalised = name.startswith("ddcat")
    assert model.normalise == normalised
    if normalised:
        assert torch.equal(torch.stack([model.mean.flatten(), model.std.flatten()]), torch.tensor([MEAN, STD]))


def test_at_the_protocols_size_there_are_logits_and_a_gradient(name):
    one, net = PUBLISHED[name], skeleton(name)
    side = {"Cityscapes": 449, "VOC 2012": 473, "ADE20K": 512}[one.data.name]
    images = torch.empty(2, 3, side, side, device="meta", requires_grad=True)
    logits = net(images)
    (gradient,) = torch.autograd.grad(logits.sum(), images)
    assert logits.shape == (2, one.data.num_classes, side, side) and gradient.shape == images.shape


def test_a_missing_an_extra_and_a_misshaped_key_are_refused_in_one_line(name):
    net = skeleton(name)
    state = one_number_per_key(net.state_dict())
    weights = [key for key in state if key.endswith("weight")]
    for key in (weights[0], weights[len(weights) // 2], weights[-1]):
        fewer = {other: value for other, value in state.items() if other != key}
        more = state | {f"{key}.more": torch.ones(1)}
        for wrong, words in (
            (fewer, f"the file lacks {key}; is it the right"),
            (more, f"the model has no place for {key}.more; is it the right"),
            (state | {key: torch.ones(5, 4, 3)}, f"{key} has shape [5, 4, 3]"),
        ):
            with pytest.raises(UserError) as refusal:
                load_strict(net, wrong, "published.pth")
            assert words in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("asked", "given", "words"),
    [
        ("pirat-pspnet50-voc", "pirat-pspnet50-deepstem-voc", "do not fit this model"),
        ("ddcat-pspnet50-voc-sat", "ddcat-pspnet50-voc-ddcat", "do not fit this model"),
        ("ddcat-pspnet50-voc-sat", "ddcat-pspnet50-cityscapes-sat", "19 in the checkpoint, 21 in the model"),
        ("ddcat-deeplabv3-50-voc-ddcat", "ddcat-deeplabv3-50-voc-sat", "do not fit this model"),
        ("pirat-upernet-convnext-t-voc", "pirat-upernet-convnext-s-voc", "has no place for backbone.stages.2.9.gamma"),
        ("pirat-segmenter-vit-s-ade20k", "pirat-upernet-convnext-t-ade20k", "the weights of another model"),
    ],
)
def test_the_file_of_another_name_is_refused(asked, given, words, tmp_path):
    state = one_number_per_key(skeleton(given).state_dict())
    file = write_as_published(given, state, tmp_path / "published.pth")
    with pytest.raises(UserError, match=words) as refusal:
        load_segmenter(asked, file, device="cpu")
    assert "\n" not in str(refusal.value)


def test_safetensors_of_the_same_weights_load_too(tmp_path):
    name = "pirat-segmenter-vit-s-ade20k"
    state = {key: value.clone() for key, value in one_number_per_key(skeleton(name).state_dict()).items()}
    save_file(state, tmp_path / "converted.safetensors")
    loaded = load_segmenter(name, tmp_path / "converted.safetensors", device="cpu").net.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_a_file_that_runs_code_is_refused(tmp_path):
    class Runs:
        def __reduce__(self):
            return print, ("ran",)

    torch.save({"epoch": 1, "state_dict": {"module.a": torch.ones(1)}, "optimizer": Runs()}, tmp_path / "bad.pth")
    with pytest.raises(UserError, match="refused, it holds more than plain weights"):
        load_segmenter("ddcat-pspnet50-voc-sat", tmp_path / "bad.pth", device="cpu")


def test_wrong_settings_are_told():
    for change, words in (
        (dict(arch="pspnet51", num_classes=3), "unknown network of a paper 'pspnet51'; did you mean pspnet50"),
        (dict(arch="pspnet50"), r"model=dict\(type='PaperSegmenter', ...\): .*num_classes"),
        (dict(arch="pspnet50", num_classes=3, deep=True), "unexpected keyword argument 'deep'"),
    ):
        with pytest.raises(UserError, match=words):
            load_segmenter(dict(model=dict(type="PaperSegmenter", **change)), device="cpu")
