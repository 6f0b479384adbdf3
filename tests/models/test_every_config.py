"""Every shipped config: with random weights it takes one attack step on a miniature image, and needs no network."""

from __future__ import annotations

import dataclasses
import re
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

from segrobust.attacks import Attack, build_attack
from segrobust.commands.training import train
from segrobust.core.digest import config_sha256
from segrobust.datasets.pipeline import metainfo_of
from segrobust.hooks.adversarial_training import AdversarialTrainingHook
from segrobust.hooks.free_training import FreeAdversarialTrainingHook
from segrobust.models.load import load_segmenter
from segrobust.models.mm import load_config
from segrobust.models.pretrained import refuse_downloads
from segrobust.models.segmenter import Segmenter
from tests.commands.test_published import roots, write_archive

FOLDER = Path(__file__).resolve().parents[2] / "configs"
NETWORKS = {
    "pspnet_r50-d8": 49.0, "deeplabv3plus_r50-d8": 43.6, "segformer_mit-b0": 3.7, "segformer_mit-b1": 13.7,
    "segformer_mit-b2": 24.7, "segformer_mit-b3": 44.6, "segformer_mit-b4": 61.4, "segformer_mit-b5": 82.0,
    "upernet_convnext-t": 60.2, "segmenter_vit-s_mask": 26.0,
}  # fmt: skip
CLASSES = {"voc12aug-512x512": 21, "ade20k-512x512": 150, "cityscapes-512x1024": 19}


def standard(file: Path) -> str:
    """The same name for a config and its adversarial variant, which share a network."""
    return file.stem.replace("pgdat-linf4-s3-", "")


FILES = sorted((one for one in FOLDER.glob("*/*.py") if one.parent.name not in ("_base_", "benchmarks")), key=standard)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a config went to the network")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)


@pytest.fixture(scope="module")
def built() -> dict[str, Segmenter]:
    """The last network by its digest: a config and its adversarial variant share one."""
    return {}


def attack_of(config) -> Attack:
    """One step of the attack that the config trains with, else of CEPGD."""
    hooks = [one for one in config.get("custom_hooks") or () if one["type"] == AdversarialTrainingHook.__name__]
    if not hooks:
        return build_attack("CEPGD", eps="4/255", steps=1)
    (settings,) = hooks
    trained_with = AdversarialTrainingHook(**{key: value for key, value in settings.items() if key != "type"}).attack
    return dataclasses.replace(trained_with, steps=1)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_is_built_and_attacked(file, built):
    config = load_config(file)
    refuse_downloads(config.model)
    digest = config_sha256(config.model)
    if digest not in built:
        built.clear()
        torch.manual_seed(0)
        built[digest] = load_segmenter(config, device="cpu")
    model, random = built[digest], torch.Generator().manual_seed(0)
    assert model.num_classes == len(metainfo_of(config.test_dataloader.dataset)["classes"]) == len(model.class_names)
    images = torch.rand(1, 3, 32, 32, generator=random)
    labels = torch.randint(model.num_classes, (1, 32, 32), generator=random)
    attack, radius = attack_of(config), re.search(r"-linf(\d+)-", file.stem)
    kinds = (AdversarialTrainingHook.__name__, FreeAdversarialTrainingHook.__name__)
    trained = [one for one in config.get("custom_hooks") or () if one["type"] in kinds]
    assert len(trained) == bool(radius)  # the name of an adversarial one carries its radius, and its clean images
    assert bool(trained and trained[0].get("clean_ratio")) == ("-clean50-" in file.stem)
    change = (attack(model, images, labels).images - images).abs().max().item()
    assert 0 < change <= (int(radius[1]) if radius else 4) / 255 + 1e-6
    for name, millions in NETWORKS.items():
        if file.stem.startswith(f"{name}_"):
            assert sum(one.numel() for one in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.15)
            assert model.num_classes == CLASSES[file.stem.rpartition("_")[2]]


def test_every_network_has_every_data_set_standard_and_adversarial():
    stems = [file.stem for file in FILES]
    for network in NETWORKS:
        for data in CLASSES:
            mine = [stem for stem in stems if stem.startswith(f"{network}_4xb") and stem.endswith(f"_{data}")]
            assert sorted("pgdat" in stem for stem in mine) == [False, True]
    for file in FILES:  # a variant differs in what it trains with alone
        if file.stem != standard(file) and (file.parent / f"{standard(file)}.py").is_file():
            mine, other = load_config(file), load_config(file.parent / f"{standard(file)}.py")
            changed = {key for key in {*mine, *other} if mine.get(key) != other.get(key)}
            assert changed == {"custom_hooks", "adversary"}


def test_an_adversarial_one_trains(tmp_path):
    root = write_archive(tmp_path / "ade", "ADE20K", np.array([0, 1, 7, 150]))
    small = {"train_dataloader.batch_size": 2, "train_dataloader.num_workers": 0, "val_dataloader.num_workers": 0}
    small |= {f"{one}_dataloader.persistent_workers": False for one in ("train", "val")}
    small |= {"train_dataloader.dataset.pipeline.2.scale": (160, 80)}  # at half of which a crop is still one
    small |= {"val_dataloader.dataset.pipeline.1.scale": (80, 40)}
    small |= {"train_dataloader.dataset.pipeline.3.crop_size": (32, 32), "model.data_preprocessor.size": (32, 32)}
    small |= {"custom_hooks.0.eps_warmup": 0, "custom_hooks.1.attack.steps": 1, "train_cfg.max_iters": 1}
    small |= {"train_cfg.val_interval": 1, **roots(root)}
    (file,) = FOLDER.glob("segformer/segformer_mit-b0_*pgdat*_ade20k-512x512.py")
    runner = train(file, tmp_path / "run", cfg_options=small)
    assert runner.iter == 1
    history = runner.message_hub.log_scalars
    assert history["train/adv_eps"].current() == pytest.approx(4 / 255)
    assert np.isfinite(history["train/loss"].current()) and "val/robust/mIoU" in history
