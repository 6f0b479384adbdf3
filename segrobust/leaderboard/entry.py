"""One entry: a model under one protocol and norm, computed from the runs and submissions that the leaderboard keeps."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segrobust.analysis.corruption import MEAN
from segrobust.analysis.worst_case import WORST_CASE
from segrobust.checks.basis import digest_of
from segrobust.core.own_code import names_function
from segrobust.core.rows import ATTACK, CORRUPTION, INPUT
from segrobust.core.units import format_eps
from segrobust.leaderboard.evidence import Evidence, attacked_images, files_of, shown_name
from segrobust.leaderboard.files import slug
from segrobust.leaderboard.rules import OWN, RANKED_AT, STANDARD, missing_for_standard, not_ranked, trusted
from segrobust.leaderboard.scores import clean_rows, lower, on_images_of, robust_scores, scores_of
from segrobust.leaderboard.submissions import Submission
from segrobust.models.published import PUBLISHED
from segrobust.models.shipped import zoo
from segrobust.report.verdict import IN_WORDS

FORMAT = 1
TOLD = (
    "paper",
    "architecture",
    "parameters",
    "training",
    "training_command",
    "claimed",
    "claimed_clean",
    "claimed_from",
)
Entry = dict[str, Any]


def model_key(identity: Mapping[str, Any]) -> str:
    """Digest of the model and the protocol: what runs of one entry share, whatever their attacks and images."""
    names = ("weights_sha256", "config_sha256", "dataset", "protocol", "data_recipe", "num_classes")
    return digest_of([*(identity.get(name) for name in names), identity.get("metric_size", INPUT)])


def entry_id(evidence: Evidence, norm: str) -> str:
    identity = evidence.identity
    parts = (identity.get("model", "model"), identity.get("protocol") or shown_name(identity), norm)
    return "-".join([*map(slug, map(str, parts)), model_key(identity)[:6]])


def norms_of(evidences: Sequence[Evidence]) -> list[str]:
    """Those with an attack that tries at some radius."""
    return sorted({one["norm"] for run in evidences for one in run.run.of_study(WORST_CASE)})


def base_of(evidences: Sequence[Evidence], norm: str) -> Evidence:
    """The run whose images the entry is about: a trustworthy one of the standard protocol, with the most images."""

    def order(one: Evidence) -> tuple:
        standard = not missing_for_standard(one.identity, one.conditions, len(one.run.images))
        return trusted(one.run.trust), standard, len(one.run.images)

    return max((one for one in evidences if norm in norms_of([one])), key=order)


def make_entry(
    board: Path, evidences: Sequence[Evidence], submissions: Sequence[Submission], norm: str, told: Mapping[str, Any]
) -> Entry:
    """The content of ``entries/<id>.json``, the same from the same files.

    Args:
        evidences: the runs of one model under one protocol, in the order in which they were added.
        submissions: of others, in theirs.
        told: what is said of the model and cannot be computed, by the names in ``TOLD``.
    """
    base = base_of(evidences, norm)
    counted = [one for one in evidences if one is base or trusted(one.run.trust)]
    rows = on_images_of(base, [one for one in counted if one is not base])
    radii = [record["eps"] for record in base.run.of_study(WORST_CASE) if record["norm"] == norm]
    claimed = {one["eps"]: one for one in told.get("claimed") or ()}
    robust, pending = _robust(base, rows, submissions, norm, radii)
    missing = missing_for_standard(base.identity, base.conditions, len(base.run.images)) if norm == "Linf" else ""
    missing = missing or ("" if norm == "Linf" else f"{norm} has own protocols alone")
    trust = base.run.trust
    return {
        "format": FORMAT,
        "id": entry_id(base, norm),
        "model": _model(base),
        "told": {name: told.get(name) for name in TOLD},
        "data": _data(base),
        "threat_model": {"norm": norm, "in_words": IN_WORDS.get(norm, norm)},
        "division": OWN if missing else STANDARD,
        "not_standard": missing,
        "ranked_at": RANKED_AT.get(norm),
        "not_ranked": not_ranked(base.identity, trust, radii, norm),
        "clean": scores_of(clean_rows(base), base.num_classes),
        "robust": [
            {"eps": eps, "radius": format_eps(eps, norm), "claimed": claimed.get(eps), **robust[eps]} for eps in radii
        ],
        "minimum_norm": _minimum_norm(counted, norm),
        "corruptions": _corruptions(counted),
        "trust": {"level": trust.level if trust else "not checked", "why": trust.why if trust else ""},
        "cost": _cost(counted, norm),
        "attacks": _attacks(counted, norm),
        "command": _command(base),
        "date": base.run.facts.get("date", ""),
        "evidence": [_listed(board, one, one in counted) for one in evidences],
        "submissions": [one.listed() | {"lowest": pending.get(one.number)} for one in submissions],
    }


def _robust(
    base: Evidence, rows: Sequence, submissions: Sequence[Submission], norm: str, radii: Sequence[float]
) -> tuple[dict[float, dict], dict[int, dict[str, float]]]:
    """Measured and best known scores by radius, and what uncounted submissions would make of mIoU, by their number."""
    measured = robust_scores(rows, base.num_classes, norm, radii)
    found = {eps: {"measured": one, "best_known": one, "lowered_by": None} for eps, one in measured.items()}
    pending, known = {}, list(rows)
    for one in submissions:
        more = [*known, *one.rows_on(base, norm)]
        scores = {eps: lower(found[eps]["best_known"], new)
                  for eps, new in robust_scores(more, base.num_classes, norm, radii).items()}  # fmt: skip
        if not one.counted:
            pending[one.number] = {format_eps(eps, norm): new["mIoU"] for eps, new in scores.items()}
            continue
        known = more
        for eps, new in scores.items():
            if new != found[eps]["best_known"]:
                found[eps] |= {"best_known": new, "lowered_by": one.number}
    return found, pending


def _model(base: Evidence) -> dict[str, Any]:
    identity, about = base.identity, base.about
    names = ("config", "checkpoint", "checkpoint_sha256", "weights_sha256", "config_sha256")
    code = str(identity.get("code_sha256", ""))[:12]
    return {
        "name": str(identity.get("model", base.run.label)),
        "loader": _loader(identity, about),
        "revision": f"segrobust {identity.get('segrobust', '?')}" + (f", code {code}" if code else ""),
        **{name: identity.get(name) for name in names},
        "parameters": about.get("parameters"),
        "unsafe_load": bool(identity.get("checkpoint_trusted")),
    }


def _loader(identity: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    word = next((word for word in (about.get("options") or [])[1:] if not str(word).startswith("-")), "")
    if identity.get("config") in zoo():
        return "shipped"
    if identity.get("config") in PUBLISHED:
        return "published layout"
    kinds = {"hf:": "transformers", "smp:": "segmentation-models-pytorch"}
    if kind := next((kind for prefix, kind in kinds.items() if str(word).startswith(prefix)), None):
        return kind
    if names_function(str(word)):
        return "a function"
    return "a config" if identity.get("config") else "a module, in Python"


def _data(base: Evidence) -> dict[str, Any]:
    identity = base.identity
    return {
        "name": shown_name(identity),
        "protocol": identity.get("protocol"),
        "split": _after(base, "--split") or "test",
        "classes": base.num_classes,
        "images": len(base.run.images),
        "fingerprint": base.fingerprint,
        "recipe": str(identity.get("data_recipe", "")),
        "sizes": str(base.about.get("sizes", "")),
        "metric_size": identity.get("metric_size", INPUT),
    }


def _after(base: Evidence, flag: str) -> str | None:
    """The word after a flag of the run's command line."""
    words = [str(word) for word in base.about.get("options") or ()]
    return words[words.index(flag) + 1] if flag in words[:-1] else None


