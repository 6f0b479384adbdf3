"""What ``checks.json`` is about: digests by which a reader sees that it belongs to a folder and was not edited.

They show mistakes (a copied file, rows computed anew, a number changed by hand), not the work of a forger, who can
compute them as well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from segrobust.runs.folder import RunFolder

FILE = "checks.json"
FORMAT = 4
AGAIN = "run the evaluation again"


def digest_of(value: Any) -> str:
    """sha256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def basis_of(folder: RunFolder) -> dict[str, str]:
    """Digests of what the verdicts are about, by the name of the file: identity, rows and what is said of them.

    A run that has grown since has another list of conditions or images.

    Raises:
        UserError: a file is missing or damaged.
    """
    run = folder.read_json("run.json")
    rows = hashlib.sha256()
    for path in sorted(folder.path.glob("rows/rank-*.jsonl")):
        if path.stat().st_size:
            rows.update(path.name.encode() + b"\n" + path.read_bytes())
    made_of = {name: value for name, value in run.items() if name != "about"} if isinstance(run, dict) else run
    basis = {"run.json": digest_of(made_of), "rows": rows.hexdigest()}
    for name in ("conditions.json", "images.json", "summary.json"):
        if (folder.path / name).is_file():
            basis[name] = digest_of(folder.read_json(name))
    return basis


def with_digest(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with the digest of all else in it."""
    rest = {name: value for name, value in content.items() if name != "sha256"}
    return {**rest, "sha256": digest_of(rest)}


def outdated(content: Mapping[str, Any]) -> str:
    """Why the file says nothing to this version; empty where it does."""
    return "" if content.get("format") == FORMAT else f"{FILE} was written by another version of segrobust; {AGAIN}"


def doubt(folder: RunFolder, content: Mapping[str, Any]) -> str:
    """Why the verdicts in ``checks.json`` are not those of this folder; empty where they are.

    Raises:
        UserError: as :func:`basis_of`.
    """
    if with_digest(content) != content:
        return f"{FILE} was edited after the checks were made; {AGAIN}"
    stored, here = content.get("basis"), basis_of(folder)
    if stored == here:
        return ""
    stored = stored if isinstance(stored, dict) else {}
    changed = [name for name in {**stored, **here} if stored.get(name) != here.get(name)]
    return (
        f"{FILE} belongs to another run or to another state of this one: it was made for other {_and(changed)}; {AGAIN}"
    )


def _and(names: list[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"
