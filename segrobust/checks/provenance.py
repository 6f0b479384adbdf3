"""Can the run be traced and repeated?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segrobust.analysis.summary import CLEAN
from segrobust.checks.base import FAIL, INFO, PASS, WARN, Check, Skip, Verdict, verdict
from segrobust.checks.context import Context
from segrobust.checks.contract import random
from segrobust.core.rows import row_key
from segrobust.models.checkpoint.loading import sha256
from segrobust.runs.identity import weights_sha256


def repeatable(context: Context) -> Verdict:
    """One process, computing again, gets the integers that all processes stored."""
    if random(context):
        raise Skip("two forwards of the same batch differ already")
    stored = {row["image"]: row for row in context.rows if row["attack"] == CLEAN}
    differing = []
    for group, prediction in zip(context.groups, context.probe.predictions, strict=True):
        labels = group.measured().labels.cpu()
        if group.originals is not None:
            prediction = context.evaluation.measured(group.images, group).cpu()
        for image, again in zip(group.ids, context.task.counts(prediction, labels), strict=True):
            differing += [f"clean image {image}"] * any(stored[image][name] != again[name] for name in again)
    compared = len(context.ids)
    if context.full:
        more, wrong = _attack_again(context)
        compared, differing = compared + more, differing + wrong
    processes = sum(bool(rows) for rows in context.raw.values())
    numbers = {"rows": compared, "differing": len(differing), "processes": processes, "first": differing[:1]}
    text = f"{compared} rows of a run on {processes} process(es), computed again by one: {len(differing)} differ"
    if differing:
        where = f" ({differing[0]})"
        remedy = "these rows are not of this model and data on this machine: start anew with --fresh"
        return verdict(FAIL if context.evaluation.device.type == "cpu" else WARN, text + where, remedy, **numbers)
    return verdict(INFO, text, **numbers)


def _attack_again(context: Context) -> tuple[int, list[str]]:
    """The rows of one batch under the strongest attack: how many were compared, and which differ."""
    if not context.strongest:
        return 0, []
    stored = {row_key(row): row for row in context.all_rows}
    again = context.evaluation.attack_batch(context.strongest[0], context.batches[0])
    return len(again), [f"{row['attack']} image {row['image']}" for row in again if stored.get(row_key(row)) != row]


IDENTITY = ("model", "weights_sha256", "dataset_fingerprint", "num_classes", "images", "attacks", "batch_size", "seed")
ABOUT = ("date", "python", "versions", "device")


def traceable(context: Context) -> Verdict:
    """The run says what it is made of, and that is what is here."""
    identity, about = context.identity, context.run.get("about") or {}
    missing = [name for name in IDENTITY if identity.get(name) in (None, "")]
    untold = [name for name in ABOUT if not about.get(name)]
    here = {
        "weights_sha256": weights_sha256(context.original),
        "dataset_fingerprint": context.source.fingerprint(),
        **{name: sha256(path) for name, path in context.files.items()},
    }
    changed = [name for name, digest in here.items() if name in identity and identity[name] != digest]
    numbers = {"missing": missing, "untold": untold, "changed": changed, "compared": sorted(here)}
    if changed or missing:
        parts = [f"{name} is not what run.json says" for name in changed]
        parts += [f"run.json has no {name}" for name in missing]
        remedy = "weights or data changed since the run, or run.json did: start anew with --fresh"
        return verdict(FAIL, "; ".join(parts), remedy, **numbers)
    if untold:
        text = f"run.json does not say: {', '.join(untold)}"
        return verdict(WARN, text, "start anew with --fresh, so that the run stores what it was made with", **numbers)
    return verdict(PASS, f"run.json is complete, and {', '.join(sorted(here))} match what is here", **numbers)


def one_version(context: Context) -> Verdict:
    """All rows are of the same code and libraries."""
    accepted = context.run.get("accepted_different") or []
    if not accepted:
        return verdict(PASS, "the run was never continued with other code or libraries", accepted=[])
    told = "; ".join(_difference(one) for one in accepted)
    remedy = "these rows are of several versions: start anew with --fresh for a result of one"
    return verdict(WARN, f"the run went on although it differed: {told}", remedy, accepted=accepted)


def _difference(one: Any) -> str:
    if not isinstance(one, Mapping):
        return str(one)
    stored, now = (_short(one.get(name)) for name in ("stored", "now"))
    return f"{one.get('what')} was {stored} and is {now} since {one.get('date')}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."


CHECKS = (
    Check("one process finds the same integers", repeatable, essential=True),
    Check("rows of one version", one_version, essential=True),
    Check("provenance complete, files unchanged", traceable, essential=True),
)
