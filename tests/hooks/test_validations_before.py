"""What a resumed training knows of the validations before it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from mmengine.hooks import LoggerHook

from segrobust.hooks.validations_before import validations_before

DEEP = "[" * 100_000


def found(folder, *starts, done=8, by_epoch=False):
    for number, lines in enumerate(starts):
        path = folder / str(number) / "vis_data" / "scalars.json"
        path.parent.mkdir(parents=True)
        path.write_text("\n".join(json.dumps(line) if isinstance(line, dict) else line for line in lines))
    logger = LoggerHook(log_metric_by_epoch=by_epoch)
    runner = SimpleNamespace(
        iter=50 if by_epoch else done, epoch=done if by_epoch else 0, work_dir=folder, hooks=[logger]
    )
    return [line["mIoU"] for line in validations_before(runner, ("robust/mIoU", "mIoU"))]


def scores(**at):
    return [{"step": int(step[1:]), "mIoU": score} for step, score in at.items()]


def trained(step, **more):
    return {"step": step, "lr": 0.1, "loss": 1.0, **more}


FIRST = [trained(1), *scores(_1=40, _3=50, _5=60), trained(6), *scores(_9=70)]


def test_a_later_start_replaces_what_came_after_it_and_a_line_may_be_cut_off(tmp_path):
    assert found(tmp_path, FIRST, [trained(3), *scores(_3=20, _8=10), DEEP, '{"st']) == [40, 20, 10]


def test_what_was_lost_does_not_come_back_where_the_next_validation_is_later(tmp_path):
    assert found(tmp_path, FIRST, [trained(4), *scores(_7=10)]) == [40, 50, 10]


def test_what_comes_after_the_checkpoint_does_not_count(tmp_path):
    assert found(tmp_path, FIRST, done=4) == [40, 50]


def test_a_start_that_only_validated_replaces_nothing(tmp_path):
    assert found(tmp_path, FIRST, scores(_0=10)) == [40, 50, 60]


@pytest.mark.parametrize("damaged", [DEEP, "[]", '{"step": "3", "mIoU": 1}', "nothing"])
def test_damaged_lines_are_left_out(tmp_path, damaged):
    assert found(tmp_path, [damaged, *FIRST]) == [40, 50, 60]


def test_validations_that_are_logged_by_epoch_are_those_of_epochs(tmp_path):
    """Iterations are counted otherwise: 10 in an epoch."""
    one = [trained(10, epoch=1), *scores(_1=40), trained(20, epoch=2), *scores(_2=50), trained(30, epoch=3)]
    two = [trained(20, epoch=2), *scores(_2=30, _3=20)]
    assert found(tmp_path, one, two, done=2, by_epoch=True) == [40, 30]


def test_a_training_that_begins_has_none(tmp_path):
    assert found(tmp_path, FIRST, done=0) == []
