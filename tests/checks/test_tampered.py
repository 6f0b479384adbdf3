"""Runs whose files were changed, lost or doubled afterwards."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from segrobust.attacks import build_attack
from segrobust.attacks.base import AttackContractError
from segrobust.checks.integrity import every_image_once, repeatable, traceable, within_budget
from segrobust.checks.results import monotone
from segrobust.runs.folder import RunFolder
from tests.checks.looking import WITHIN, context, levels, look, look_again, verdicts
from tests.checks.models import segmenter
from tests.runs.toy_run import ToySource


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr("segrobust.commands.evaluation.build_report", lambda *_: None)
    folder = tmp_path_factory.mktemp("runs") / "whole"
    look(segmenter("small"), folder, save_adversarial=True)
    patch.undo()
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of a finished run, to be changed."""
    return shutil.copytree(finished, tmp_path / "copy")


def rows_of(folder):
    return [json.loads(line) for line in (folder / "rows" / "rank-0.jsonl").read_text().splitlines()]


def of(folder, rows, name):
    """The rows of a condition's name."""
    known = {one.id for one in RunFolder(folder).conditions() if one.name == name}
    return [row for row in rows if row["condition"] in known]


def change(folder, rows):
    (folder / "rows" / "rank-0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_untouched_copy_is_fine(folder):
    assert levels(look_again(segmenter("small"), folder), "fail") == set()
    numbers = verdicts(folder)[WITHIN]["numbers"]
    assert (numbers["files"], numbers["files_outside"]) == (14, 0)


def test_a_doubled_row(folder):
    rows = rows_of(folder)
    change(folder, [*rows, rows[5]])
    found = every_image_once(context(segmenter("small"), folder))
    assert (found.level, found.numbers["doubled"], found.numbers["missing"]) == ("fail", 1, 0)


def test_a_lost_and_a_foreign_row(folder):
    rows = rows_of(folder)
    change(folder, [*rows[:-1], {**rows[-1], "image": 99}])
    found = every_image_once(context(segmenter("small"), folder))
    assert (found.level, found.numbers["missing"], found.numbers["unknown"]) == ("fail", 1, 1)


def test_a_row_that_counts_other_labels(folder):
    rows = rows_of(folder)
    of(folder, rows, "CEPGD")[0]["counts"]["tp"][0] += 1
    change(folder, rows)
    found = every_image_once(context(segmenter("small"), folder))
    assert found.level == "fail"
    assert (found.numbers["images_with_unequal_labels"], found.numbers["labels_unlike_the_data"]) == (1, 1)


def test_a_row_with_a_better_result_than_it_had(folder):
    rows = rows_of(folder)
    counts = next(row["counts"] for row in of(folder, rows, "clean") if row["counts"]["fn"][0])
    counts["tp"][0] += 1
    counts["fn"][0] -= 1
    change(folder, rows)
    assert every_image_once(context(segmenter("small"), folder)).level == "pass"  # the labels are the same
    found = repeatable(context(segmenter("small"), folder))
    assert (found.level, found.numbers["differing"]) == ("fail", 1)


def test_an_attacked_row_is_computed_again_where_that_is_cheap(folder, monkeypatch):
    rows = rows_of(folder)
    for counts in (row["counts"] for row in of(folder, rows, "CEPGD")):
        if counts["fn"][0]:
            counts["tp"][0] += 1
            counts["fn"][0] -= 1
    change(folder, rows)
    assert repeatable(context(segmenter("small"), folder)).level == "fail"
    monkeypatch.setattr("segrobust.checks.integrity.MOST_PASSES", 60)  # three images of ten steps take 66
    assert repeatable(context(segmenter("small"), folder)).level == "info"


def test_a_stored_image_is_not_replaced_by_what_is_computed_again(folder):
    files = sorted((folder / "adversarial").glob("*/00000[012].npy"))
    for file in files:
        np.save(file, 0 * np.load(file))
    found = repeatable(context(segmenter("small"), folder))
    assert (found.level, found.numbers["rows"]) == ("info", 10) and len(files) == 6
    assert all(not np.load(file).any() for file in files)


def test_a_row_outside_its_radius(folder):
    rows = rows_of(folder)
    of(folder, rows, "CEPGD")[0]["extra"]["distance"] += 2e-6
    change(folder, rows)
    found = within_budget(context(segmenter("small"), folder))
    assert (found.level, found.numbers["rows_outside"]) == ("fail", 1)


@pytest.mark.parametrize("damage", ["budget", "box", "nan", "shape"])
def test_a_stored_image_outside_its_bounds(folder, damage):
    file = folder / "adversarial" / "CEPGD_2-255" / "000003.npy"
    pixels = np.load(file)
    if damage == "budget":
        pixels[0, 0, 0] = 1 - pixels[0, 0, 0]
    elif damage == "box":
        pixels -= 1e-3 + pixels.min()
    elif damage == "nan":
        pixels[1, 2, 3] = np.nan
    else:
        pixels = pixels[:, :-1]
    np.save(file, pixels)
    found = within_budget(context(segmenter("small"), folder))
    assert found.level == "fail" and "CEPGD_2-255/000003.npy" in found.evidence
    assert found.numbers["files_outside"] == 1


def test_an_attack_that_leaves_its_radius_fails_the_run_and_is_reported(tmp_path, monkeypatch):
    threat = type(build_attack("CEPGD").threat)
    monkeypatch.setattr(threat, "project", lambda self, points, clean, eps: points.clamp(0, 1))
    with pytest.raises(AttackContractError):
        look(segmenter("small"), tmp_path)
    found = verdicts(tmp_path)
    assert found[WITHIN]["verdict"] == "fail" and "left its bounds" in found[WITHIN]["evidence"]


def test_results_filed_under_the_wrong_radius(folder):
    rows = rows_of(folder)
    small, large = (one.id for one in RunFolder(folder).conditions() if one.name == "CEPGD")
    for row in rows:
        row["condition"] = {small: large, large: small}.get(row["condition"], row["condition"])
    change(folder, rows)
    assert monotone(context(segmenter("small"), folder)).level == "fail"


def test_another_checkpoint_another_hash(folder, tmp_path):
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"as it was")
    run = json.loads((folder / "run.json").read_text())
    from segrobust.models.checkpoint.loading import sha256

    run["identity"]["checkpoint_sha256"] = sha256(weights)
    (folder / "run.json").write_text(json.dumps(run))
    files = {"checkpoint_sha256": weights}
    assert traceable(context(segmenter("small"), folder, files=files)).level == "pass"
    weights.write_bytes(b"trained on")
    found = traceable(context(segmenter("small"), folder, files=files))
    assert found.level == "fail" and found.numbers["changed"] == ["checkpoint_sha256"]


def test_other_data_and_a_stripped_identity(folder):
    found = traceable(context(segmenter("small"), folder, ToySource(salt=1)))
    assert found.level == "fail" and found.numbers["changed"] == ["images"]
    run = json.loads((folder / "run.json").read_text())
    del run["identity"]["seed"]
    run["about"] = {}
    (folder / "run.json").write_text(json.dumps(run))
    found = traceable(context(segmenter("small"), folder))
    assert found.level == "fail" and found.numbers["missing"] == ["seed"]
    run["identity"]["seed"] = 0
    (folder / "run.json").write_text(json.dumps(run))
    found = traceable(context(segmenter("small"), folder))
    assert found.level == "warn" and found.numbers["unstated"] == ["date", "python", "versions", "device"]
