"""``segrobust leaderboard verify --strict``: clean and attacked images that are kept, measured again with the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from segrobust.commands.inputs import Inputs
from segrobust.commands.network import Network
from segrobust.commands.remeasure import Given, bench_of, counts_of, differing, measure, read_tensor, stored_images
from segrobust.core.errors import UserError
from segrobust.core.threats import THREATS, allowed
from segrobust.leaderboard.board import Board
from segrobust.leaderboard.entry import Entry
from segrobust.leaderboard.evidence import Evidence
from segrobust.leaderboard.scores import clean_rows
from segrobust.leaderboard.submissions import submissions_of
from segrobust.studies.bench import Bench

TOLERANCE = 1e-3  # of an image's pixels: another batch, another processor


@dataclass
class Found:
    """problems: what is wrong. not_done: what could not be looked at. measured: how many images were."""

    problems: list[str] = field(default_factory=list)
    not_done: list[str] = field(default_factory=list)
    measured: int = 0

    def compare(self, what: str, stored: object, here: object) -> None:
        self.measured += 1
        if (share := differing(stored, here)) > TOLERANCE:
            self.problems.append(f"{what}: {100 * share:.2f} % of the pixels are counted otherwise here")


def measured_again(board: Board, entry: Entry, inputs: Inputs, network: Network) -> Found:
    """The entry's clean images and all attacked ones that are kept, with the model that ``inputs`` name.

    Raises:
        UserError: another model or other images than the entry's.
    """
    base, norm = board.base(entry), entry["threat_model"]["norm"]
    bench, found = bench_of(base, inputs, network), Found()
    for row in clean_rows(base):
        found.compare(f"clean image {base.run.images[row.image][0]}", row.counts, counts_of(bench, row.image)[0])
    for listed in entry["evidence"]:
        _compare_run(bench, base, board.evidence(listed["run"]), found)
        images = listed["attacked_images"]
        if not images or not images["stored"]:
            what = "too many to be kept" if images else "not saved (evaluate with --save-adversarial)"
            found.not_done.append(f"evidence/{listed['run']}: its attacked images were {what}")
    radii = [one["eps"] for one in entry["robust"]]
    for submission in submissions_of(board.path, entry["id"]):
        name = f"submission {submission.number}"
        if not submission.counted:
            found.not_done.append(f"{name}: rows without images, which count for nothing")
        elif not submission.about["attacked_images"]["stored"]:
            found.not_done.append(f"{name}: its images were too many to be kept")
        else:
            lines = submission.measured
            given = [Given(f"{name}, {one['file']}", one["sha256"], lambda file=submission.folder / one["file"]:
                           read_tensor(file)) for one in lines]  # fmt: skip
            _compare_submission(bench, base, lines, given, norm, radii, found)
    return found


def _compare_submission(
    bench: Bench,
    base: Evidence,
    lines: Sequence,
    given: Sequence[Given],
    norm: str,
    radii: Sequence[float],
    found: Found,
) -> None:
    for line, one in zip(lines, given, strict=True):
        try:
            (here,) = measure(bench, base, [one], norm, radii)
        except UserError as error:
            found.problems.append(str(error))
            continue
        if here.eps > line["eps"]:
            found.problems.append(f"{one.where}: farther from its clean image than {line['eps']:g}")
        found.compare(one.where, line["counts"], here.counts)


def _compare_run(bench: Bench, base: Evidence, run: Evidence, found: Found) -> None:
    """The images of a run that are images of the entry, too."""
    for row, file in stored_images(run):
        place = base.places.get(run.run.images[row.image][1])
        if place is None:
            continue
        pixels, one = read_tensor(file), row.condition
        here, clean = counts_of(bench, place, pixels)
        what = f"evidence/{run.name}/{one.folder}/{file.name}"
        distance = THREATS[one.norm].distance((pixels - clean)[None]) if one.norm in THREATS else torch.zeros(1)
        if one.eps is not None and float(distance) > allowed(one.norm, one.eps):
            found.problems.append(f"{what}: farther from its clean image than {one.title} allows")
        found.compare(what, row.counts, here)
