"""The places where a config or a data file reaches a loader that runs code or downloads: each is made safe here.

mmengine, mmcv, mmseg and timm read files in many places. What they share is replaced once, by the strict reader where
weights are read and by a refusal in one line elsewhere; a ``.py`` config is a program and stays one.
"""

from __future__ import annotations

import io
import sys
from functools import cache, wraps
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

from segrobust.core.errors import UserError
from segrobust.models.checkpoint.loading import load_from_strict
from segrobust.models.pretrained import NOTHING_DOWNLOADED, StrictPretrained, create_timm_model

MM_PACKAGES = ("mmcv", "mmengine", "mmseg", "mmdet", "mmpretrain")
NO_PICKLE = "data in a pickle is not read, since a pickle can run any program; use JSON or text instead"


def make_mmengine_safe() -> None:
    """No pickle with code, no download, no pip, no Python from YAML or data files, whoever calls mmengine."""
    _strict_weights()
    _strict_files()
    _strict_transforms()
    _no_foreign_builders()


def _strict_weights() -> None:
    """``load_from``, ``resume``, ``init_cfg``, ``pretrained`` and timm's ``checkpoint_path``."""
    import mmseg.models.backbones.timm_backbone as timm_backbone
    from mmengine.registry import WEIGHT_INITIALIZERS
    from mmengine.runner import CheckpointLoader

    for prefix in list(CheckpointLoader._schemes):
        CheckpointLoader.register_scheme(prefix, load_from_strict, force=True)
    WEIGHT_INITIALIZERS.register_module(name="Pretrained", module=StrictPretrained, force=True)
    timm_backbone.timm = SimpleNamespace(create_model=create_timm_model)


def _strict_files() -> None:
    """``ann_file`` and whatever else is read by mmengine's file handlers and storage backends."""
    import yaml
    from mmengine.fileio import BaseStorageBackend, register_backend
    from mmengine.fileio.handlers import PickleHandler, YamlHandler, register_handler

    class SafeYamlHandler(YamlHandler):
        def load_from_fileobj(self, file: io.IOBase, **options: Any) -> Any:
            try:
                return super().load_from_fileobj(file, **{**options, "Loader": yaml.SafeLoader})
            except yaml.constructor.ConstructorError as error:
                raise UserError(f"a Python object in YAML is not built: {error.problem}") from error

    class NoPickleHandler(PickleHandler):
        def load_from_fileobj(self, file: io.IOBase, **_: Any) -> Any:
            raise UserError(NO_PICKLE)

    class NoDownload(BaseStorageBackend):
        def get(self, filepath: str) -> bytes:
            raise UserError(f"{filepath}: {NOTHING_DOWNLOADED}; fetch the file yourself and give its path")

        def get_text(self, filepath: str, encoding: str = "utf-8") -> str:
            return self.get(filepath).decode(encoding)

        get_local_path = get

    register_handler(["yaml", "yml"])(SafeYamlHandler)
    register_handler(["pickle", "pkl"])(NoPickleHandler)
    register_backend("http", NoDownload, force=True, prefixes=["http", "https"])


def _strict_transforms() -> None:
    """Transforms that unpickle images where their ``decode_backend`` says so: refused when they are built.

    Not when they read, which may be in a worker process that never came by here.
    """
    import mmseg.datasets.transforms.loading as loading

    for transform in vars(loading).values():
        if isinstance(transform, type) and transform.__module__ == loading.__name__:
            _refuse_pickled(transform)


def _refuse_pickled(transform: type) -> None:
    build = transform.__init__

    @wraps(build)
    def checked(self: Any, *arguments: Any, **options: Any) -> None:
        build(self, *arguments, **options)
        if getattr(self, "decode_backend", None) == "pickle":
            raise UserError(f"{transform.__name__}(decode_backend='pickle'): {NO_PICKLE}")

    transform.__init__ = checked


def _no_foreign_builders() -> None:
    """mmengine's hub runs pip, and VPD builds whatever objects its diffusion config names, from anywhere."""
    import mmengine.hub.hub
    import mmseg.models.backbones.vpd as vpd

    mmengine.hub.hub.install_package = _refuse_to_install
    vpd.instantiate_from_config = _refuse_to_build


def _refuse_to_install(package: str) -> None:
    """mmengine's hub would run pip here, without asking, even for a package that is installed under another name."""
    from mmengine.utils import is_installed

    if not is_installed(package):
        raise UserError(f"this needs the package {package}, which is not installed; install it yourself if you want it")


def _refuse_to_build(_: Any) -> None:
    raise UserError("VPD's diffusion_cfg can name any Python object, so it is not built here; take another backbone")


@cache
def close_imports_by_name() -> None:
    """From now on mmengine finds a name in a registry or not at all, where it would import what the name spells.

    Called where a config is data (JSON, YAML): its strings reach registries by many keys besides ``type``.
    """
    import mmengine.registry.registry as registry

    registry.get_object_from_string = _known_class
    registry.import_module = _import_known


def _known_class(name: str) -> type | None:
    """The class that a package of OpenMMLab's gives this name (``mmcv.LoadImageFromFile``); of any other name, mmengine
    then says that it is in no registry."""
    package, _, rest = name.partition(".")
    found = getattr(sys.modules.get(package), rest, None) if package in MM_PACKAGES and "." not in rest else None
    own = isinstance(found, type) and found.__module__.partition(".")[0] == package
    return found if own else None


def _import_known(name: str) -> ModuleType:
    if name.partition(".")[0] not in sys.modules:
        raise ImportError(f"{name}: a config that is data imports no package")
    return import_module(name)
