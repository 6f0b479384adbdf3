"""Networks that a user's function makes, from a config: found, built, described, loaded; or refused in one line."""

from __future__ import annotations

import copy
import json
import logging
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from segrobust import register_segmenter
from segrobust.core.errors import UserError
from segrobust.models.load import load_segmenter
from segrobust.models.mm import load_config
from segrobust.models.registry import SEGMENTERS
from segrobust.models.segmenter import Segmenter
from segrobust.runs.users_code import users_code

FILE = """
from torch import nn

SLOPE = 1.5

def build(channels=5, wrap=None, scale=1.0):
    return nn.Sequential(nn.Conv2d(3, channels, 1), *([wrap] if wrap else []))

def no_net():
    return {"state": 1}

def fails(depth):
    raise RuntimeError(f"no depth {depth}\\nsecond line")

CONSTANT = 3
"""
MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Beside the current folder, with the user's file in it; what is imported from there is forgotten afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "the_users_net.py").write_text(FILE)
    yield tmp_path / "code"
    sys.modules.pop("the_users_net", None)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))


def settings(folder: Path, **changes) -> dict:
    model = {"type": "PythonSegmenter", "factory": f"{folder}/the_users_net.py:build", "num_classes": 5, **changes}
    return {"model": {name: value for name, value in model.items() if value is not None}}


def loaded(folder: Path, checkpoint: Path | None = None, **changes) -> Segmenter:
    return load_segmenter(settings(folder, **changes), checkpoint, device="cpu")


@pytest.fixture
def weights(folder) -> Path:
    torch.manual_seed(0)
    torch.save(nn.Sequential(nn.Conv2d(3, 5, 1)).state_dict(), folder / "x.pth")
    return folder / "x.pth"


def by_hand(weights: Path, pixels: torch.Tensor) -> torch.Tensor:
    state = torch.load(weights, weights_only=True)
    return nn.functional.conv2d(pixels, state["0.weight"], state["0.bias"])


def column(values) -> torch.Tensor:
    return torch.tensor(values).view(1, 3, 1, 1)


@pytest.mark.parametrize(
    ("options", "pixels", "channels"),
    [
        ({}, lambda x: x, range(5)),
        ({"mean": MEAN, "std": STD}, lambda x: (x - column(MEAN)) / column(STD), range(5)),
        ({"input_range": 255}, lambda x: 255 * x, range(5)),
        ({"channel_order": "bgr"}, lambda x: x[:, [2, 1, 0]], range(5)),
        (
            {"channel_order": "bgr", "input_range": 255, "mean": (10.0, 20.0, 30.0), "std": (50.0, 60.0, 70.0)},
            lambda x: (255 * x[:, [2, 1, 0]] - column((10.0, 20.0, 30.0))) / column((50.0, 60.0, 70.0)),
            range(5),
        ),
        ({"num_classes": 3, "keep_classes": [1, 2, 3]}, lambda x: x, [1, 2, 3]),
        ({"num_classes": 3, "keep_classes": [4, 0, 2]}, lambda x: x, [4, 0, 2]),
    ],
)
def test_what_lies_between_image_and_network_is_inside(folder, weights, images, options, pixels, channels):
    model = loaded(folder, weights, **options)
    before = images.clone()
    expected = by_hand(weights, pixels(images))[:, list(channels)]
    torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(images, before)


def test_a_file_is_looked_for_beside_the_config_and_in_the_current_folder(folder, weights, images):
    (folder / "x.py").write_text(
        "model = dict(type='PythonSegmenter', factory='the_users_net.py:build', num_classes=5)"
    )
    first = load_segmenter(folder / "x.py", weights, device="cpu")(images)
    sys.modules.pop("the_users_net")
    (folder / "the_users_net.py").rename("the_users_net.py")
    for config in (folder / "x.py", {"model": load_config(folder / "x.py").model}):
        assert torch.equal(load_segmenter(config, weights, device="cpu")(images), first)
    (folder / "the_users_net.py").write_text(FILE)
    with pytest.raises(UserError, match=r"Python has another module 'the_users_net', from .*; rename the file"):
        load_segmenter(folder / "x.py", weights, device="cpu")


