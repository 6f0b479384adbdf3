"""How a run that starts differs from the one in its folder, and which differences its user accepts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from segrobust.core.errors import UserError
from segrobust.runs.repeatability import FIELD

# fields of an identity by the name under which another value is accepted; that of any other field never is
ACCEPTABLE = {"CODE": ("segrobust", "code_sha256", "users_code"), "VERSIONS": ("versions",)}
MOST_SHOWN = 6


def continued(
    run: Mapping[str, Any], identity: Mapping[str, Any], accept: Sequence[str], about: Mapping[str, Any], path: Path
) -> dict[str, Any] | None:
    """The content of ``run.json`` for a run that goes on under this identity; None where it stays as it is.

    What is accepted now is added to ``run["accepted_different"]`` as ``{what, stored, now, date}``; what an earlier
    start accepted needs no word any more. Modules of a user's own (``users_code``) may be added. What was seen not to
    repeat stays.

    Raises:
        UserError: what differs besides.
    """
    stored = _stored_identity(run, identity)
    stored.pop(FIELD, None)  # it is seen once a run has begun
    modules = {**(identity.get("users_code") or {}), **(stored.get("users_code") or {})}
    if modules:
        both = (stored, identity)
        stored, identity = ({**one, "users_code": modules | (one.get("users_code") or {})} for one in both)
    known, new, same = run.get("accepted_different") or [], [], set()
    for what, fields in ACCEPTABLE.items():
        then, now = ({field: one.get(field) for field in fields} for one in (stored, identity))
        before = any((one["what"], one["now"]) == (what, now) for one in known)
        if then != now and (before or what in accept):
            same.update(fields)
            new += [] if before else [{"what": what, "stored": then, "now": now, "date": about.get("date")}]
    others = ({name: value for name, value in one.items() if name not in same} for one in (stored, identity))
    if lines := differences(*others):
        raise UserError(_refusal(lines, path))
    changed = {**run, "identity": {**run["identity"], **({"users_code": modules} if modules else {})}}
    changed |= {"accepted_different": [*known, *new]} if new else {}
    return changed if changed != run else None


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
    all_acceptable = changed <= {field for what in whats for field in ACCEPTABLE[what]}
    more = f"; and {len(lines) - MOST_SHOWN} more" if len(lines) > MOST_SHOWN else ""
    go_on = f", or --accept-different {' '.join(whats)} to go on with rows of both" if all_acceptable else ""
    return (
        f"{path} holds another run: {'; '.join(lines[:MOST_SHOWN])}{more}; "
        f"use another --work-dir, or --fresh to discard the stored run{go_on}"
    )


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """One phrase per differing field of two identities, such as ``attacks.CEPGD.steps is 100 there and 300 here``."""
    return [f"{name} is {_short(one)} there and {_short(other)} here" for name, one, other in differing(stored, wanted)]


def differing(one: Mapping[str, Any], other: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Name and both values of every field that differs, the names of nested ones joined by dots; None: absent."""
    for key in one | other:
        name, values = f"{above}{key}", (one.get(key), other.get(key))
        if all(isinstance(value, dict) for value in values):
            yield from differing(*values, f"{name}.")
        elif values[0] != values[1] or isinstance(values[0], bool) != isinstance(values[1], bool):
            yield name, *values


def _short(value: Any) -> str:
    text = "absent" if value is None else json.dumps(value)
    return text if len(text) <= 72 else f"{text[:50]}...{text[-19:]}"
