"""Targeted runs: what counts is at the target, and the target belongs to the run's identity."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from segrobust.attacks import build_attack
from segrobust.commands.evaluation import evaluate
from segrobust.core.errors import UserError
from segrobust.core.seeds import image_seeds
from segrobust.datasets.targets import build_target
from segrobust.runs.folder import RunFolder
from tests.runs.toy_run import ToySource, flat_rows, toy_model
from tests.studies.sign_bisection import register

RUN = {"attacks": ["CEPGD", "SignBisection"], "eps": ["8/255"], "steps": 5, "batch_size": 3, "target": "class:<c>"}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    register(monkeypatch)


def run(folder, **changes):
    return evaluate(toy_model(), ToySource(), work_dir=folder, **{**RUN, **changes})


def test_rows_count_what_is_at_the_target(tmp_path):
    summary = run(tmp_path)
    rows = {(row["name"], row["eps"], row["image"]): row for row in flat_rows(tmp_path)}
    model, source = toy_model(), ToySource()
    images = torch.stack([source[i].image for i in (1, 2)])
    labels = torch.stack([source[i].label for i in (1, 2)])
    attack = build_attack("CEPGD", eps="8/255", steps=5, targeted=True)
    targets = torch.full_like(labels, 2)
    result = attack(model, images, labels, targets=targets, seeds=image_seeds(0, [1, 2]))
    for n, i in enumerate((1, 2)):
        for key, points in (("clean", images), ("CEPGD", result.images)):
            with torch.no_grad():
                hit = (model(points).argmax(1)[n] == 2) & (labels[n] != 255)
            row = rows[key, None if key == "clean" else attack.eps, i]
            assert (row["at_target"], row["target_pixels"]) == (hit.sum(), (labels[n] != 255).sum())
            assert row["found"] == bool(hit.sum() >= 0.99 * row["target_pixels"])
    by_name = {(r["name"], r["eps"] is None): r for r in summary}
    assert by_name["CEPGD", False]["apsr"] > by_name["clean", True]["apsr"] + 1
    smallest = [row for key, row in rows.items() if key[:2] == ("SignBisection", None)]
    assert by_name["SignBisection", True]["apsr"] == pytest.approx(
        100 * sum(row["at_target"] for row in smallest) / sum(row["target_pixels"] for row in smallest), abs=1e-3
    )
    for row in smallest:
        assert row["found"] == (row["at_target"] >= 0.6 * row["target_pixels"])
    identity = json.loads((tmp_path / "run.json").read_text())["identity"]
    assert identity["target"] == {"spec": "class:<c>", "class": 2}
    assert all(one.fields["targeted"] for one in RunFolder(tmp_path).conditions()[1:])
    assert "class:&lt;c&gt;" in (tmp_path / "report.html").read_text()


def test_the_target_is_part_of_the_identity(tmp_path):
    run(tmp_path, attacks=["CEPGD"])
    with pytest.raises(UserError, match=r"target\.class is 2 there and 1 here"):
        run(tmp_path, attacks=["CEPGD"], target="class:1")
    with pytest.raises(UserError, match=r'target is .*"class:<c>".* there and absent here'):
        run(tmp_path, attacks=["CEPGD"], target=None)


@pytest.mark.parametrize("target", ["least-likely", "background"])
def test_batches_of_another_size_and_a_second_start_give_the_same_rows(tmp_path, target):
    for name, size in (("three", 3), ("four", 4)):
        run(tmp_path / name, batch_size=size, target=target)
    rows = [flat_rows(tmp_path / name) for name in ("three", "four")]
    for ours, theirs in zip(*rows, strict=True):
        assert [ours[name] for name in ("at_target", "target_pixels", "tp")] == [
            theirs[name] for name in ("at_target", "target_pixels", "tp")
        ]
    before = (tmp_path / "three/summary.json").read_bytes()
    run(tmp_path / "three", target=target)
    assert (tmp_path / "three/summary.json").read_bytes() == before


class OneSize(ToySource):
    """The toy images of 16x16 alone."""

    def __init__(self) -> None:
        super().__init__()
        self.samples = [sample for sample in self.samples if sample.label.shape == (16, 16)]


def test_void_in_the_mask_does_not_count_and_another_mask_is_another_run(tmp_path):
    file = tmp_path / "mask.png"
    ids = np.full((16, 16), 1, dtype=np.uint8)
    ids[:8] = 255
    Image.fromarray(ids).save(file)
    settings = {**RUN, "attacks": ["CEPGD"], "target": f"mask:{file}"}
    evaluate(toy_model(), OneSize(), work_dir=tmp_path / "run", **settings)
    for row in flat_rows(tmp_path / "run"):
        label = OneSize()[row["image"]].label
        assert row["target_pixels"] == (label[8:] != 255).sum()
        assert sum(row["tp"]) + sum(row["fn"]) == (label != 255).sum()  # accuracy still counts every labelled pixel
    assert np.array_equal(np.asarray(Image.open(tmp_path / "run/target.png")), ids)
    assert (tmp_path / "run/target-colours.png").is_file()
    ids[8, 0] = 2
    Image.fromarray(ids).save(file)
    with pytest.raises(UserError, match=r"target\.sha256"):
        evaluate(toy_model(), OneSize(), work_dir=tmp_path / "run", **settings)


def test_attacks_without_a_targeted_form_are_refused(tmp_path):
    for name in ("UniformNoise", "JSPGD"):
        with pytest.raises(UserError, match=f"{name} has no targeted form"):
            run(tmp_path, attacks=["CEPGD", name])
    with pytest.raises(UserError, match="CEPGD is targeted, but the run has no target"):
        run(tmp_path, attacks=[build_attack("CEPGD", targeted=True)], target=None)
    assert not (tmp_path / "run.json").exists()


def test_a_built_target_may_be_given(tmp_path):
    source = ToySource()
    summary = run(tmp_path, attacks=["CEPGD"], target=build_target("class:1", source))
    assert all("apsr" in record for record in summary)
