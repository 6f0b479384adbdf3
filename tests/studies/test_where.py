"""Runs that judge some pixels: rows, summary, report and terminal, growth, checks, and every wrong selection named."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from segrobust.attacks import build_attack
from segrobust.commands.evaluation import evaluate
from segrobust.commands.pictures import choose
from segrobust.core.errors import UserError
from segrobust.core.rows import Condition, Row
from segrobust.core.seeds import image_seeds
from segrobust.datasets.source import Sample
from segrobust.datasets.targets import build_target, selected
from segrobust.report.table import print_table
from tests.checks.looking import verdicts
from tests.runs.toy_run import ToySource, flat_rows, toy_model, without_costs
from tests.studies.sign_bisection import register

V = 255
RUN = {"attacks": ["CEPGD", "SignBisection"], "eps": ["8/255"], "steps": 5, "batch_size": 3, "checks": False,
       "target": "class:<c>", "where": "class:d,a"}  # fmt: skip
WITHOUT = (2, 5)  # images without the selected classes


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    register(monkeypatch)


class Rare(ToySource):
    """The toy images, two of them without the classes a and d."""

    def __init__(self, count: int = 7) -> None:
        super().__init__(count)
        for i in WITHOUT:
            if i < count:
                image, label, name = (getattr(self.samples[i], one) for one in ("image", "label", "name"))
                label = label.where((label != 0) & (label != 3), torch.tensor(1))
                self.samples[i] = Sample(image, label, name)


def run(folder, source=None, **changes):
    return evaluate(toy_model(), source or Rare(), work_dir=folder, quiet=True, **{**RUN, **changes})


def chosen(label):
    return (label == 0) | (label == 3)


def by_condition(folder):
    return {(row["name"], row["eps"], row["image"]): row for row in flat_rows(folder)}


def test_rows_judge_the_selected_pixels_and_scores_count_all(tmp_path):
    summary, rows, model, source = run(tmp_path), by_condition(tmp_path), toy_model(), Rare()
    images, labels = (torch.stack([getattr(source[i], one) for i in (1, 4)]) for one in ("image", "label"))
    targets = torch.full_like(labels, 2).masked_fill(~chosen(labels), V)
    attack = build_attack("CEPGD", eps="8/255", steps=5, targeted=True)
    result = attack(model, images, labels, targets=targets, seeds=image_seeds(0, [1, 4]))
    with torch.no_grad():
        hit = (model(result.images).argmax(1) == 2) & chosen(labels)
    for n, i in enumerate((1, 4)):
        row = rows["CEPGD", attack.eps, i]
        assert (row["at_target"], row["target_pixels"]) == (hit[n].sum(), chosen(labels[n]).sum())
    for (name, _, i), row in rows.items():
        assert sum(row["tp"]) + sum(row["fn"]) == (source[i].label != V).sum()
        if i in WITHOUT:
            assert (row["target_pixels"], row["found"]) == (0, False)
            assert name == "clean" or row["distance"] == 0
            assert row["tp"] == rows["clean", None, i]["tp"]
    assert all(record["judged"] == 5 for record in summary)
    (search,) = (one for one in summary if "median_distance" in one)
    found = [row for key, row in rows.items() if key[:2] == ("SignBisection", None) and key[2] not in WITHOUT]
    distances = sorted(row["distance"] if row["found"] else math.inf for row in found)
    assert distances[0] > 1e-3
    assert [math.inf if one is None else one for one in search["distances"]] == pytest.approx(distances, abs=1e-8)
    assert search["found"] == pytest.approx(100 * sum(map(math.isfinite, distances)) / 5)
    reached, judged = (sum(row[name] for row in found) for name in ("at_target", "target_pixels"))
    assert search["apsr"] == pytest.approx(100 * reached / judged, abs=1e-3)
    identity = json.loads((tmp_path / "run.json").read_text())["identity"]
    assert identity["target"] == {"spec": "class:<c>", "class": 2, "where": "class:d,a", "where_classes": [0, 3]}
    assert "rest" not in identity and not any("kept" in record for record in summary)


def text_of(summary):
    console = Console(file=io.StringIO(), width=140)
    print_table({"toy": summary}, console)
    return console.file.getvalue()


def test_the_rest_is_kept_as_the_clean_image_is_predicted(tmp_path):
    free, kept = run(tmp_path / "free"), run(tmp_path / "kept", rest="kept")
    model, source, rows = toy_model(), Rare(), by_condition(tmp_path / "kept")
    for (name, _, i), row in rows.items():
        rest = (source[i].label != V) & ~chosen(source[i].label)
        assert row["rest_pixels"] == rest.sum() and (name != "clean" or row["kept"] == rest.sum())
    image, label = source[1].image[None], source[1].label[None]
    with torch.no_grad():
        clean = model(image).argmax(1)
    rest = (label != V) & ~chosen(label)
    attack = build_attack("CEPGD", eps="8/255", steps=5, targeted=True)
    targets = torch.full_like(label, 2).masked_fill(~chosen(label), V)
    result = attack(model, image, label, targets=targets, kept=clean.masked_fill(~rest, V), seeds=image_seeds(0, [1]))
    with torch.no_grad():
        after, left = (
            model(result.images).argmax(1),
            model(attack(model, image, label, targets=targets).images).argmax(1),
        )
    assert rows["CEPGD", attack.eps, 1]["kept"] == ((after == clean) & rest).sum() > ((left == clean) & rest).sum()
    by_name = {(one["name"], one["eps"]): one for one in kept}
    mine = [row for key, row in rows.items() if key[:2] == ("CEPGD", attack.eps)]
    share = 100 * sum(row["kept"] for row in mine) / sum(row["rest_pixels"] for row in mine)
    assert by_name["CEPGD", attack.eps]["kept"] == pytest.approx(share, abs=1e-3)
    assert by_name["clean", None]["kept"] == 100
    assert {"apsr", "kept", "judged"} <= set(kept.table()[0]) and "kept" not in free.table()[0]
    assert "7 images, 5 of them judged (aAcc / mIoU / at target / kept in %)" in text_of(kept)
    assert "5 of them judged (aAcc / mIoU / at target in %)" in text_of(free)
    assert "kept %" in text_of(kept) and "kept %" not in text_of(free)
    pages = [" ".join((tmp_path / name / "report.html").read_text().split()) for name in ("free", "kept")]
    where = "<b>class:&lt;c&gt;</b>, at the pixels of <b>class:d,a</b> alone"
    assert all(f"{where}{kept} (7 images, 5 of them judged)" in page for page, kept in
               zip(pages, ("", ", the others as the clean image is predicted"), strict=True))  # fmt: skip
    assert "kept&nbsp;%" in pages[1] and "kept&nbsp;%" not in pages[0]
    with pytest.raises(UserError, match='rest is "kept" there and absent here'):
        run(tmp_path / "kept")


def test_a_run_that_grows_has_the_rows_of_one_start(tmp_path):
    run(tmp_path / "grown", Rare(3), rest="kept")
    run(tmp_path / "grown", rest="kept", batch_size=3)
    at_once = run(tmp_path / "at_once", rest="kept")
    summary = json.loads((tmp_path / "grown/summary.json").read_text())
    assert without_costs(summary) == without_costs(at_once)
    before = (tmp_path / "grown/summary.json").read_bytes()
    run(tmp_path / "grown", rest="kept")
    assert (tmp_path / "grown/summary.json").read_bytes() == before
    with pytest.raises(UserError, match=r'target\.where is "class:d,a" there and "class:d" here'):
        run(tmp_path / "grown", rest="kept", where="class:d")
    with pytest.raises(UserError, match=r"target\.where is .* there and absent here"):
        run(tmp_path / "grown", target="map:a=<c>,d=<c>", where=None, rest="kept")


def test_from_class_to_class_other_pixels_are_not_judged(tmp_path):
    run(tmp_path, attacks=["CEPGD"], target="map:a=<c>, 3=1", where=None)
    model, source = toy_model(), Rare()
    for i in range(7):
        row, label = by_condition(tmp_path)["clean", None, i], source[i].label
        with torch.no_grad():
            prediction = model(source[i].image[None]).argmax(1)[0]
        hit = (prediction == 2) & (label == 0) | (prediction == 1) & (label == 3)
        assert (row["at_target"], row["target_pixels"]) == (hit.sum(), chosen(label).sum())
    identity = json.loads((tmp_path / "run.json").read_text())["identity"]
    assert identity["target"] == {"spec": "map:a=<c>, 3=1", "classes": {"0": 2, "3": 1}}


def test_a_map_and_a_selection_judge_what_both_name():
    source = Rare()
    target = selected(build_target("map:a=<c>,d=b", source), "class:d,b", source)
    label = source[0].label
    expected = torch.where(label == 3, 1, V)
    assert torch.equal(target([source[0]], lambda: None)[0], expected)


def write(path, values):
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)
    return path


class OneSize(Rare):
    def __init__(self) -> None:
        super().__init__()
        self.samples = [sample for sample in self.samples if sample.label.shape == (16, 16)]


def test_masks_select_where_they_are_not_0(tmp_path):
    corner = np.zeros((16, 16))
    corner[:4, :4] = 255
    file = write(tmp_path / "m.png", corner)
    settings = {"attacks": ["CEPGD"], "where": f"mask:{file}"}
    run(tmp_path / "run", OneSize(), **settings)
    for row in flat_rows(tmp_path / "run"):
        assert row["target_pixels"] == (OneSize()[row["image"]].label[:4, :4] != V).sum() > 0
    identity = json.loads((tmp_path / "run/run.json").read_text())["identity"]
    assert identity["target"]["where"] == "mask:m.png"  # no folders
    corner[8, 8] = 1
    write(file, corner)
    with pytest.raises(UserError, match=r"target\.where_sha256"):
        run(tmp_path / "run", OneSize(), **settings)
    (folder := tmp_path / "masks").mkdir()
    source = Rare()
    for i in range(7):
        mask = np.zeros(source[i].label.shape)
        mask[i] = 1
        write(folder / f"{source[i].name}.png", mask)
    target = selected(build_target("class:b", source), f"mask:{folder}", source)
    for i in (0, 3):
        assert ((target([source[i]], lambda: None)[0] == 1).nonzero()[:, 0] == i).all()
    few = selected(build_target("class:b", Rare(3)), f"mask:{folder}", Rare(3))
    assert few.identity() == target.identity()  # so that a run may grow
    (folder / f"{source[4].name}.png").unlink()
    with pytest.raises(UserError, match=r"scene <4>\.png is missing; a folder of masks"):
        selected(target, f"mask:{folder}", source)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target": None}, "where: expected a target beside it"),
        ({"where": "class:"}, "where: expected class:road or class:road,car, got 'class:'"),
        ({"where": "class:a,,b"}, "where: expected class:road or class:road,car"),
        ({"where": "clas:a"}, "where: unknown selection of pixels 'clas:a'; did you mean class"),
        ({"where": "class:aa"}, "unknown class 'aa'"),
        ({"where": "class:4"}, "class 4 does not exist; expected 0 to 3"),
        ({"where": "mask:nowhere.png"}, "where: no such mask: 'nowhere.png'"),
        ({"where": None, "rest": "kept"}, "rest: expected a target and where beside it"),
        ({"where": None, "target": None, "rest": "kept"}, "rest: expected a target and where beside it"),
        ({"rest": "keep"}, "rest: unknown value 'keep'; did you mean kept"),
        ({"target": "map:a"}, "target: expected map:road=sidewalk,car=person, got 'a' in it"),
        ({"target": "map:a=b,a=d"}, "class 'a' is to become both 'b' and 'd'"),
        ({"target": "map:a=b,0=d"}, "names a class twice"),
        ({"target": "map:a=e"}, "unknown class 'e'"),
    ],
)
def test_wrong_selections_are_told_in_one_line(tmp_path, changes, words):
    with pytest.raises(UserError) as error:
        run(tmp_path, **changes)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run.json").exists()


def test_masks_of_another_size_and_selections_of_nothing_are_refused(tmp_path):
    source = OneSize()
    for spec, words in {
        f"mask:{write(tmp_path / 'small.png', np.ones((4, 5)))}": r"small\.png is 4x5 .* its image is 16x16",
        f"mask:{write(tmp_path / 'none.png', np.zeros((16, 16)))}": "where mask:none.png: none of 4 images",
        f"mask:{write(tmp_path / 'colour.png', np.ones((16, 16, 3)))}": "3 channels",
    }.items():
        with pytest.raises(UserError, match=words):
            run(tmp_path / "run", source, where=spec)
    for sample in source.samples:
        sample.label[chosen(sample.label)] = V
        sample.label[:2, :2] = V
    corner = np.zeros((16, 16))
    corner[:2, :2] = 1
    with pytest.raises(UserError, match=r"void\.png: none of 4 images"):
        run(tmp_path / "run", source, where=f"mask:{write(tmp_path / 'void.png', corner)}")
    for changes in ({}, {"target": "map:a=b", "where": None}):
        with pytest.raises(UserError, match="none of 4 images has such a pixel with a label"):
            run(tmp_path / "run", source, **changes)


def test_pictures_are_of_judged_images():
    counts = {"classes": [0], "tp": [5], "fp": [0], "fn": [5]}
    search = Condition("attack", "SignBisection", norm="Linf")
    judged = [Row(i, search, counts, {"distance": 0.1 * i, "found": True, "at_target": 3, "target_pixels": 3})
              for i in range(1, 4)]  # fmt: skip
    others = [Row(i, search, counts, {"distance": 0.0, "found": False, "at_target": 0, "target_pixels": 0})
              for i in (0, 4)]  # fmt: skip
    assert choose([*judged, *others], by_distance=True) == {"worst": 1, "median": 2, "best": 3}


def test_the_checks_look_at_judged_images(tmp_path):
    """Of seven batches of one image two are not judged, and of the images that are looked at none but the others."""
    source = Rare(40)
    for i in range(40):
        if i not in (7, 8, 20):
            sample = source[i]
            label = sample.label.where(~chosen(sample.label), torch.tensor(1))
            source.samples[i] = Sample(sample.image, label, sample.name)
    run(tmp_path, source, attacks=["CEPGD"], eps=["2/255", "8/255"], steps=10, batch_size=2, checks=True, rest="kept",
        pictures=False)  # fmt: skip
    found = verdicts(tmp_path)
    assert [name for name, one in found.items() if one["verdict"] == "fail"] == []
    few = found["enough images"]
    assert few["verdict"] == "warn" and "over 3 different images" in few["evidence"]
    assert "labelled pixels that have a target" in few["evidence"]
    assert found["best image returned"]["numbers"]["images"] == 3
