"""Published layouts: the manifests where they are present, a digest of each where they are not, and files of them."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[3]
FOLDER = Path(os.environ.get("SEGROBUST_SPEC", ROOT.parent / "shared" / "spec")) / "checkpoints"

DIGESTS = {  # of the manifests: their number of keys, and sha256 (first 16 digits) of their sorted "key shape dtype"
    "pirat-upernet-convnext-t-voc": (272, "f32b433a02a159ec"),
    "pirat-upernet-convnext-s-voc": (434, "c6d8ec50fe500227"),
    "pirat-upernet-convnext-t-ade20k": (272, "1196b4f435d41fb2"),
    "pirat-upernet-convnext-s-ade20k": (434, "f21bdf69f790e718"),
    "pirat-segmenter-vit-s-ade20k": (185, "48da35a509d2bc86"),
    "pirat-pspnet50-voc": (358, "e1de8c24ddcc16ca"),
    "pirat-pspnet50-deepstem-voc": (370, "b75f720af79b1f6a"),
    "ddcat-pspnet50-voc-nodefense": (370, "b75f720af79b1f6a"),
    "ddcat-pspnet50-voc-sat": (370, "b75f720af79b1f6a"),
    "ddcat-pspnet50-voc-ddcat": (386, "54a2a6205ee0fe7e"),
    "ddcat-deeplabv3-50-voc-nodefense": (376, "1267a7ae83b2c352"),
    "ddcat-deeplabv3-50-voc-sat": (376, "1267a7ae83b2c352"),
    "ddcat-deeplabv3-50-voc-ddcat": (392, "46e7468df8ed1fff"),
    "ddcat-pspnet50-cityscapes-nodefense": (370, "846c4d3ac077786b"),
    "ddcat-pspnet50-cityscapes-sat": (370, "846c4d3ac077786b"),
    "ddcat-pspnet50-cityscapes-ddcat": (386, "941b99da81c73234"),
    "ddcat-deeplabv3-50-cityscapes-nodefense": (376, "6e6cb4c309b021f0"),
    "ddcat-deeplabv3-50-cityscapes-sat": (376, "6e6cb4c309b021f0"),
    "ddcat-deeplabv3-50-cityscapes-ddcat": (392, "c778669c116237d9"),
}


def manifest_name(name: str) -> str:
    return name.replace("convnext-t", "convnext-t-cvst").replace("convnext-s", "convnext-s-cvst").replace("-", "_")


def manifest(name: str) -> dict | None:
    """The manifest of a published name; None where the folder is absent."""
    file = FOLDER / f"{manifest_name(name)}.json"
    return json.loads(file.read_text()) if file.is_file() else None


def manifest_lines(content: dict) -> list[str]:
    """``key shape dtype`` of all keys."""
    integers = content["dtype"]["int64"]
    kinds = {key: "int64" if any(fnmatch.fnmatch(key, one) for one in integers) else "float32"
             for key in content["state_dict"]}  # fmt: skip
    return [f"{key} {shape} {kinds[key]}" for key, shape in content["state_dict"].items()]


def state_lines(state: dict[str, Tensor]) -> list[str]:
    """The same of a state dict."""
    return [f"{key} {list(value.shape)} {str(value.dtype).removeprefix('torch.')}" for key, value in state.items()]


def digest(lines: Iterable[str]) -> tuple[int, str]:
    lines = sorted(lines)
    return len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def one_number_per_key(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Another value under every key, each stored once whatever the shape: a small file, no two keys alike."""
    return {
        key: (torch.tensor(number) if value.dtype == torch.int64 else torch.tensor(number / 1000)).expand(value.shape)
        for number, (key, value) in enumerate(state.items(), 1)
    }


def write_as_published(name: str, state: dict[str, Tensor], path: Path) -> Path:
    """A file with the layout of its authors: DDC-AT's is old, with an envelope, a prefix and the optimiser's state."""
    if name.startswith("pirat"):
        torch.save(dict(state), path)
        return path
    optimiser = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.01, "params": [0]}]}
    weights = {f"module.{key}": value for key, value in state.items()}
    content = {"epoch": 50, "state_dict": weights, "optimizer": optimiser}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path
