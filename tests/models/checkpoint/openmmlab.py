"""Files as OpenMMLab publishes them: pickles of numpy 1, logs of the training, class names, all heads."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from torch import Tensor

NEW, OLD = b"numpy._core.multiarray", b"numpy.core.multiarray"
ENVIRONMENT = "sys.platform: linux\nPython: 3.7.7\nGPU 0: Tesla V100\n"


def of_mmseg_0(weights: Mapping[str, Tensor], classes: list[str]) -> dict[str, Any]:
    """What mmseg 0.x stored: the classes in ``meta.CLASSES``, the config as text, numbers of numpy's."""
    meta = {"env_info": ENVIRONMENT, "seed": np.int64(0), "exp_name": "pspnet_r18-d8_512x1024_40k_cityscapes.py",
            "mmseg_version": "0.11.0", "config": "model = dict(type='EncoderDecoder')\n", "CLASSES": classes,
            "PALETTE": [[0, 0, index] for index in range(len(classes))], "epoch": np.int64(54), "iter": 40000,
            "hook_msgs": {"best": np.float64(0.7)}, "loss": np.arange(4.0)}  # fmt: skip
    return {"meta": meta, "state_dict": OrderedDict(weights), "optimizer": {"state": {}, "param_groups": []}}


def of_mmengine(weights: Mapping[str, Tensor], classes: list[str]) -> dict[str, Any]:
    """What mmengine stores: the classes in ``meta.dataset_meta``, and the history of all logged numbers."""
    losses = HistoryBuffer([1.5, 0.75], [1, 1])
    hub = {"log_scalars": {"train/loss": losses}, "runtime_info": {"iter": 80000}, "resumed_keys": {"train/loss": True}}
    meta = {"cfg": "model = dict()\n", "seed": 1, "experiment_name": "fcn_r18_20230101_000000", "epoch": 7,
            "iter": 80000, "time": "20230102_000000", "mmengine_version": "0.7.0",
            "dataset_meta": {"classes": tuple(classes)}}  # fmt: skip
    return {"meta": meta, "state_dict": OrderedDict(weights), "message_hub": hub, "optimizer": {}}


def write_as_numpy_1(content: Any, path: Path, zipped: bool = True) -> Path:
    """``torch.save`` as a process with numpy 1 would have written it."""
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    if zipped:
        with zipfile.ZipFile(path) as file:
            entries = {entry.filename: file.read(entry).replace(NEW, OLD) for entry in file.infolist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
            for name, data in entries.items():
                file.writestr(name, data)
    else:
        path.write_bytes(path.read_bytes().replace(NEW, OLD))
    assert OLD in path.read_bytes() and NEW not in path.read_bytes()
    return path
