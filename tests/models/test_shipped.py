"""The shipped models: small, equal to the configs they were trained with, and what is said of them."""

from __future__ import annotations

import json

import pytest
import torch

from segrobust.attacks import build_attack
from segrobust.attacks.segmentation import confusion_counts
from segrobust.commands.data import source_from_config
from segrobust.models.load import load_segmenter
from segrobust.models.mm import load_config
from segrobust.models.shipped import zoo

STANDARD, ROBUST = "camvid-fpn-r18w24-std-180x240", "camvid-fpn-r18w24-sharppgdat-long-linf4-180x240"


def test_a_standard_and_a_robust_model_are_shipped():
    assert {STANDARD, ROBUST} <= set(zoo())


@pytest.mark.parametrize("name", zoo())
def test_config_and_weights(name, repository):
    entry = zoo()[name]
    assert entry.weights_path.stat().st_size <= 5_000_000
    shipped = json.loads(entry.config_path.read_text())
    (trained,) = repository.glob(f"configs/*/{shipped['trained_with']}")
    original = load_config(trained).to_dict()
    for key in ("model", "test_dataloader", "attack_defaults"):
        assert shipped[key] == json.loads(json.dumps(original[key])), key
    model = load_segmenter(name, device="cpu")
    logits = model(torch.rand(1, 3, 180, 240, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (1, 11, 180, 240) and torch.isfinite(logits).all()


def accuracy(name: str, eps: str | None, images: int = 6) -> float:
    source, model = source_from_config(name, num_images=images), load_segmenter(name, device="cpu")
    samples = [source[i] for i in range(images)]
    pixels = torch.stack([sample.image for sample in samples])
    labels = torch.stack([sample.label for sample in samples])
    if eps is not None:
        pixels = build_attack("TsallisPGD", eps=eps, steps=10)(model, pixels, labels).images
    tp, _, fn = confusion_counts(model(pixels).argmax(1), labels, 11)
    return 100 * tp.sum().item() / (tp + fn).sum().item()


def test_the_robust_model_keeps_what_the_standard_one_loses(camvid):
    assert accuracy(STANDARD, None) > 75 and accuracy(ROBUST, None) > 70
    assert accuracy(STANDARD, "4/255") < 15
    assert accuracy(ROBUST, "4/255") > 45


def test_class_counts_are_those_of_the_training_labels(camvid):
    import numpy as np
    from PIL import Image

    counts = np.zeros(256, dtype=np.int64)
    for file in (camvid / "labels" / "train").glob("*.png"):
        counts += np.bincount(np.asarray(Image.open(file)).ravel(), minlength=256)
    stored = load_config(STANDARD)["attack_defaults"]["BalancedPGD"]["class_counts"]
    assert counts[:11].tolist() == list(stored)
