"""Measuring at the labels' own size: the clean scores of mmseg's own test loop, and rows of that size throughout."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from segrobust.commands.data import source_from_config
from segrobust.commands.evaluation import evaluate
from segrobust.core.errors import UserError
from segrobust.datasets.survey import survey
from segrobust.models.mm import import_mmseg
from tests.models.tiny import CLASSES, mmseg_config, tiny_mmseg
from tests.runs.toy_run import ToySource, flat_rows, toy_model

import_mmseg()

from mmengine.runner import Runner  # noqa: E402
from mmseg.evaluation import IoUMetric  # noqa: E402

IMAGE, LABEL, PACK = dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")
RESIZE = dict(type="Resize", scale=(24, 18))
MMSEG, PAIR = [IMAGE, RESIZE, LABEL, PACK], [dict(type="LoadPair", scale=(24, 18)), PACK]
NAMES = tuple("abcde")
RUN = {"attacks": ["CEPGD"], "eps": ["4/255"], "steps": 2, "batch_size": 3, "pictures": False}
SIZES = [(36, 48), (30, 40), (36, 48), (37, 51), (36, 48)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Five images of three sizes, all of one size after the pipeline; labels have edges on odd pixels, and void."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for kind in ("images", "labels"):
        (root / kind / "test").mkdir(parents=True)
    for number, size in enumerate(SIZES):
        label = np.kron(rng.integers(0, CLASSES, (13, 18)), np.ones((3, 3)))[: size[0], : size[1]].astype(np.uint8)
        image = np.kron(rng.integers(0, 256, (13, 18, 3)), np.ones((3, 3, 1)))[: size[0], : size[1]].astype(np.uint8)
        label[0, :9] = 255
        Image.fromarray(image).save(root / f"images/test/{number}.png")
        Image.fromarray(label).save(root / f"labels/test/{number}.png")
    return root


def dataset(root, pipeline, **more):
    return dict(type="ImageLabelFolder", data_root=str(root), split="test", metainfo=dict(classes=NAMES),
                test_mode=True, pipeline=pipeline) | more  # fmt: skip


def source(root, pipeline, **more):
    return source_from_config(dict(test_dataloader=dict(dataset=dataset(root, pipeline, **more))))


def mmsegs_scores(model, root):
    """aAcc, mIoU and mAcc of mmseg's own loaders, model and metric."""
    build = dict(batch_size=1, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False))
    loader = Runner.build_dataloader(build | dict(dataset=dataset(root, MMSEG)))
    metric = IoUMetric(iou_metrics=["mIoU"])
    metric.dataset_meta = loader.dataset.metainfo
    for batch in loader:
        with torch.no_grad():
            answers = model.module.test_step(batch)
        metric.process(batch, [answer.to_dict() for answer in answers])
    return metric.evaluate(len(loader.dataset))


@pytest.mark.parametrize("align", [False, True], ids=["", "align_corners"])
@pytest.mark.parametrize("pipeline", [MMSEG, PAIR], ids=["mmseg", "LoadPair"])
def test_clean_scores_are_those_of_mmsegs_test_loop(root, tmp_path, align, pipeline):
    model = tiny_mmseg(mmseg_config(head=dict(align_corners=align))).eval()
    summary = evaluate(model, source(root, pipeline), **RUN, work_dir=tmp_path, metric_size="original", checks=False)
    expected = mmsegs_scores(model, root)
    if pipeline is PAIR:  # shrinks images by area, not bilinearly: other predictions, but over the same labels
        rows = [row for row in flat_rows(tmp_path) if row["name"] == "clean"]
        labels = [np.asarray(Image.open(root / f"labels/test/{n}.png")) for n in range(5)]
        assert [sum(row["tp"]) + sum(row["fn"]) for row in rows] == [int((label != 255).sum()) for label in labels]
        return
    for name in ("aAcc", "mIoU", "mAcc"):
        assert summary[0][name] == pytest.approx(float(expected[name]), abs=0.0051)  # mmseg rounds to two decimals
    at_input = evaluate(model, source(root, pipeline), **RUN, work_dir=tmp_path / "input", checks=False)
    assert abs(at_input[0]["mIoU"] - summary[0]["mIoU"]) > 0.02, "a case in which the two do not differ shows nothing"


def test_rows_identity_and_checks_are_of_that_size(root, tmp_path):
    model, data = tiny_mmseg().eval(), source(root, MMSEG)
    evaluate(model, data, **RUN, work_dir=tmp_path, metric_size="original", target="class:b")
    attacked = next(row for row in flat_rows(tmp_path) if row["name"] == "CEPGD" and row["image"] == 1)
    label = np.asarray(Image.open(root / "labels/test/1.png"))
    assert attacked["target_pixels"] == (label != 255).sum() > attacked["at_target"]
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["identity"]["metric_size"] == "original"
    assert run["about"]["sizes"] == (
        "attacked at 18x24 (height x width), the size after the test pipeline; "
        "measured at 36x48 and other sizes, as stored"
    )
    verdicts = {
        check["name"]: check["verdict"] for check in json.loads((tmp_path / "checks.json").read_text())["checks"]
    }
    assert verdicts["every image once"] == "pass"
    assert verdicts["one process finds the same integers"] == "info"
    with pytest.raises(UserError, match="metric_size"):
        evaluate(model, data, **RUN, work_dir=tmp_path, target="class:b", checks=False)


def test_attacks_do_not_depend_on_the_metric(root, tmp_path):
    """The attacked images are the same, only what is counted differs."""
    for size in ("input", "original"):
        evaluate(tiny_mmseg().eval(), source(root, MMSEG), **RUN, work_dir=tmp_path / size, metric_size=size,
                 save_adversarial=True, checks=False)  # fmt: skip
    files = sorted((tmp_path / "input/adversarial").rglob("*.npy"))
    assert len(files) == 5
    for file in files:
        other = tmp_path / "original" / file.relative_to(tmp_path / "input")
        assert np.array_equal(np.load(file), np.load(other))


@pytest.mark.parametrize("pipeline, message", [
    ([IMAGE, LABEL, dict(type="Pad", size=(64, 64)), PACK], "it has Pad"),
    ([IMAGE, LABEL, dict(type="CenterCrop", crop_size=(8, 8)), PACK], "it has CenterCrop"),
    ([IMAGE, LABEL, RESIZE, dict(type="CLAHE"), PACK], "it has CLAHE"),
])  # fmt: skip
def test_what_does_not_show_the_whole_image_is_refused(root, pipeline, message):
    with pytest.raises(UserError, match=message):
        survey(source(root, pipeline), "original")


def test_other_words_and_other_data():
    with pytest.raises(UserError, match="metric_size: expected one of input, original, got 'file'"):
        survey(ToySource(), "file")
    with pytest.raises(UserError, match="this data set does not tell labels as their files have them"):
        evaluate(toy_model(), ToySource(), work_dir="nowhere", metric_size="original")
