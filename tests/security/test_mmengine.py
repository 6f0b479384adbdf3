"""Everything mmengine reads by itself goes through the strict reader: resume, load_from and init_cfg."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine import Config
from mmengine.dataset import BaseDataset
from mmengine.hub import get_config
from mmengine.runner import CheckpointLoader, Runner, load_checkpoint
from torch import nn

from segrobust.core.errors import UserError
from segrobust.models.checkpoint.loading import convert_checkpoint
from segrobust.models.mm import import_mmseg
from tests.security.payloads import PAYLOADS

import_mmseg()

from mmengine.model import BaseModel  # noqa: E402
from mmengine.registry import DATASETS, MODELS  # noqa: E402


@MODELS.register_module()
class Line(BaseModel):
    """One linear layer with batch normalisation, fitted to a sum."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def forward(self, inputs: torch.Tensor, mode: str = "loss") -> dict[str, torch.Tensor]:
        return {"loss": (self.layers(inputs).squeeze(1) - inputs.sum(1)).square().mean()}


@DATASETS.register_module()
class Points(torch.utils.data.Dataset):
    metainfo = {"classes": ("a", "b"), "palette": np.arange(6).reshape(2, 3)}

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"inputs": torch.tensor([index, 1.0, -index]) / 8}


def runner(work_dir: Path, iterations: int = 2, **options: Any) -> Runner:
    config = Config(
        dict(
            model=dict(type="Line"),
            work_dir=str(work_dir),
            train_dataloader=dict(
                batch_size=4,
                dataset=dict(type="Points"),
                sampler=dict(type="InfiniteSampler", shuffle=True),
                collate_fn=dict(type="default_collate"),
            ),
            train_cfg=dict(type="IterBasedTrainLoop", max_iters=iterations),
            optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.01)),
            param_scheduler=[dict(type="PolyLR", by_epoch=False, begin=0, end=10)],
            custom_hooks=[dict(type="EMAHook", momentum=0.1)],
            default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1, by_epoch=False)),
            experiment_name=f"{work_dir}-{iterations}".replace("/", "-"),
            default_scope="mmseg",
            randomness=dict(seed=0),
            log_level="ERROR",
        )
    )
    config.merge_from_dict(options)
    return Runner.from_cfg(config)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A checkpoint that mmengine wrote itself, with EMA, optimiser, schedule and log history."""
    work_dir = tmp_path_factory.mktemp("trained")
    runner(work_dir).train()
    return work_dir / "iter_2.pth"


def tensors(node: Any, name: str = "") -> dict[str, Any]:
    """All leaves of a nested structure by their path."""
    if isinstance(node, dict):
        return {key: leaf for part, value in node.items() for key, leaf in tensors(value, f"{name}/{part}").items()}
    if isinstance(node, list | tuple):
        return tensors(dict(enumerate(node)), name)
    if hasattr(node, "_log_history"):
        return tensors({"log": node.data[0], "counts": node.data[1], "max": node.max_length}, name)
    return {name: node}


def test_a_checkpoint_of_mmengine_is_read_whole(trained):
    ours = CheckpointLoader.load_checkpoint(str(trained), "cpu")
    reference = torch.load(trained, weights_only=False)
    assert "ema_state_dict" in ours
    ours, reference = tensors(ours), tensors(reference)
    assert any(isinstance(leaf, np.ndarray) for leaf in reference.values())
    assert ours.keys() == reference.keys()
    for key, leaf in reference.items():
        assert type(ours[key]) is type(leaf), key
        equal = torch.equal if isinstance(leaf, torch.Tensor) else np.array_equal
        assert equal(ours[key], leaf), key


def test_training_resumes_from_it(trained, tmp_path):
    resumed = runner(tmp_path, iterations=4, load_from=str(trained), resume=True)
    resumed.train()
    assert resumed.iter == 4
    assert (tmp_path / "iter_4.pth").exists()
    first = torch.load(trained, weights_only=False)["message_hub"]["log_scalars"]["train/loss"].data[0]
    history = resumed.message_hub.get_scalar("train/loss").data[0]
    assert len(history) == 4
    assert np.array_equal(history[:2], first)


def tampered(trained: Path, path: Path, **meta: Any) -> Path:
    content = torch.load(trained, weights_only=False)
    content["meta"].update(meta)
    torch.save(content, path)
    return path


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("payload", ["posix.system", "getattr abuse", "beside good weights", "old torch format"])
def test_a_malicious_file_given_to_the_runner_is_refused(payload, resume, tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "evil.pth"
    path.write_bytes(PAYLOADS[payload](marker))
    with pytest.raises(UserError, match="refused"):
        runner(tmp_path / "work", load_from=str(path), resume=resume).train()
    assert not marker.exists()


def test_the_config_in_a_checkpoint_is_not_executed(trained, tmp_path):
    marker = tmp_path / "marker"
    config = f"open({str(marker)!r}, 'w').close()\n"
    path = tampered(trained, tmp_path / "evil.pth", config=config)
    assert Config.fromstring(config, ".py") is not None
    assert marker.exists()
    marker.unlink()
    resumed = runner(tmp_path / "work", iterations=3, load_from=str(path), resume=True)
    resumed.train()
    assert resumed.iter == 3
    assert not marker.exists()


def test_a_file_of_weights_alone_starts_a_training_but_cannot_resume_one(trained, tmp_path):
    path = tmp_path / "weights.safetensors"
    convert_checkpoint(trained, path)
    started = runner(tmp_path / "start", load_from=str(path), custom_hooks=[])
    started.load_or_resume()
    expected = torch.load(trained, weights_only=False)["state_dict"]
    assert all(torch.equal(value, expected[key]) for key, value in started.model.state_dict().items())
    with pytest.raises(UserError, match="holds weights only"):
        runner(tmp_path / "resume", load_from=str(path), resume=True).train()


def test_every_kind_of_address_is_ours_and_the_network_is_never_used():
    loaders = {loader.__name__ for loader in CheckpointLoader._schemes.values()}
    assert loaders == {"load_from_strict"}
    for address in ("https://x.org/a.pth", "open-mmlab://resnet50", "mmcls://x", "petrel://x", "pavi://x"):
        with pytest.raises(UserError, match="nothing is downloaded here"):
            load_checkpoint(nn.Linear(1, 1), address)


def test_pickled_annotations_are_not_read(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "annotations.pkl"
    path.write_bytes(PAYLOADS["plain pickle"](marker))
    with pytest.raises(UserError, match="data in a pickle is not read"):
        BaseDataset(ann_file=str(path))
    assert not marker.exists()


def test_pip_never_runs(monkeypatch):
    def refuse(command: list[str]) -> None:
        raise AssertionError(f"{command} was started")

    monkeypatch.setattr("mmengine.utils.package_utils.call_command", refuse)
    assert get_config("mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py").model.type == "EncoderDecoder"
    with pytest.raises(UserError, match=r"mmdet.* is not installed"):
        get_config("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py")


def test_the_reader_keeps_versions_of_a_state_dict(trained):
    content = CheckpointLoader.load_checkpoint(str(trained), "cpu")
    assert content["state_dict"]._metadata == copy.copy(torch.load(trained, weights_only=False)["state_dict"]._metadata)
