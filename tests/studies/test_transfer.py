"""Transfer: attacked on one model, measured on another, and never mistaken for an attack that saw the model."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch import nn

from segrobust.attacks import build_attack
from segrobust.cli import main
from segrobust.commands.evaluation import evaluate
from segrobust.core.errors import UserError
from segrobust.core.seeds import image_seeds
from segrobust.models.segmenter import Segmenter
from segrobust.models.shipped import zoo
from segrobust.runs.executor import Executor
from segrobust.runs.folder import RunFolder
from tests.attacks.toys import SmallNet
from tests.runs.toy_run import RUN, K, ToySource, toy_model

PLAIN = {"attacks": ["CosPGD"], "eps": ["8/255"], "steps": 5, "batch_size": 7, "checks": False}


def other_model(num_classes: int = K) -> Segmenter:
    return Segmenter.wrap(SmallNet(num_classes, seed=5), num_classes=num_classes, name="other").eval()


def accuracy(records, attack):
    return next(record["aAcc"] for record in records if record["name"] == attack)


def test_rows_are_the_surrogates_images_measured_on_the_model(tmp_path):
    records = evaluate(toy_model(), ToySource(), surrogate=other_model(), work_dir=tmp_path, **PLAIN)
    source = ToySource()
    right = labelled = 0
    for size in (12, 16):
        ids = [i for i in range(7) if source[i].label.shape[0] == size]
        images, labels = (torch.stack([getattr(source[i], name) for i in ids]) for name in ("image", "label"))
        attack = build_attack("CosPGD", eps="8/255", steps=5)
        points = attack(other_model(), images, labels, seeds=image_seeds(0, ids)).images
        with torch.no_grad():
            right += int((toy_model()(points).argmax(1) == labels).sum())
        labelled += int((labels != 255).sum())
    assert accuracy(records, "CosPGD@other") == pytest.approx(100 * right / labelled, abs=1e-3)
    assert {record["name"] for record in records} == {"clean", "CosPGD@other", "worst_case"}
    assert accuracy(records, "worst_case") <= accuracy(records, "CosPGD@other")


def test_a_model_transfers_to_itself_as_if_attacked(tmp_path):
    direct = evaluate(toy_model(), ToySource(), work_dir=tmp_path / "direct", **RUN)
    itself = evaluate(toy_model(), ToySource(), surrogate=toy_model(), work_dir=tmp_path / "self", **RUN)
    assert accuracy(direct, "TsallisPGD") == accuracy(itself, "TsallisPGD@toy")
    assert accuracy(direct, "TsallisPGD") < accuracy(direct, "UniformNoise")


def test_the_surrogate_is_part_of_the_condition_and_one_run_holds_both(tmp_path):
    evaluate(toy_model(), ToySource(), surrogate=other_model(), work_dir=tmp_path, **PLAIN)
    evaluate(toy_model(), ToySource(), work_dir=tmp_path, **PLAIN)
    _, itself, other = RunFolder(tmp_path).conditions()
    assert (itself.name, other.name, itself.surrogate, other.surrogate) == ("CosPGD", "CosPGD@other", None, "other")
    stored = other.fields["surrogate"]
    assert stored["model"] == "other" and len(stored["weights_sha256"]) == 64
    changed = other_model()
    with torch.no_grad():
        next(changed.parameters()).add_(1e-3)
    records = evaluate(toy_model(), ToySource(), surrogate=changed, work_dir=tmp_path, **PLAIN)
    assert [one["name"] for one in records] == ["clean", "CosPGD", "CosPGD@other", "CosPGD@other#2", "worst_case"]


def test_what_cannot_transfer_is_refused(tmp_path, capsys):
    with pytest.raises(UserError, match="transfer takes bounded attacks"):
        evaluate(toy_model(), ToySource(), surrogate=other_model(), work_dir=tmp_path, **PLAIN | {"attacks": ["FMN"]})
    with pytest.raises(UserError, match="4 classes"):
        evaluate(toy_model(), ToySource(), surrogate=other_model(3), work_dir=tmp_path, **PLAIN)
    other = Segmenter.wrap(SmallNet(K), num_classes=K, class_names=ToySource.class_names[::-1]).eval()
    with pytest.raises(UserError, match="class names of the data set are those of the surrogate reversed"):
        evaluate(toy_model(), ToySource(), surrogate=other, work_dir=tmp_path, **PLAIN)
    assert main(["evaluate", next(iter(zoo())), "--surrogate-checkpoint", __file__]) == 2
    assert "--surrogate config" in capsys.readouterr().err


def test_both_models_take_the_form_that_is_asked_for(camvid, tmp_path, monkeypatch):
    std, robust = (next(name for name in zoo() if kind in name) for kind in ("-std-", "-pgdat-"))
    seen = []
    monkeypatch.setattr(Executor, "run", lambda run, *_: seen.append(run) or sys.exit())
    options = ["--surrogate", robust, "--checkpointing", "--num-images", "1", "--work-dir", str(tmp_path)]
    with pytest.raises(SystemExit):
        main(["evaluate", std, *options])
    surrogate = seen[0].studies[1].surrogate
    for model in (seen[0].bench.model, surrogate):
        kernel = next(part.weight for part in model.modules() if isinstance(part, nn.Conv2d))
        assert model.checkpointing and kernel.is_contiguous(memory_format=torch.channels_last)
    assert surrogate.name == robust


def test_shipped_models(camvid, tmp_path):
    std, robust = (next(name for name in zoo() if kind in name) for kind in ("-std-", "-pgdat-"))
    run = ["--attack", "cospgd", "uniform-noise", "--eps", "4/255", "--steps", "10", "--num-images", "2"]
    found = {}
    for name, more in (("direct", []), ("transfer", ["--surrogate", robust])):
        assert main(["evaluate", std, *run, *more, "--no-checks", "--work-dir", str(tmp_path / name)]) == 0
        found[name] = json.loads((tmp_path / name / "summary.json").read_text())
    transferred = accuracy(found["transfer"], f"CosPGD@{robust}")
    assert accuracy(found["direct"], "CosPGD") < transferred < accuracy(found["direct"], "clean")