def test_a_module_that_python_finds_will_do(folder, weights, images, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    model = loaded(folder, weights, factory="the_users_net:build", kwargs={"channels": 5})
    torch.testing.assert_close(model(images), by_hand(weights, images))


REFUSED = {
    "no function": (
        {"factory": "the_users_net.py"},
        r"FILE\.py:FUNCTION or MODULE:FUNCTION, .* got 'the_users_net.py'",
    ),
    "no text": ({"factory": 3}, "factory: expected text such as my_net.py:build, got 3"),
    "no file": ({"factory": "missing.py:build"}, r"factory: missing\.py: no such file"),
    "no module": ({"factory": "no.such.module:build"}, "no.such.module: cannot be imported: ModuleNotFoundError"),
    "a typing error": ({"factory": "{}/the_users_net.py:bulid"}, "unknown function 'bulid'; did you mean build"),
    "a constant": ({"factory": "{}/the_users_net.py:CONSTANT"}, "unknown function 'CONSTANT'"),
    "no network": ({"factory": "{}/the_users_net.py:no_net"}, "no_net returned a dict; expected a torch.nn.Module"),
    "it fails": (
        {"factory": "{}/the_users_net.py:fails", "kwargs": {"depth": 9}},
        r"fails called with \(depth=9\): RuntimeError: no depth 9$",
    ),
    "an unknown argument": ({"kwargs": {"chanels": 5}}, r"called with \(chanels=5\): TypeError: .*'chanels'"),
    "no number of classes": ({"num_classes": None}, "num_classes is missing: how many classes do the labels have"),
    "an unknown option": ({"means": MEAN}, r"model=dict\(type='PythonSegmenter', ...\): .*'means'"),
    "an order": ({"channel_order": "gbr"}, "unknown channel_order 'gbr'"),
    "a range": ({"input_range": 256}, "input_range: expected 1 or 255, .* got 256"),
    "values of another range": ({"mean": (10, 20, 30)}, r"divide them by 255, or set input_range=255"),
    "too few channels": ({"keep_classes": [0, 1]}, r"keep_classes: expected one output channel per class \(5\), got 2"),
    "one channel twice": ({"keep_classes": [0, 1, 2, 3, 3]}, "keep_classes: expected different output channels"),
    "names of channels": ({"keep_classes": "abcde"}, "keep_classes: expected different output channels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_told_in_one_line(case, folder):
    changes, words = REFUSED[case]
    changes = {name: value.format(folder) if isinstance(value, str) else value for name, value in changes.items()}
    with pytest.raises(UserError, match=words) as refusal:
        loaded(folder, **changes)
    assert "\n" not in str(refusal.value)


def test_what_only_the_output_shows_is_told_with_what_the_network_gives(folder, weights, images):
    with pytest.raises(UserError, match=r"got \(2, 5, 6, 8\); is num_classes=4 right\? .*keep_classes names"):
        loaded(folder, weights, num_classes=4)(images)
    with pytest.raises(UserError, match=r"got \(2, 5, 6, 8\); is num_classes=6 right\?$"):
        loaded(folder, weights, num_classes=6)(images)
    with pytest.raises(UserError, match="channel 5 of the network's 5"):
        loaded(folder, weights, num_classes=2, keep_classes=[0, 5])(images)


class Several(nn.Module):
    """Returns its logits inside something."""

    def __init__(self, form) -> None:
        super().__init__()
        self.conv, self.form = nn.Conv2d(3, 4, 1), form

    def forward(self, pixels):
        return self.form(self.conv(pixels))


@pytest.mark.parametrize(
    "form",
    [
        lambda x: (x, 0 * x),
        lambda x: [x],
        lambda x: (x.mean((2, 3)), x, 0 * x),
        lambda x: {"out": x, "aux": 0 * x},
        lambda x: {"logits": x},
    ],
)
def test_the_logits_are_the_first_of_several_outputs(form, images):
    net = Several(form)
    assert torch.equal(Segmenter.wrap(net, num_classes=4)(images), net.conv(images))


def test_outputs_without_logits_are_refused(images):
    for form in (lambda x: (), lambda x: (x.sum(), "logits"), lambda x: {"main": x}):
        with pytest.raises(UserError, match="must return logits"):
            Segmenter.wrap(Several(form), num_classes=4)(images)


def test_an_envelope_names_the_weights_among_others(folder, weights, images):
    state = torch.load(weights, weights_only=True)
    wrong = {name: value + 1 for name, value in state.items()}
    torch.save({"student": {"best": wrong, "last": state}, "teacher": {"best": wrong}, "student.best": state}, weights)
    expected = nn.functional.conv2d(images, state["0.weight"], state["0.bias"])
    for envelope, same in (("student.last", True), ("teacher.best", False), ("student.best", True)):
        assert torch.allclose(loaded(folder, weights, envelope=envelope)(images), expected) == same
    with pytest.raises(UserError, match=r"x\.pth: unknown envelope 'lost'; did you mean last"):
        loaded(folder, weights, envelope="student.lost")


def test_json_which_is_data_may_not_name_a_function(folder):
    path = folder / "x.json"
    path.write_text(json.dumps(settings(folder)))
    with pytest.raises(UserError, match=r"type 'PythonSegmenter' runs a Python file, which only a \.py config may do"):
        load_config(path)
    assert "the_users_net" not in sys.modules


def test_the_functions_file_counts_for_a_run_and_its_folder_does_not(folder, weights):
    def counted(text: str = FILE) -> dict:
        sys.modules.pop("the_users_net", None)
        (folder / "the_users_net.py").write_text(text)
        return users_code([loaded(folder, weights)])

    assert list(counted()) == ["the_users_net"] and counted() == counted()
    assert counted(FILE.replace("SLOPE = 1.5", "SLOPE = 1.6")) != counted()
    plain = counted()
    (folder / "the_users_net.py").write_text(FILE + "# edited while this process runs: not what runs\n")
    assert users_code([loaded(folder, weights)]) == plain
    plain = loaded(folder, weights).config_sha256
    assert loaded(folder, weights, input_range=255).config_sha256 != plain


def test_a_copy_of_it_in_float64_is_the_same_model(folder, weights, images):
    """As the trust check of the gradient makes one."""
    model = loaded(folder, weights)
    exact = copy.deepcopy(model).double()
    torch.testing.assert_close(exact(images.double()).float(), model(images))
    assert exact.made_by == model.made_by and list(model.made_by) == ["the_users_net"]


def test_options_of_wrap_count_for_a_run():
    net = nn.Conv2d(3, 4, 1)
    changes = [{}, {"size_divisor": 2}, {"channel_order": "bgr"}, {"input_range": 255}, {"keep_classes": [3, 2, 1, 0]}]
    digests = [Segmenter.wrap(net, num_classes=4, **one).config_sha256 for one in changes]
    assert digests[0] is None and len(set(digests)) == len(digests)
    assert Segmenter.wrap(net, num_classes=4, channel_order="RGB", input_range=1.0).config_sha256 is None


@pytest.fixture
def mine():
    @register_segmenter
    class OfMyOwn(Segmenter):
        def __init__(self, num_classes: int, gain: float = 1.0) -> None:
            super().__init__(num_classes=num_classes)
            self.conv, self.gain = nn.Conv2d(3, num_classes, 1), gain

        def logits(self, images):
            return self.gain * self.conv(images)

    yield OfMyOwn
    SEGMENTERS.pop("OfMyOwn", None)


def test_a_registered_segmenter_is_built_loaded_and_named_by_the_data(mine, tmp_path, images, caplog):
    caplog.set_level(logging.ERROR)
    twin = mine(3)
    torch.save(twin.state_dict(), tmp_path / "x.pth")
    names = ["road", "car", "sky"]
    data = {"dataset": {"type": "ImageLabelFolder", "metainfo": {"classes": names, "palette": [[1, 2, 3]] * 3}}}
    for kind in ("OfMyOwn", mine):
        config = {"model": {"type": kind, "num_classes": 3, "gain": 2.0}, "test_dataloader": data}
        model = load_segmenter(config, tmp_path / "x.pth", device="cpu")
        torch.testing.assert_close(model(images), 2 * twin(images))
        assert type(model) is mine
        assert model.class_names == ("road", "car", "sky") and model.palette == [(1, 2, 3)] * 3
    with pytest.raises(UserError, match=r"model=dict\(type='OfMyOwn', ...\): .*'gian'"):
        load_segmenter({"model": {"type": "OfMyOwn", "num_classes": 3, "gian": 2.0}}, device="cpu")


def test_names_that_a_model_has_are_not_replaced_by_the_datas(folder, weights):
    data = {"dataset": {"type": "ImageLabelFolder", "metainfo": {"classes": list("vwxyz")}}}
    config = settings(folder, class_names=list("abcde")) | {"test_dataloader": data}
    assert load_segmenter(config, weights, device="cpu").class_names == tuple("abcde")
    assert load_segmenter(settings(folder) | {"test_dataloader": data}, weights, device="cpu").class_names == tuple(
        "vwxyz"
    )


def test_what_is_no_segmenter_is_not_registered():
    for wrong in (nn.Conv2d, "PythonSegmenter", nn.Identity()):
        with pytest.raises(UserError, match="register_segmenter: expected a subclass of Segmenter, got"):
            register_segmenter(wrong)
    with pytest.raises(UserError, match="register_segmenter: there is a segmenter PythonSegmenter already"):
        register_segmenter(type("PythonSegmenter", (Segmenter,), {}))
