"""Small finished runs with made-up numbers and verdicts, of the standard protocol or not, and a leaderboard."""

import hashlib

import pytest

from segrobust.analysis.summary import summarise
from segrobust.attacks.registry import build_attack
from segrobust.checks.basis import FORMAT, basis_of, with_digest
from segrobust.core.rows import Condition, Row
from segrobust.leaderboard import Board
from segrobust.leaderboard.rules import RADII, SHIPPED_DATA
from segrobust.runs.folder import RunFolder
from segrobust.studies.attack import fields_of

STANDARD_FIELDS = fields_of(build_attack("Standard"))
IMAGES = 32
ABOUT = {
    "date": "2026-11-24T00:12:05+00:00",
    "device": "cpu",
    "parameters": 1234567,
    "sizes": "attacked and measured at 180x240",
    "options": ["evaluate", "net.py", "net.safetensors", "--attack", "standard", "--work-dir", "mine"],
}


def counts(right):
    """An image of 2000 pixels that are road or car; of the road ``right`` of 1000 are right."""
    return {"classes": [0, 1], "tp": [right, 500], "fp": [500, 1000 - right], "fn": [1000 - right, 500]}


def entries_of_images(number=IMAGES, name="scene"):
    return [
        {"name": f"{name} {n}", "sha256": hashlib.sha256(f"{name} {n}".encode()).hexdigest(), "index": n}
        for n in range(number)
    ]


def with_checks(folder, verdict="pass"):
    check = {"name": "enough images", "verdict": verdict, "evidence": "seen", "remedy": "", "open": False}
    content = {"format": FORMAT, "basis": basis_of(folder), "checks": [check]}
    folder.write_json("checks.json", with_digest(content))


def summarised(folder):
    rows = folder.complete_rows()
    folder.write_json("summary.json", summarise(rows, 3, folder.timings(), len(folder.images())))


@pytest.fixture
def make_run(tmp_path):
    def make(
        name="mine", clean=900, robust=500, attack="Standard", radii=RADII, norm="Linf", images=IMAGES, weights="aa",
        verdict="pass", about=(), fields=None, studies=(), image_entries=None, **more,
    ):  # fmt: skip
        """``clean`` and ``robust`` are right pixels of a class of 1000; a larger radius takes ten more."""
        folder = RunFolder(tmp_path / name)
        identity = {
            "model": f"net {weights}", "config": "net.py", "checkpoint": "net.safetensors", "dataset": "CamVidDataset",
            "checkpoint_sha256": "cc" * 32, "weights_sha256": weights * 32, "config_sha256": "dd" * 32,
            "segrobust": "0.1.0", "code_sha256": "ee" * 32, "num_classes": 3, "class_names": ["road", "car", "sky"],
            "palette": [[128, 64, 128], [0, 0, 142], [70, 130, 180]], "data_recipe": SHIPPED_DATA["CamVidDataset"],
            "batch_size": 4, "seed": 0, "precision": "float32",
        }  # fmt: skip
        fields = fields or (STANDARD_FIELDS if attack == "Standard" else {"type": attack, "steps": 100})
        conditions = [Condition("clean", "clean"), *studies]
        conditions += [Condition("attack", attack, norm, eps, fields=fields) for eps in radii]
        entries = image_entries or entries_of_images(images)
        folder.open({**identity, **more}, conditions, entries, about={**ABOUT, **dict(about)})
        rows = []
        for one in conditions:
            for image in range(len(entries)):
                right = robust - 10 * radii.index(one.eps) if one.eps is not None else robust
                extra = {"forwards": 451, "backwards": 450, "distance": one.eps or 0.0}
                if one.study == "attack" and one.eps is None:
                    extra |= {"distance": (image + 1) / 255, "found": True, "error_of_correct": 1.0}
                if one.study == "clean":
                    right, extra = clean, {"forwards": 1, "backwards": 0, "distance": 0.0}
                rows.append(Row(image, one, counts(right - image), extra))
        with folder.writer() as writer:
            writer.append(rows, [0.25] * len(rows))
        summarised(folder)
        if verdict:
            with_checks(folder, verdict)
        return folder.path

    return make


@pytest.fixture
def board(tmp_path):
    return Board(tmp_path / "board")
