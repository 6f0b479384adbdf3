"""A run behind a mask: attacks change nothing outside it, and every pixel is measured."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from segrobust.commands.evaluation import evaluate
from segrobust.core.errors import UserError
from tests.checks.models import segmenter
from tests.checks.test_known_bad import LinearSource
from tests.runs.toy_run import ToySource

RUN = {"attacks": ["CEPGD", "FMN"], "eps": ["8/255"], "steps": 10, "batch_size": 3, "pictures": False}


def left_half(source):
    mask = np.zeros(source[0].label.shape, np.uint8)
    mask[:, : mask.shape[1] // 2] = 1
    return mask


def test_attacks_stay_inside_and_the_run_is_another(tmp_path):
    source = LinearSource()
    mask = left_half(source)
    Image.fromarray(mask * 200).save(tmp_path / "mask.png")
    model = segmenter("linear")
    masked = {**RUN, "work_dir": tmp_path / "run", "save_adversarial": True}
    summary = evaluate(model, source, mask=tmp_path / "mask.png", **masked)
    for file in (tmp_path / "run" / "adversarial" / "CEPGD_8-255").iterdir():
        changed = torch.from_numpy(np.load(file)) != source[int(file.stem)].image
        inside = torch.from_numpy(mask).bool()
        assert changed[:, inside].any() and not changed[:, ~inside].any()
    whole = evaluate(model, source, work_dir=tmp_path / "whole", **RUN)
    by_name = [{one["name"]: one["aAcc"] for one in records} for records in (summary, whole)]
    assert by_name[1]["CEPGD"] < by_name[0]["CEPGD"] < by_name[0]["clean"]
    with pytest.raises(UserError, match=r"mask_sha256 is .* there and absent here"):
        evaluate(model, source, **masked)
    assert evaluate(model, source, mask=torch.from_numpy(mask), **masked) == summary


def test_checks_of_an_honest_model_behind_a_mask_fail_nothing(tmp_path):
    evaluate(segmenter("linear"), LinearSource(), work_dir=tmp_path, mask=left_half(LinearSource()), **RUN)
    checks = json.loads((tmp_path / "checks.json").read_text())["checks"]
    assert [check["name"] for check in checks if check["verdict"] == "fail"] == []


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        (np.zeros((12, 12)), "may write nowhere"),
        (np.ones((6, 12)), "is 6x12 .* but image scene 0 is 12x12"),
        (np.ones((3, 12, 12)), "expected one channel"),
    ],
)
def test_what_is_no_mask_is_told_before_the_run(mask, told, tmp_path):
    with pytest.raises(UserError, match=told):
        evaluate(segmenter("linear"), LinearSource(), work_dir=tmp_path / "run", mask=mask, **RUN)
    assert not (tmp_path / "run").exists()


def test_images_of_several_sizes_are_refused(tmp_path):
    source = ToySource()
    with pytest.raises(UserError, match="one mask serves images of one size"):
        evaluate(segmenter("small"), source, work_dir=tmp_path, mask=left_half(source), **RUN)
