"""What a run is made with: segrobust's own code, the versions of what computes, and the device."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from segrobust.core.errors import UserError
from segrobust.runs.differences import differing

DECIDING = ("torch", "torchvision", "timm", "onedl-mmcv", "onedl-mmengine", "onedl-mmsegmentation")
DECIDING += ("numpy", "opencv-python", "pillow")  # they read and resize the files
OPENCV = ("python", "python-headless", "contrib-python", "contrib-python-headless")  # distributions of one package
NO_ROWS = ("__main__.py", "analysis", "checks", "cli.py", "commands", "hooks", "leaderboard", "report")
NO_ROWS += ("runs/estimate.py", "runs/memory.py", "runs/progress.py", "runs/trial.py")


@functools.cache
def code_sha256(root: Path = Path(__file__).parents[1], leave_out: tuple[str, ...] = NO_ROWS) -> str:
    """Digest of the names and contents of all Python files below ``root`` but those that decide no row."""
    digest = hashlib.sha256()
    names = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    for name, path in sorted(names.items()):
        if not any(f"{name}/".startswith(f"{part}/") for part in leave_out):
            digest.update(f"{name}\n{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


@functools.cache
def version_of(package: str) -> str:
    """The installed version of a distribution, or of another one that holds the same package."""
    for name in [f"opencv-{one}" for one in OPENCV] if package == "opencv-python" else [package]:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return "not installed as a package"


def device_name(device: torch.device) -> str:
    """``"cpu"``, or the GPU's model."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def memory_format_of(model: torch.nn.Module) -> str:
    """``"channels_last"`` where a convolution's weights are kept so, else ``"contiguous"``."""
    images = (parameter for parameter in model.parameters() if parameter.ndim == 4)
    last = any(p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous() for p in images)
    return "channels_last" if last else "contiguous"


def environment_of(device: torch.device) -> dict[str, Any]:
    """The part of a run's identity that no setting of the run decides."""
    return {
        "code_sha256": code_sha256(),
        "versions": {name: version_of(name) for name in DECIDING},
        "device": device_name(device),
        **({"threads": torch.get_num_threads()} if device.type == "cpu" else {}),
    }


def refuse_unequal(environments: Sequence[Mapping[str, Any]]) -> None:
    """UserError where processes, by rank, would compute otherwise than the first, whose identity is the run's."""
    for rank, other in enumerate(environments):
        for name, first, its in differing(environments[0], other):
            raise UserError(
                f"the processes of this run do not compute alike: {name} is {first!r} in process 0 and {its!r} in "
                f"process {rank}; start them on equal devices with equal installations"
            )


def about_this_run(device: torch.device) -> dict[str, Any]:
    """Date, versions and hardware; no names of people, hosts or folders."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in ("segrobust", *DECIDING, "accelerate")},
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }
