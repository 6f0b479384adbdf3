"""Are the stored results whole, possible, and of this model and data? Read from files; a few rows are made again."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from segrobust.attacks.base import AttackContractError
from segrobust.checks.context import Context
from segrobust.checks.probe import refuse_random
from segrobust.checks.recomputed import computed_again
from segrobust.checks.repeats import FACTOR
from segrobust.checks.verdicts import (
    FAIL,
    INFO,
    LEVELS,
    NOISE,
    PASS,
    WARN,
    Check,
    NotApplicable,
    Verdict,
    verdict,
)
from segrobust.core.rows import ATTACK, CLEAN, CORRUPTION, UNIVERSAL, Row
from segrobust.core.threats import THREATS, allowed
from segrobust.models.checkpoint.loading import sha256
from segrobust.models.digests import weights_sha256
from segrobust.runs.images import entries_of
from segrobust.studies.clean import Clean

OURS = (CLEAN, ATTACK, CORRUPTION, UNIVERSAL)


def every_image_once(context: Context) -> Verdict:
    """One row per image and condition, all of the same truth."""
    lines = [line for lines in context.raw.values() for line in lines]
    found = Counter((line["condition"], line["image"]) for line in lines)
    doubled = sum(count - 1 for count in found.values())
    images = range(len(context.source))
    wanted = {(one.id, image) for one in context.conditions for image in images}
    studies = {one.id: one.study for one in context.folder.conditions()}
    listed = {(condition, image) for condition in studies for image in images}
    truths: dict[int, set] = defaultdict(set)
    for line in lines:  # under a patch, and perhaps in a study of the user's own, fewer pixels count
        if "regions" not in line["extra"] and studies.get(line["condition"]) in OURS:
            truths[line["image"]].add(_truth(line["counts"]))
    unequal = sum(len(seen) > 1 for seen in truths.values())
    wrong = _wrong_labels(context, truths)
    numbers = {"rows": len(lines), "images": len(truths), "doubled": doubled, "missing": len(wanted - found.keys())}
    numbers |= {
        "unknown": len(found.keys() - listed),
        "images_with_unequal_labels": unequal,
        "labels_unlike_the_data": wrong,
    }
    problems = [f"{numbers[name]} {name.replace('_', ' ')}" for name in list(numbers)[2:] if numbers[name]]
    if problems:
        remedy = "the row files were damaged or changed: start anew with --fresh"
        return verdict(FAIL, f"of {len(lines)} rows: {', '.join(problems)}", remedy, **numbers)
    text = f"{len(lines)} rows: each of {len(truths)} images once per condition, always with the same labels"
    return verdict(PASS, text, **numbers)


def _truth(counts: Mapping[str, list[int]]) -> tuple:
    """Labelled pixels per class, of the classes that have some."""
    pixels = zip(counts["classes"], counts["tp"], counts["fn"], strict=True)
    return tuple((index, right + missed) for index, right, missed in pixels if right + missed)


def _wrong_labels(context: Context, truths: dict[int, set]) -> int:
    """Images of the subset whose rows count other labels than the data set has."""
    wrong = 0
    for group in context.groups:
        labels = group.labels if group.originals is None else group.originals
        for image, label in zip(group.ids, labels.cpu(), strict=True):
            classes, pixels = label[label != context.void].unique(return_counts=True)
            truth = tuple(zip(classes.tolist(), pixels.tolist(), strict=True))
            wrong += any(seen != truth for seen in truths.get(image, ()))
    return wrong


def within_budget(context: Context) -> Verdict:
    """Every perturbed image inside its radius and the box."""
    if isinstance(context.error, AttackContractError):
        return verdict(FAIL, str(context.error), "the attack is defective: it must project to ball and box")
    bounded = [row for row in context.all_rows if row.condition.eps is not None and row.condition.norm in THREATS]
    files, bad = _stored_images(context)
    if not bounded and not files:
        raise NotApplicable("no image of the run was to stay within a radius")
    outside = [row for row in bounded if not _distance(row) <= allowed(row.condition.norm, row.condition.eps)]
    excess = max((_distance(row) - row.condition.eps for row in bounded), default=-math.inf)
    numbers = {"rows_outside": len(outside), "files": files, "files_outside": len(bad), "largest_excess": excess}
    if outside or bad:
        worst = bad[0] if bad else f"{outside[0].condition.name} image {outside[0].image}"
        text = f"{len(outside)} rows and {len(bad)} of {files} stored images lie outside their bounds ({worst})"
        return verdict(FAIL, text, "these are no results at that radius: run them again with --fresh", **numbers)
    stored = f", and so do {files} stored images" if files else "; no attacked images are stored"
    return verdict(PASS, f"all rows keep to their radius (largest excess {excess:.2g}){stored}", **numbers)


def _distance(row: Row) -> float:
    return row.extra.get("distance", math.inf)


MOST_FILES = 256


def _stored_images(context: Context) -> tuple[int, list[str]]:
    """How many stored images were looked at, and which of them are no images or too far from the clean ones."""
    chosen = range(len(context.source)) if len(context.source) <= MOST_FILES else context.ids
    count, bad = 0, []
    conditions = [one for one in context.conditions if one.study != CLEAN and not one.candidate]
    for image in chosen if any(context.folder.path.glob("adversarial/*/*.npy")) else ():
        clean = context.source[image].image
        for one in conditions:
            file = context.executor.image_file(one, image)
            if file.is_file():
                count += 1
                if not _is_perturbed_image(np.load(file, allow_pickle=False), clean, one.norm, one.eps):
                    bad.append(f"{file.parent.name}/{file.name}")
    return count, bad


def _is_perturbed_image(stored: np.ndarray, clean: torch.Tensor, norm: str | None, eps: float | None) -> bool:
    if stored.shape != tuple(clean.shape) or not np.isfinite(stored).all() or stored.min() < 0 or stored.max() > 1:
        return False
    if eps is None or norm not in THREATS:
        return True
    return float(THREATS[norm].distance((torch.from_numpy(stored) - clean)[None])) <= allowed(norm, eps)


MOST_PASSES = 400  # for the attacked rows that are made again


def repeatable(context: Context) -> Verdict:
    """One process, computing again, gets the integers that all processes stored, as far as they repeat at all."""
    refuse_random(context)
    seen = [computed_again(context, Clean(), context.batches)]
    attacks = [study for study in context.attacks if not study.attack.control]
    cheapest = min(attacks, key=lambda study: study.passes, default=None)
    if cheapest and cheapest.passes * len(context.batches[0]) <= MOST_PASSES:
        seen.append(computed_again(context, cheapest, context.batches[:1]))
    compared, differing = sum(one.rows for one in seen), [row for one in seen for row in one.differing]
    processes = sum(bool(rows) for rows in context.raw.values())
    numbers = {"rows": compared, "differing": len(differing), "processes": processes, "first": differing[:1]}
    text = f"{compared} rows of a run on {processes} process(es), computed again by one: {len(differing)} differ"
    if not differing:
        return verdict(INFO, text, **numbers)
    text += f" ({differing[0]})"
    if excused := [one for one in seen if one.differing and not one.repeats]:
        points, measured = (max(getattr(one, name) for one in excused) for name in ("points", "measured"))
        numbers |= {"points": points, "points_between_repeats": measured}
        text += f"; that does not repeat here: {points:.2f} points of an image's pixels apart, {measured:.2f} between "
        text += f"two more runs ({FACTOR:g} times as much, and more than {NOISE}, would count)"
    remedy = "these rows are not of this model and data on this machine: start anew with --fresh"
    return verdict(max((one.level for one in seen), key=LEVELS.index), text, remedy, **numbers)


IDENTITY = ("model", "weights_sha256", "num_classes", "batch_size", "seed")
ABOUT = ("date", "python", "versions", "device")


def traceable(context: Context) -> Verdict:
    """The run says what it is made of, and that is what is here."""
    identity, about = context.identity, context.run.get("about") or {}
    missing = [name for name in IDENTITY if identity.get(name) in (None, "")]
    unstated = [name for name in ABOUT if not about.get(name)]
    here = {
        "weights_sha256": weights_sha256(context.model),
        "images": _digests(entries_of(context.source)),
        **{name: sha256(path) for name, path in context.files.items()},
    }
    stored = {**identity, "images": _digests(context.folder.images().entries)}
    changed = [name for name, found in here.items() if name in stored and stored[name] != found]
    numbers = {"missing": missing, "unstated": unstated, "changed": changed, "compared": sorted(here)}
    if changed or missing:
        parts = [f"{name} is not what the run's files say" for name in changed]
        parts += [f"run.json has no {name}" for name in missing]
        remedy = "weights or data changed since the run, or run.json did: start anew with --fresh"
        return verdict(FAIL, "; ".join(parts), remedy, **numbers)
    if unstated:
        text = f"run.json does not say: {', '.join(unstated)}"
        return verdict(WARN, text, "start anew with --fresh, so that the run stores what it was made with", **numbers)
    return verdict(PASS, f"run.json is complete, and {', '.join(sorted(here))} match what is here", **numbers)


def _digests(entries: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    return sorted((one["name"], one["sha256"]) for one in entries)


def one_version(context: Context) -> Verdict:
    """All rows are of the same code and libraries."""
    accepted = context.run.get("accepted_different") or []
    if not accepted:
        return verdict(PASS, "the run was never continued with other code or libraries", accepted=[])
    differences = "; ".join(map(_difference, accepted))
    remedy = "these rows are of several versions: start anew with --fresh for a result of one"
    return verdict(WARN, f"the run went on although it differed: {differences}", remedy, accepted=accepted)


def _difference(one: Mapping[str, Any]) -> str:
    stored, now = (_short(one[name]) for name in ("stored", "now"))
    return f"{one['what']} was {stored} and is {now} since {one['date']}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."


CHECKS = (
    Check("every image once", every_image_once, essential=True),
    Check("within budget and box", within_budget, unfinished=True, essential=True),
    Check("one process finds the same integers", repeatable, essential=True),
    Check("rows of one version", one_version, essential=True),
    Check("provenance complete, files unchanged", traceable, essential=True),
)
