"""The way to mmengine, mmcv and mmseg: one quiet import, no code from checkpoints, no pip, clear config errors."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segrobust.core.errors import UserError, first_line, unknown_name
from segrobust.core.own_code import names_function, see_folder
from segrobust.models.mm_needs import missing, missing_package
from segrobust.models.mm_ops import import_operators, keep_focal_loss_plain
from segrobust.models.published import PUBLISHED
from segrobust.models.saved import names_saved, saved_model
from segrobust.models.shipped import config_file, shipped_model

if TYPE_CHECKING:
    from mmengine import Config

NOISE = frozenset({"Could not import OneDL"})  # printed to stdout by mmseg, twice
NO_OPS = re.escape("Fail to import ``MultiScaleDeformableAttention``")  # we need none of mmcv's compiled ops
DATA_SUFFIXES = (".json", ".yaml", ".yml")
OURS = ("load_from_except", "attack_defaults")  # entries of a config that we read, and the Runner does not


@cache
def import_mmseg() -> None:
    """Import mmseg with all its modules and our data sets, quietly, and make mmengine safe. Idempotent.

    Afterwards the default scope is ``mmseg``, ``mmseg::`` references resolve, and no file that a config names can run
    code or be downloaded (``segrobust.models.mm_safety``).
    """
    warnings.filterwarnings("ignore", message=NO_OPS, category=UserWarning)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            import_operators()
            _leave_out_multimodal()
            from mmseg.utils import register_all_modules

            register_all_modules(init_default_scope=True)
            keep_focal_loss_plain()
    finally:
        sys.stderr.write(without_noise(printed.getvalue()))
    _point_to_installed_mmseg()
    from segrobust.models.mm_safety import make_mmengine_safe

    make_mmengine_safe()
    import segrobust.datasets.mm  # noqa: F401  (registers ours)


def _leave_out_multimodal() -> None:
    """mmpretrain's models of text and images want an older transformers than others do; their import then fails."""
    if find_spec("mmpretrain") is not None:
        import mmpretrain.utils.dependency as dependency

        dependency.WITH_MULTIMODAL = False


def without_noise(text: str) -> str:
    """The text without the known lines."""
    return "".join(line for line in text.splitlines(keepends=True) if line.rstrip("\n") not in NOISE)


def _point_to_installed_mmseg() -> None:
    """mmengine looks for ``mmseg::`` configs in a distribution whose name the maintained fork does not have."""
    from mmengine.config.utils import MODULE2PACKAGE

    with contextlib.suppress(metadata.PackageNotFoundError):
        MODULE2PACKAGE["mmseg"] = metadata.distribution("onedl-mmsegmentation").name
    import mmengine.config.config as config  # would read every metafile of mmseg's, a second for each base

    config._get_external_cfg_path = config._get_external_cfg_base_path


def load_config(
    path: str | os.PathLike,
    cfg_options: Mapping[str, Any] | None = None,
    entries: Mapping[str, Any] | None = None,
) -> Config:
    """Read a config: a file (.py, .json, .yaml), a name of a model, ``hf:FOLDER``, ``smp:FOLDER``, or
    ``mmseg::<path in mmseg's configs>``.

    A ``.py`` config is a program and runs, and its ``custom_imports`` see the current folder; JSON and YAML are data
    only. ``cfg_options`` are dotted keys and values; before them, ``entries`` replace those of the config.

    Raises:
        UserError: no such file, a syntax or other error in it, or a file that is not a config.
    """
    import_mmseg()
    if names_saved(os.fspath(path)):
        saved = saved_model(os.fspath(path))
        return config_of({"model": {"type": saved.segmenter, "folder": str(saved.folder)}}, str(path), cfg_options)
    published = PUBLISHED.get(os.fspath(path))
    file = _locate(published.base if published else os.fspath(path))
    config = _parsed(str(path), lambda: _read(file))
    if published:
        config.merge_from_dict(published.settings())
    for name, value in (entries or {}).items():
        config[name] = value
    return _merged(config, str(path), cfg_options)


def config_of(entries: Mapping[str, Any], name: str, cfg_options: Mapping[str, Any] | None = None) -> Config:
    """The same of entries that are no file; ``name`` is what errors call them."""
    from mmengine import Config

    import_mmseg()
    return _merged(Config(dict(entries)), name, cfg_options)


def _merged(config: Config, name: str, cfg_options: Mapping[str, Any] | None) -> Config:
    if cfg_options:
        _check_entries(config, cfg_options)
        _parsed(f"--cfg-options for {name}", lambda: config.merge_from_dict(dict(cfg_options)))
    return config