def _command(base: Evidence) -> str:
    """The words of the command line, without where its results went."""
    words = [str(word) for word in base.about.get("options") or ()]
    if "--work-dir" in words:
        place = words.index("--work-dir")
        words = words[:place] + words[place + 2 :]
    if not words:
        return ""
    return shlex.join(["segrobust", *([] if words[0] in ("evaluate", "benchmark") else ["evaluate"]), *words])


def _minimum_norm(evidences: Sequence[Evidence], norm: str) -> dict[str, Any] | None:
    """The lowest median distance of the run with the most images."""
    found = [record for one in evidences for record in one.run.distances(norm) if not record["surrogate"]]
    if not found:
        return None
    best = min(found, key=lambda r: (-r["images"], r["median_distance"] is None, r["median_distance"] or 0.0))
    interval = best["ci"].get("median_distance")
    return {"attack": best["name"], "median": best["median_distance"], "ci": interval, "found": best["found"],
            "images": best["images"]}  # fmt: skip


def _corruptions(evidences: Sequence[Evidence]) -> dict[str, Any] | None:
    """The mean over all measured corruptions, of the run with the most of them and then of images."""
    means = [
        record | {"severities": sorted({r["severity"] for r in one.run.of_study(CORRUPTION) if r["severity"]})}
        for one in evidences
        for record in one.run.of_study(CORRUPTION)
        if record["name"] == MEAN and record["severity"] is None
    ]
    best = max(means, key=lambda record: (record.get("types") or 0, record["images"]), default=None)
    return best and {name: best.get(name) for name in ("mIoU", "aAcc", "types", "severities", "images")}


