"""How a run that starts differs from the one in its folder, and which differences its user accepts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segrobust.core.errors import UserError

# fields of an identity by the name under which another value is accepted; that of any other field never is
ACCEPTABLE = {"CODE": ("segrobust", "code_sha256", "users_code"), "VERSIONS": ("versions",)}
MOST_SHOWN = 6


def continued(
    run: Mapping[str, Any], identity: Mapping[str, Any], accept: Sequence[str], about: Mapping[str, Any], path: Path
) -> dict[str, Any] | None:
    """The content of ``run.json`` for a run that goes on under this identity; None where it stays as it is.

    What is accepted now is added to ``run["accepted_different"]`` as ``{what, stored, now, date}``; what an earlier
    start accepted needs no word any more. Modules of a user's own (``users_code``) may be added.

    Raises:
        UserError: what differs besides.
    """
    stored = _stored_identity(run, identity)
    modules = {**(identity.get("users_code") or {}), **(stored.get("users_code") or {})}
    if modules:
        both = (stored, identity)
        stored, identity = ({**one, "users_code": modules | (one.get("users_code") or {})} for one in both)
    new = _newly_accepted(run, stored, identity, accept, about, path)
    grown = modules != (run["identity"].get("users_code") or {})
    if not new and not grown:
        return None
    changed = {**run, "identity": {**run["identity"], **({"users_code": stored["users_code"]} if modules else {})}}
    return {**changed, **({"accepted_different": [*run.get("accepted_different", []), *new]} if new else {})}


def _newly_accepted(
    run: Mapping[str, Any],
    stored: Mapping[str, Any],
    identity: Mapping[str, Any],
    accept: Sequence[str],
    about: Mapping[str, Any],
    path: Path,
) -> list[dict[str, Any]]:
    known, new = run.get("accepted_different") or [], []
    same: set[str] = set()
    for what, fields in ACCEPTABLE.items():
        then, now = ({field: one.get(field) for field in fields} for one in (stored, identity))
        if then == now:
            continue
        if any((one["what"], one["now"]) == (what, now) for one in known):
            same.update(fields)
        elif what in accept:
            same.update(fields)
            new.append({"what": what, "stored": then, "now": now, "date": about.get("date")})
    others = ({name: value for name, value in one.items() if name not in same} for one in (stored, identity))
    if lines := differences(*others):
        raise UserError(_refusal(lines, path))
    return new


def _stored_identity(run: Mapping[str, Any], identity: Mapping[str, Any]) -> dict[str, Any]:
    """With the versions that ``about`` tells a reader, who takes the rows to be of these."""
    stored, told = dict(run.get("identity") or {}), (run.get("about") or {}).get("versions")
    if isinstance(told, Mapping) and isinstance(identity.get("versions"), Mapping):
        stored["versions"] = {
            **(stored.get("versions") or {}),
            **{name: told[name] for name in identity["versions"] if name in told},
        }
    return stored


def _refusal(lines: Sequence[str], path: Path) -> str:
    changed = {line.split(" ")[0].split(".")[0] for line in lines}
    whats = [what for what, fields in ACCEPTABLE.items() if changed & set(fields)]
    all_acceptable = all(any(name in ACCEPTABLE[what] for what in whats) for name in changed)
    more = f"; and {len(lines) - MOST_SHOWN} more" if len(lines) > MOST_SHOWN else ""
    go_on = f", or --accept-different {' '.join(whats)} to go on with rows of both" if all_acceptable else ""
    return (
        f"{path} holds another run: {'; '.join(lines[:MOST_SHOWN])}{more}; "
        f"use another --work-dir, or --fresh to discard the stored run{go_on}"
    )


def differences(stored: Any, wanted: Any, name: str = "") -> list[str]:
    """One phrase per differing field of two identities, such as ``attacks.CEPGD.steps is 100 there and 300 here``."""
    if isinstance(stored, dict) and isinstance(wanted, dict):
        keys = [*stored, *(key for key in wanted if key not in stored)]
        parts = (differences(stored.get(k), wanted.get(k), f"{name}.{k}" if name else k) for k in keys)
        return [line for part in parts for line in part]
    if stored == wanted and isinstance(stored, bool) == isinstance(wanted, bool):
        return []
    return [f"{name or 'identity'} is {_short(stored)} there and {_short(wanted)} here"]


def _short(value: Any) -> str:
    text = "absent" if value is None else json.dumps(value)
    return text if len(text) <= 72 else f"{text[:50]}...{text[-19:]}"
