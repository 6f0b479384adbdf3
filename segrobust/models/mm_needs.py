"""What a model of mmseg's needs and segrobust does not install, told from its config before anything is built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from segrobust.core.errors import UserError
from segrobust.models.mm_ops import ADVICE, has_compiled_operators

PACKAGES = {"mmdet": "onedl-mmdetection", "mmpretrain": "onedl-mmpretrain"}
OF_MMDET = ("MaskFormerHead", "Mask2FormerHead")  # mmseg's own names over mmdet's heads
COMPILED = ("PSAHead", "DCN", "DCNv2", "SAC", "carafe")
COLOURS = 3


def check_needs(model: Mapping[str, Any]) -> None:
    """Raise a UserError where a config's ``model`` lacks something, or does not map one image to classes."""
    check_packages(model)
    if str(model.get("type")).rpartition(".")[2] == "DepthEstimator":
        raise UserError("model.type='DepthEstimator': it estimates depth, and only models that answer with classes are "
                        "attacked")  # fmt: skip
    steps = model.get("data_preprocessor")
    mean = steps.get("mean") if isinstance(steps, Mapping) else None
    if isinstance(mean, list | tuple) and len(mean) not in (1, COLOURS):
        raise UserError(
            f"model.data_preprocessor.mean has {len(mean)} values: only models of one RGB image are attacked"
        )


def check_packages(model: Mapping[str, Any]) -> None:
    """Raise a UserError that names the package, or mmcv's compiled operators, that a config's ``model`` needs and that
    is not installed."""
    for where, name in _types(model, "model"):
        scope, _, bare = name.rpartition(".")
        package = "mmdet" if bare in OF_MMDET and scope != "mmdet" else scope
        if package in PACKAGES and find_spec(package) is None:
            raise missing(package, f"{where}={name!r}")
        if bare in COMPILED and not has_compiled_operators():
            raise UserError(f"this model needs mmcv's compiled operators ({where}={name!r}), {ADVICE}")


def missing(package: str, why: str) -> UserError:
    """The error for a package of OpenMMLab's, by its import name, that is not installed."""
    return UserError(f"this model needs the package {PACKAGES[package]} ({why}), which is not installed: "
                     "pip install 'segrobust[mm]'")  # fmt: skip


def missing_package(error: BaseException) -> str | None:
    """The import name of the package of OpenMMLab's that was looked for in vain, where that is why ``error`` came."""
    cause: BaseException | None = error
    while cause is not None:
        name = str(getattr(cause, "name", None) or "").partition(".")[0]
        if isinstance(cause, ModuleNotFoundError) and name in PACKAGES and find_spec(name) is None:
            return name
        cause = cause.__cause__ or cause.__context__
    return None


def _types(node: Any, where: str) -> Iterator[tuple[str, str]]:
    """Every ``type`` in a config, with its place."""
    if isinstance(node, Mapping):
        if isinstance(node.get("type"), str):
            yield f"{where}.type", node["type"]
        for key, value in node.items():
            yield from _types(value, f"{where}.{key}")
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _types(value, f"{where}.{index}")
