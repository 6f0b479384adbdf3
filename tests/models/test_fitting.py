"""Which models some weights fit: what the table says is what the strict loader does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segrobust.core.errors import UserError
from segrobust.models.checkpoint.loading import load_state_dict, load_strict
from segrobust.models.checkpoint.reading import sha256
from segrobust.models.fitting import GIVEN, TORCHVISION, best_first, fit_of, given_fit, known_fits
from segrobust.models.load import load_segmenter
from segrobust.models.papers.architectures import build_network
from segrobust.models.published import PUBLISHED
from segrobust.models.shipped import zoo
from tests.models.papers.manifests import one_number_per_key, write_as_published
from tests.models.tiny import TinyNet

OWN = TinyNet().state_dict()
CHANGES = {  # of the weights, and then: match, missing, unexpected, other shape
    "none": (lambda w: w, (9, 0, 0, 0)),
    "under a wrapper": (lambda w: {f"module.model.{key}": value for key, value in w.items()}, (9, 0, 0, 0)),
    "a counter less": (lambda w: {key: w[key] for key in w if "tracked" not in key}, (8, 0, 0, 0)),
    "one less": (lambda w: {key: w[key] for key in w if key != "last.bias"}, (8, 1, 0, 0)),
    "two more": (lambda w: {**w, "aux.weight": torch.ones(1), "aux.bias": torch.ones(1)}, (9, 0, 2, 0)),
    "more classes": (lambda w: {**w, "last.weight": torch.ones(7, 8, 1, 1), "last.bias": torch.ones(7)}, (7, 0, 0, 2)),
    "integers": (lambda w: {**w, "last.bias": torch.ones(5, dtype=torch.int64)}, (8, 0, 0, 1)),
    "another network": (lambda w: {f"x.{key}.y": value for key, value in w.items()}, (0, 8, 9, 0)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_counts_and_verdict_are_those_of_the_strict_loader(change):
    alter, counts = CHANGES[change]
    weights = alter(dict(OWN))
    fit = fit_of("tiny", GIVEN, OWN, weights)
    assert (fit.match, fit.missing, fit.unexpected, fit.other_shape) == counts
    try:
        load_strict(TinyNet(), weights, "w.pth")
        assert fit.fits and fit.misfit == ""
    except UserError as error:
        assert not fit.fits and str(error) == f"w.pth: {fit.misfit}"


def test_the_best_stand_first():
    fits = [fit_of(name, GIVEN, OWN, alter(dict(OWN))) for name, (alter, _) in CHANGES.items()]
    names = [fit.name for fit in best_first(fits)]
    assert names[:3] == ["none", "under a wrapper", "a counter less"]  # these fit
    assert names[3:] == ["one less", "integers", "two more", "more classes", "another network"]


@pytest.mark.parametrize("name", zoo())
def test_a_shipped_file_is_recognised_among_those_of_its_kind(name):
    path = zoo()[name].weights_path
    first, *rest = known_fits(path, load_state_dict(path), sha256(path))
    assert (first.name, first.fits, first.hint) == (name, True, "the same file")
    others, rest = rest[: len(zoo()) - 1], rest[len(zoo()) - 1 :]  # of the same architecture
    assert {fit.name for fit in others} == zoo().keys() - {name}
    assert all((fit.fits, fit.hint) == (True, "") for fit in others) and not any(fit.fits for fit in rest)


@pytest.mark.parametrize(
    ("name", "file", "alike"),
    [
        ("pirat-upernet-convnext-t-voc", "UperNet_ConvNext_T_VOC.pth", []),
        ("pirat-segmenter-vit-s-ade20k", "mine.pth", []),
        ("ddcat-pspnet50-voc-sat", "mine.pth",
         ["pirat-pspnet50-deepstem-voc", "ddcat-pspnet50-voc-nodefense", "ddcat-pspnet50-voc-sat"]),
        ("ddcat-deeplabv3-50-cityscapes-ddcat", "train_epoch_400.pth", []),
    ],
)  # fmt: skip
def test_published_layouts_are_recognised_by_keys_and_shapes(name, file, alike, tmp_path):
    one = PUBLISHED[name]
    with torch.device("meta"):
        state = build_network(one.arch, one.data.num_classes).state_dict()
    path = write_as_published(name, one_number_per_key(state), tmp_path / file)
    fits = known_fits(path, load_state_dict(path), "0" * 64)
    assert [fit.name for fit in fits if fit.fits] == (alike or [name])
    told = {fit.name for fit in fits if fit.hint}
    assert (name in told) == (file != "mine.pth") and all(fit.hint in ("", "the name of its file") for fit in fits)
    if name == "pirat-upernet-convnext-t-voc":
        _, classes, depth = fits[:3]
        assert classes.name == "pirat-upernet-convnext-t-ade20k" and "number of classes: 21" in classes.misfit
        assert (classes.match, classes.missing, classes.unexpected, classes.other_shape) == (268, 0, 0, 4)
        assert depth.name == "pirat-upernet-convnext-s-voc"  # has all keys of the file, and more
        assert (depth.match, depth.missing, depth.unexpected, depth.other_shape) == (272, 162, 0, 0)


def test_a_name_does_not_make_a_file_fit(tmp_path):
    name = "pirat-upernet-convnext-s-voc"
    with torch.device("meta"):
        state = build_network(PUBLISHED[name].arch, 21).state_dict()
    path = write_as_published(name, one_number_per_key(state), tmp_path / "UperNet_ConvNext_T_VOC.pth")
    first, second, *_ = known_fits(path, load_state_dict(path), "0" * 64)
    assert (first.name, first.fits, first.hint) == (name, True, "")
    assert (second.name, second.fits) == ("pirat-upernet-convnext-t-voc", False) and second.hint


@pytest.mark.parametrize(
    ("arch", "options", "prefix"),
    [
        ("lraspp_mobilenet_v3_large", {"num_classes": 4}, ""),
        ("fcn_resnet50", {"num_classes": 3, "aux_loss": True}, "module."),
        ("deeplabv3_mobilenet_v3_large", {"num_classes": 5}, "model."),
    ],
)
def test_torchvisions_models_are_named_as_a_config_has_them(arch, options, prefix, tmp_path):
    from torchvision.models import get_model

    state = get_model(arch, weights=None, weights_backbone=None, **options).state_dict()
    torch.save({"model": {f"{prefix}{key}": value for key, value in state.items()}}, tmp_path / "w.pth")
    best = known_fits(tmp_path / "w.pth", load_state_dict(tmp_path / "w.pth"), "0" * 64)[0]
    assert best.kind == TORCHVISION and best.fits
    settings: dict = {}
    exec(best.name, settings)  # noqa: S102  (a line that we made)
    assert settings["model"] == {"type": "TorchvisionSegmenter", "arch": arch, **options}
    load_segmenter({"model": settings["model"]}, tmp_path / "w.pth", device="cpu")


def test_weights_of_nobody_known_share_no_key():
    weights = {"odd.weight": torch.ones(3), "classifier.4.weight": torch.tensor(1.0)}
    assert known_fits("x.pth", weights, "0" * 64) == []


def test_a_function_and_its_envelope_in_a_config(tmp_path, monkeypatch):
    build, none = "def build():\n    return nn.Sequential(nn.Conv2d(3, 4, 1))\n", "def none():\n    return 3\n"
    (tmp_path / "fitting_net.py").write_text(f"from torch import nn\n\n\n{build}\n\n{none}")
    settings = (
        f"dict(type='PythonSegmenter', factory='{tmp_path}/fitting_net.py:build', num_classes=4, envelope='nets.b')"
    )
    (tmp_path / "c.py").write_text(f"model = {settings}\n")
    weights = nn.Sequential(nn.Conv2d(3, 4, 1)).state_dict()
    torch.save({"model": {"a.b": torch.ones(1)}, "nets": {"b": weights}}, tmp_path / "w.pth")
    monkeypatch.syspath_prepend(tmp_path)
    fit = given_fit(f"{tmp_path}/fitting_net.py:build", tmp_path / "w.pth", weights)
    assert (fit.kind, fit.fits, fit.match) == (GIVEN, True, 2)
    fit = given_fit(str(tmp_path / "c.py"), tmp_path / "w.pth", load_state_dict(tmp_path / "w.pth"))
    assert fit.fits and fit.match == 2  # those that the config's envelope names
    with pytest.raises(UserError, match=r"none returned a int; expected a torch\.nn\.Module"):
        given_fit(f"{tmp_path}/fitting_net.py:none", tmp_path / "w.pth", weights)
    fit = given_fit("pirat-segmenter-vit-s-ade20k", tmp_path / "w.pth", weights)
    assert not fit.fits and fit.missing == 185
