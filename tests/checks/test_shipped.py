"""The shipped models on two real images: no check has anything against them but their number."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from segrobust.checks.strength import SURROGATES, _relatives
from segrobust.commands.data import source_from_config
from segrobust.models.load import load_segmenter
from segrobust.models.mm import load_config
from segrobust.models.segmenter import Segmenter
from segrobust.models.shipped import zoo
from tests.checks.looking import BLIND, CLEAN, DIFFER, FEW, levels, look
from tests.checks.models import Changed, misleading


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo())
def test_shipped_models_are_honest(name, camvid, tmp_path):
    source, declared = source_from_config(name, num_images=2), load_config(name)["declared"]
    run = {"attacks": ["TsallisPGD"], "eps": ["4/255"], "steps": 100, "declared": declared}
    found = look(load_segmenter(name, device="cpu"), tmp_path, source, **run)
    assert levels(found, "fail") == set() and levels(found, "warn") <= {FEW}
    assert levels(found, "skipped") == {CLEAN, DIFFER}
    tried = {key: share for key, share in found[BLIND]["numbers"]["tried"].items() if key.startswith("TsallisPGD@")}
    assert tried.keys() == {f"TsallisPGD@{other}" for other in SURROGATES if other != name}
    assert all(0 < share < found[BLIND]["numbers"]["white_box_percent"] for share in tried.values())


@pytest.mark.slow
def test_three_steps_on_the_robust_model_are_noticed(camvid, tmp_path):
    name = SURROGATES[0]
    source = source_from_config(name, num_images=2)
    found = look(load_segmenter(name, device="cpu"), tmp_path, source, attacks=["TsallisPGD"], eps=["4/255"], steps=3)
    assert levels(found, "fail") == set() and levels(found, "warn") == {FEW, "enough steps"}


@pytest.mark.slow
def test_other_models_gradients_find_what_misleading_ones_hide(camvid, tmp_path):
    name = SURROGATES[1]
    net = load_segmenter(name, device="cpu")
    model = Segmenter.wrap(Changed(misleading, net=net), num_classes=net.num_classes, class_names=net.class_names)
    source = source_from_config(name, num_images=2)
    found = look(model, tmp_path, source, attacks=["TsallisPGD"], eps=["4/255"], steps=10)
    assert found[BLIND]["verdict"] == "warn" and found[BLIND]["remedy"].startswith("TsallisPGD@camvid")


def test_every_shipped_model_declares_its_score():
    for entry in zoo().values():
        declared = load_config(entry.name).get("declared")
        assert set(declared) == {"mIoU", "images"} and 0 < declared["mIoU"] < 100 and declared["images"] == 233


def test_relatives_are_the_shipped_models_of_the_same_classes_however_written():
    def relatives(names):
        source = SimpleNamespace(num_classes=len(names), class_names=names)
        bench = SimpleNamespace(device=torch.device("cpu"))
        return set(_relatives(SimpleNamespace(identity={"weights_sha256": ""}, source=source, bench=bench)))

    names = load_segmenter(next(iter(zoo())), device="cpu").class_names
    assert relatives([name.title().replace("_", " ") for name in names]) == set(SURROGATES)
    assert relatives(names[::-1]) == set()
