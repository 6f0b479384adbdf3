"""The file of ``segrobust benchmark``: models, studies and their options, checked before anything is built.

name = "mine"
models = [dict(name="ours", model="configs/x.py", checkpoint="x.pth")]
studies = [dict(name="standard", attacks=["Standard"], eps=["4/255"], num_images=32)]

Names that begin with an underscore are the file's own. Imports no torch but that of mmengine, for Python files.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from segrobust.commands.inputs import Inputs
from segrobust.commands.network import Network
from segrobust.core.digest import config_sha256
from segrobust.core.errors import UserError, unknown_name
from segrobust.core.files import read_json
from segrobust.core.options import existing_file
from segrobust.core.own_code import names_function
from segrobust.runs.settings import Settings

PARTS = ("name", "models", "studies", "golden")
ABOUT = ("recipe", "paper", "command")  # told of a model, and kept with its results
OF_A_MODEL = ("name", "model", "checkpoint", *ABOUT, "options")
OWN_FILES = ("benchmark.json", "benchmark.md", "report.html")  # beside the models' folders
KINDS = (Inputs, Network, Settings)
OWN = ("config", "checkpoint", "work_dir", "dry_run", "fresh")  # which the benchmark itself says
_Entry = TypeVar("_Entry", "BenchmarkModel", "BenchmarkStudy")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


@dataclass(frozen=True)
class BenchmarkModel:
    """One of the models; ``options`` are its own, besides those of the studies."""

    name: str
    model: str
    checkpoint: str | None = None
    recipe: str | None = None
    paper: str | None = None
    command: str | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class BenchmarkStudy:
    """One of the studies: options of ``segrobust evaluate`` under a name."""

    name: str
    options: Mapping[str, Any]

    def content(self) -> dict[str, Any]:
        return {"name": self.name, **self.options}


@dataclass(frozen=True)
class BenchmarkFile:
    """path: of the file. golden: the file of published results to set beside these, if any."""

    path: Path
    name: str
    models: tuple[BenchmarkModel, ...]
    studies: tuple[BenchmarkStudy, ...]
    golden: Path | None = None

    def content(self) -> dict[str, Any]:
        """As JSON values."""
        models, studies = [dataclasses.asdict(one) for one in self.models], [one.content() for one in self.studies]
        return json.loads(json.dumps({"name": self.name, "models": models, "studies": studies}, default=str))

    @property
    def sha256(self) -> str:
        return config_sha256(self.content())


def read_benchmark(path: Path) -> BenchmarkFile:
    """Read a benchmark file. A ``.py`` file is a program and runs.

    Raises:
        UserError: no such file, an error in it, an unknown or missing key, an empty list, a name that is twice there or
            no folder's, or an option that ``segrobust evaluate`` does not have.
    """
    with naming(str(path)):
        content = _content(path)
        _check_keys(content, PARTS, ("name", "models", "studies"))
        name = _folder_name(content["name"])
        models = _entries("models", content["models"], _model)
        studies = _entries("studies", content["studies"], _study)
        if content.get("golden") is not None:
            content["golden"] = existing_file(found(_text("golden", content["golden"]), path.parent))
    return BenchmarkFile(path, name, models, studies, content.get("golden"))


def _content(path: Path) -> dict[str, Any]:
    if path.suffix == ".json":
        content = read_json(path)
    elif path.suffix == ".py":
        from segrobust.models.mm import load_config

        content = load_config(path).to_dict()
    else:
        raise UserError(f"expected a file ending in .py or .json, got {path.suffix or 'no ending'}")
    if not isinstance(content, dict):
        raise UserError(f"expected {', '.join(PARTS[:3])}, got {type(content).__name__}")
    return {key: value for key, value in content.items() if not key.startswith("_")}


def _entries(what: str, given: Any, read: Callable[[dict[str, Any]], _Entry]) -> tuple[_Entry, ...]:
    """What a list of dicts describes, each with a name of its own."""
    if not isinstance(given, list | tuple) or not given:
        raise UserError(f"{what}: expected a list of at least one dict(name=..., ...), got {given!r}")
    entries = []
    for number, one in enumerate(given):
        named = one.get("name") if isinstance(one, Mapping) else None
        with naming(f"{what}[{number}]" + (f" ({named})" if isinstance(named, str) else "")):
            entries.append(read(_mapping(one)))
    names = [entry.name.lower() for entry in entries]  # folders that differ in capitals alone are one on some systems
    if twice := next((entry.name for entry in entries if names.count(entry.name.lower()) > 1), None):
        raise UserError(f"two of the {what} are called {twice!r}; give each a name of its own")
    return tuple(entries)


def _model(given: dict[str, Any]) -> BenchmarkModel:
    _check_keys(given, OF_A_MODEL, ("name", "model"))
    _folder_name(given["name"])
    texts = {key: _text(key, value) for key, value in given.items() if key != "options" and value is not None}
    options = _mapping(given.get("options") or {})
    _check_options(options)
    return BenchmarkModel(**texts, options=options)


def _study(given: dict[str, Any]) -> BenchmarkStudy:
    _check_keys(given, given, ("name",))
    name = _folder_name(given.pop("name"))
    _check_options(given)
    return BenchmarkStudy(name, given)


def _check_options(options: Mapping[str, Any]) -> None:
    fields = [field for kind in KINDS for field in dataclasses.fields(kind)]
    known = {one.name for one in fields if not one.metadata["option"].only_python} - {*OWN}
    for name in options:
        if name in OWN:
            raise UserError(f"{name} is not an option of a study or model here; `segrobust benchmark` says it")
        if name not in known:
            raise unknown_name("option", name, known)


def _check_keys(given: Mapping[str, Any], known: Iterable[str], needed: Sequence[str]) -> None:
    for key in given:
        if key not in known:
            raise unknown_name("key", key, known)
    if missing := next((key for key in needed if given.get(key) is None), None):
        raise UserError(f"expected {missing}=..., got none")


def _mapping(given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise UserError(f"expected dict(name=..., ...), got {given!r}")
    return dict(given)


def _text(what: str, given: Any) -> str:
    if not isinstance(given, str) or not given:
        raise UserError(f"{what}: expected a text, got {given!r}")
    return given


def _folder_name(given: Any) -> str:
    """A name that is a folder's on every system, and none of the benchmark's own files."""
    if not isinstance(given, str) or not _NAME.fullmatch(given) or given.endswith("."):
        raise UserError(
            "name: expected one that a folder can have (letters, digits and . _ + -, a letter or digit first), "
            f"got {given!r}"
        )
    if given.lower() in OWN_FILES:
        raise UserError(f"name: {given!r} is the name of a file of the results; choose another")
    return given


def found(name: str, folder: Path) -> str:
    """A file or folder beside the benchmark file, where there is one of this name; else the name as it is."""
    if names_function(name):
        file, _, function = name.rpartition(":")
        return f"{found(file, folder)}:{function}"
    kind = name[:4] if name.startswith("smp:") else name[:3] if name.startswith("hf:") else ""
    beside = folder / name.removeprefix(kind)
    return f"{kind}{beside}" if beside.exists() else name


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Inside, a user's error says first of what it is."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error) if str(error).startswith(what) else f"{what}: {error}") from error