def _check_entries(config: Config, cfg_options: Mapping[str, Any]) -> None:
    """An option may change an entry of the config or add one that is read; any other is a slip of the pen."""
    from mmengine.runner import Runner

    known = {*config, *inspect.signature(Runner.__init__).parameters, *OURS} - {"self", "cfg"}
    for entry in (key.partition(".")[0] for key in cfg_options):
        if entry not in known:
            raise unknown_name("config entry", entry, known)


def _locate(name: str) -> Path:
    if file := config_file(name):
        return file
    if names_function(name):
        raise UserError(f"{name}: a function that makes a network goes with `segrobust evaluate` and --data; elsewhere "
                        "name a config with model=dict(type='PythonSegmenter', factory=...)")  # fmt: skip
    package, _, inside = name.partition("::")
    if package != "mmseg":
        raise UserError(f"{name}: only mmseg:: references are known; give the path of the config file instead")
    folder, known = _folder_of_mmseg(), _files_of_mmseg()
    file = next((one for one in (inside, f"{inside}.py") if one in known), None)
    if file is None:
        raise UserError(f"{name}: the installed mmseg has no such config{_nearest(inside, known)}")
    return folder / file


def configs_of_mmseg() -> list[str]:
    """The configs that the installed mmseg brings, as ``mmseg::`` names them, without those that others inherit."""
    return [name for name in _files_of_mmseg() if not name.startswith("_base_")]


def _files_of_mmseg() -> list[str]:
    folder = _folder_of_mmseg()
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.py"))


def _folder_of_mmseg() -> Path:
    return Path(find_spec("mmseg").origin).parent / ".mim" / "configs"


def _nearest(inside: str, known: Iterable[str]) -> str:
    """The configs whose name is most like what was asked for."""
    names = {Path(path).stem: path for path in known if not path.startswith("_base_")}
    near = difflib.get_close_matches(Path(inside.removesuffix(".py")).name, names, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(f'mmseg::{names[one]}' for one in near)}?" if near else ""


def _read(file: Path) -> Config:
    from mmengine import Config

    from segrobust.models.mm_safety import close_imports_by_name

    if file.suffix in DATA_SUFFIXES:
        _check_is_data(file)
        if not shipped_model(file):  # ours names nothing to import, and other configs of this process may
            close_imports_by_name()
    else:  # its custom_imports may stand there
        see_folder(Path.cwd())
    return Config.fromfile(file)


def _check_is_data(file: Path) -> None:
    """JSON and YAML configs may not run code: no Python base, no imports, no dotted names but those of mm packages."""
    from mmengine.config.utils import MODULE2PACKAGE
    from mmengine.fileio import load

    content = load(file)
    if not isinstance(content, dict):
        raise UserError(f"expected a mapping at the top, got {type(content).__name__}")
    if "custom_imports" in content:
        raise UserError("custom_imports run code, which only a .py config may do")
    bases = content.get("_base_", [])
    for base in [bases] if isinstance(bases, str) else bases:
        if not base.endswith(DATA_SUFFIXES) or "::" in base:
            raise UserError(f"_base_ {base!r} is not JSON or YAML, and only a .py config may inherit from a program")
        _check_is_data(file.parent / base)
    for name in _built_names(content):
        scope = name.rpartition(".")[0]
        if scope and scope not in MODULE2PACKAGE:
            raise UserError(f"type {name!r} names an arbitrary Python object, which only a .py config may do")
        if name == "PythonSegmenter":
            raise UserError(f"type {name!r} runs a Python file, which only a .py config may do")
        if name.rpartition(".")[2] == "HuggingFaceClassifier":  # of mmpretrain
            raise UserError(f"type {name!r} runs the code that a model's folder brings, which only a .py config may do")
        if name.endswith("RFSearchHook"):
            raise UserError(f"type {name!r} evaluates text in its settings as Python, which only a .py config may do")


def _built_names(node: Any) -> list[str]:
    """All names in a config that mmengine looks up in a registry, where a dotted one would be imported."""
    if isinstance(node, dict):
        named = [node[key] for key in ("type", "constructor", "runner_type") if isinstance(node.get(key), str)]
        return named + [name for value in node.values() for name in _built_names(value)]
    if isinstance(node, list | tuple):
        return [name for value in node for name in _built_names(value)]
    return []


def _parsed(source: str, action: Callable[[], Any]) -> Any:
    """Run ``action``; whatever a config throws (it may be a program) becomes one line that names its file."""
    try:
        return action()
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    except SyntaxError as error:
        raise UserError(f"{source}: line {error.lineno}: {error.msg}") from error
    except Exception as error:
        if package := missing_package(error):
            raise UserError(f"{source}: {missing(package, 'its custom_imports')}") from error
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{source}: cannot be read as a config: {reason}") from error