def _cost(evidences: Sequence[Evidence], norm: str) -> dict[str, Any]:
    """Passes per image and hours of all attacks; the radii of a minimum-norm attack come from one search."""
    forwards = backwards = seconds = 0.0
    for one in evidences:
        searches = {record["name"] for record in one.run.distances(norm)}
        for name in one.run.all_names(norm):
            records = [r for r in one.run.attacked(norm) if r["name"] == name and r["study"] == ATTACK]
            total = max if name in searches else sum
            forwards += total((r["forwards"] or 0.0 for r in records), **({"default": 0.0} if total is max else {}))
            backwards += total((r["backwards"] or 0.0 for r in records), **({"default": 0.0} if total is max else {}))
            seconds += total((r["seconds"] or 0.0 for r in records), **({"default": 0.0} if total is max else {}))
    devices = dict.fromkeys(one.run.facts.get("device", "") for one in evidences)
    return {"forwards": round(forwards, 1), "backwards": round(backwards, 1), "hours": round(seconds / 3600, 4),
            "device": ", ".join(filter(None, devices))}  # fmt: skip


def _attacks(evidences: Sequence[Evidence], norm: str) -> list[dict[str, Any]]:
    """The attacks that took part, with a digest of their settings and the ids of their conditions."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for condition in (one for run in evidences for one in run.conditions):
        if condition.study == ATTACK and condition.norm == norm and not condition.candidate:
            fields = json.dumps(dict(condition.fields), sort_keys=True)
            digest = hashlib.sha256(fields.encode()).hexdigest()
            one = found.setdefault((condition.name, digest), {"name": condition.name, "sha256": digest, "radii": []})
            radius = "minimum norm" if condition.eps is None else format_eps(condition.eps, norm)
            one["radii"] = list(dict.fromkeys([*one["radii"], radius]))
    return list(found.values())


def _listed(board: Path, one: Evidence, counted: bool) -> dict[str, Any]:
    folder = board / "evidence" / one.name
    images = attacked_images(folder)
    kept = images and {"count": len(images["files"]), "bytes": images["bytes"], "stored": images["stored"]}
    return {"run": one.name, "command": _command(one), "images": len(one.run.images), "counted": counted,
            "trust": one.run.trust.level if one.run.trust else "not checked", "attacked_images": kept,
            "files": files_of(folder)}  # fmt: skip
