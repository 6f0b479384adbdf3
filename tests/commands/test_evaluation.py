"""The evaluator: rows that do not depend on how the work was cut, resumed or shared out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segrobust.attacks import build_attack
from segrobust.commands.evaluation import evaluate
from segrobust.commands.pictures import choose
from segrobust.core.errors import UserError
from segrobust.core.rows import Condition, Row
from segrobust.core.seeds import image_seeds
from segrobust.models.segmenter import Segmenter
from segrobust.runs.executor import Executor
from segrobust.runs.folder import RunFolder
from segrobust.studies.attack import plan_attacks
from tests.attacks.toys import SmallNet
from tests.runs.toy_run import RUN, K, ToySource, flat_rows, toy_model, without_costs


def run(folder, **changes):
    return evaluate(toy_model(), ToySource(), work_dir=folder, **{**RUN, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, run(folder)


def test_every_image_once_under_every_attack_and_radius(finished):
    rows = RunFolder(finished[0]).rows()
    keys = [row.key for row in rows]
    assert len(keys) == len(set(keys)) == 7 * (1 + 2 * 2)
    assert {"run.json", "summary.json", "report.html", "images", "rows"} <= {p.name for p in finished[0].iterdir()}


def test_rows_are_what_a_fresh_forward_counts(finished):
    model, source = toy_model(), ToySource()
    rows = {(row["name"], row["eps"], row["image"]): row for row in flat_rows(finished[0])}
    attack = build_attack("TsallisPGD", eps="8/255", steps=5)
    for ids in ([0], [1, 2]):  # the groups of equal size in the first batch
        images = torch.stack([source[i].image for i in ids])
        labels = torch.stack([source[i].label for i in ids])
        result = attack(model, images, labels, seeds=image_seeds(0, ids))
        for n, i in enumerate(ids):
            row = rows["TsallisPGD", attack.eps, i]
            with torch.no_grad():
                wrong = (model(result.images).argmax(1)[n] != labels[n]) & (labels[n] != 255)
            assert sum(row["fn"]) == wrong.sum() and sum(row["tp"]) + sum(row["fn"]) == (labels[n] != 255).sum()
            assert row["distance"] == pytest.approx(8 / 255, abs=1e-6)
            assert (row["forwards"], row["backwards"]) == attack.passes()


def test_the_attack_hurts_more_than_noise_and_more_at_a_larger_radius(finished):
    scores = {(r["name"], r["eps"]): r["aAcc"] for r in finished[1]}
    small, large = 2 / 255, 8 / 255
    assert scores["TsallisPGD", large] < scores["TsallisPGD", small] < scores["clean", None]
    assert scores["TsallisPGD", large] < scores["UniformNoise", large] - 3
    assert scores["worst_case", large] <= scores["TsallisPGD", large]


def test_a_run_cut_short_goes_on_without_computing_anything_twice(finished, tmp_path, monkeypatch):
    computed = []
    original = Executor.rows

    def counting(self, study, batch):
        computed.append((study.title, tuple(batch)))
        if len(computed) == 6:
            raise KeyboardInterrupt
        return original(self, study, batch)

    monkeypatch.setattr(Executor, "rows", counting)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    run(tmp_path)
    assert len(computed) == 16 and len(set(computed)) == 15  # only the batch in flight twice
    assert RunFolder(tmp_path).rows() == RunFolder(finished[0]).rows()

    before = (tmp_path / "summary.json").read_bytes()
    run(tmp_path)
    assert len(computed) == 16 and (tmp_path / "summary.json").read_bytes() == before


def test_a_finished_run_grows_by_what_is_missing_alone(tmp_path, monkeypatch):
    """Attacks and radii first, in two starts, then images: the joint worst case is that of one start with all."""
    computed, original = [], Executor.rows

    def counting(self, study, batch):
        computed.append((study.title, tuple(batch)))
        return original(self, study, batch)

    run(tmp_path / "grown", attacks=["UniformNoise"], eps=["2/255"])
    monkeypatch.setattr(Executor, "rows", counting)
    grown = run(tmp_path / "grown")
    batches = [(0, 1, 2), (3, 4, 5), (6,)]
    titles = ["TsallisPGD 2/255", "TsallisPGD 8/255", "UniformNoise 8/255"]
    assert computed == [(title, batch) for title in titles for batch in batches]
    assert without_costs(grown) == without_costs(run(tmp_path / "at once"))
    assert RunFolder(tmp_path / "grown").rows() == RunFolder(tmp_path / "at once").rows()
    before = RunFolder(tmp_path / "grown").rows()
    computed.clear()
    evaluate(toy_model(), ToySource(9), work_dir=tmp_path / "grown", **RUN)
    assert len(computed) == 5 and {batch for _, batch in computed} == {(7, 8)}
    assert [row for row in RunFolder(tmp_path / "grown").rows() if row.image < 7] == before
    with pytest.raises(UserError, match="its image 'scene <7>' is not among these data"):
        run(tmp_path / "grown")


def test_another_identity_is_refused_and_named(finished):
    with pytest.raises(UserError, match="seed is 0 there and 6 here"):
        run(finished[0], seed=6)
    with pytest.raises(UserError, match="its image 'scene <0>' is another one in these data"):
        evaluate(toy_model(), ToySource(salt=1), work_dir=finished[0], **RUN)
    with pytest.raises(UserError, match="weights_sha256"):
        model = toy_model()
        with torch.no_grad():
            next(model.parameters()).add_(1e-3)
        evaluate(model, ToySource(), work_dir=finished[0], **RUN)


def test_what_a_checkpoint_does_not_hold_is_part_of_the_identity(finished, monkeypatch):
    def refused(field, model):
        with pytest.raises(UserError, match=field):
            evaluate(model, ToySource(), work_dir=finished[0], **RUN)

    refused("weights_sha256", Segmenter.wrap(SmallNet(K), num_classes=K, name="toy", mean=(0.5, 0.5, 0.5)).eval())
    described = toy_model()
    described.config_sha256 = "0" * 64
    refused("config_sha256 is absent there", described)
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    refused("threads is 1 there and 3 here", toy_model())
    monkeypatch.undo()
    monkeypatch.setattr("segrobust.runs.identity.__version__", "0.0.1")
    refused('segrobust is .* there and "0.0.1" here', toy_model())


def test_model_and_data_must_agree_on_the_classes(tmp_path):
    source = ToySource()
    source.num_classes = K + 1
    with pytest.raises(UserError, match="the model has 4 classes, the data set 5"):
        evaluate(toy_model(), source, work_dir=tmp_path, **RUN)
    source.num_classes = 1
    with pytest.raises(UserError, match=r"the data set 1; .* name both classes"):
        evaluate(toy_model(), source, work_dir=tmp_path, **RUN)


def test_lost_rows_are_an_error(tmp_path, monkeypatch):
    """As on processes that do not write to the same folder."""
    run(tmp_path, attacks=["UniformNoise"])
    rows = tmp_path / "rows" / "rank-0.jsonl"
    rows.write_bytes(b"".join(rows.read_bytes().splitlines(keepends=True)[:-2]))
    monkeypatch.setattr(Executor, "run", lambda *_: None)
    told = "2 of 21 rows are missing, the first that of image 5 under UniformNoise 8/255; do all"
    with pytest.raises(UserError, match=told):
        run(tmp_path, attacks=["UniformNoise"])


def test_adversarial_images_are_kept_on_request(tmp_path):
    run(tmp_path, attacks=["TsallisPGD"], eps=["4/255"], save_adversarial=True)
    files = sorted((tmp_path / "adversarial" / "TsallisPGD_4-255").glob("*.npy"))
    assert [file.stem for file in files] == [f"{i:06d}" for i in range(7)]
    delta = np.load(files[1]) - ToySource()[1].image.numpy()
    assert delta.dtype == np.float32 and np.abs(delta).max() == pytest.approx(4 / 255, abs=1e-6)


def test_a_finished_run_hands_in_the_images_that_are_asked_for_later(tmp_path):
    settings = {"attacks": ["TsallisPGD"], "eps": ["4/255"]}
    run(tmp_path, **settings)
    rows = (tmp_path / "rows" / "rank-0.jsonl").read_bytes()
    run(tmp_path, save_adversarial=True, **settings)
    assert len(list((tmp_path / "adversarial").rglob("*.npy"))) == 7
    assert (tmp_path / "rows" / "rank-0.jsonl").read_bytes() == rows


def test_the_package_exports_it():
    import segrobust

    assert segrobust.evaluate is evaluate and all(getattr(segrobust, name) for name in segrobust.__all__)


@pytest.mark.parametrize(("amp", "name"), [(True, "bf16"), ("bf16", "bf16"), ("fp16", "fp16")])
def test_half_precision_gradients_with_float32_verification(tmp_path, amp, name):
    settings = {"attacks": ["TsallisPGD", "FMN"], "eps": ["8/255"], "save_adversarial": True}
    summary = run(tmp_path, amp=amp, **settings)
    exact = run(tmp_path / "exact", **settings)
    assert RunFolder(tmp_path).read_json("run.json")["identity"]["precision"] == name
    assert summary[0]["aAcc"] == exact[0]["aAcc"]
    rows = [RunFolder(folder).rows() for folder in (tmp_path, tmp_path / "exact")]
    assert rows[0] != rows[1]
    assert abs(summary[1]["aAcc"] - exact[1]["aAcc"]) < 10
    model, source = toy_model(), ToySource()
    for row in flat_rows(tmp_path):
        if row["name"] != "clean":  # what is reported is what a float32 forward says of the image that is kept
            title = "FMN" if row["eps"] is None else f"{row['name']}_8-255"
            point = torch.from_numpy(np.load(tmp_path / "adversarial" / title / f"{row['image']:06d}.npy"))
            label = source[row["image"]].label
            with torch.no_grad():
                wrong = (model(point[None]).argmax(1)[0] != label) & (label != 255)
            assert sum(row["fn"]) == wrong.sum()


def test_unknown_half_precision_is_refused(tmp_path):
    with pytest.raises(UserError, match="amp: unknown value 'fp8'; did you mean fp16"):
        run(tmp_path, amp="fp8")
    run(tmp_path, amp="bf16", attacks=["UniformNoise"])
    with pytest.raises(UserError, match='precision is "bf16" there and "fp16" here'):
        run(tmp_path, precision="fp16", attacks=["UniformNoise"])


def test_attacks_become_studies():
    studies = plan_attacks(
        ["tsallis-pgd", "cospgd", "cospgd:published", {"type": "CosPGD", "optimiser": "pgd"}, "FGSM", "BalancedPGD"],
        ["1/255", 0.02],
        steps=7,
        defaults={"BalancedPGD": {"class_counts": [1, 2]}},
    )
    names = [study.name for study in studies]
    assert names[::2] == ["TsallisPGD", "CosPGD", "CosPGD:published", "CosPGD#2", "FGSM", "BalancedPGD"]
    assert [study.attack.steps for study in studies if hasattr(study.attack, "steps")] == [7] * 10
    assert studies[-1].attack.class_counts == (1.0, 2.0) and studies[-1].attack.eps == 0.02
    defaults = {"BalancedPGD": {"class_counts": [1, 2]}}
    own = plan_attacks([{"type": "BalancedPGD", "class_counts": [3, 4]}], [0.1], defaults=defaults)
    assert own[0].attack.class_counts == (3.0, 4.0)
    assert plan_attacks([{"type": "CosPGD", "preset": "published"}], [0.1])[0].name == "CosPGD:published"


def test_an_attack_keeps_the_name_it_has_in_the_run():
    published, own = plan_attacks(["cospgd:published", "cospgd"], [0.1])
    known = [*own.conditions, *published.conditions]
    again = plan_attacks(
        [{"type": "CosPGD", "optimiser": "pgd"}, "cospgd", "cospgd:published"], [0.1, 0.2], known=known
    )
    assert [study.name for study in again[::2]] == ["CosPGD#2", "CosPGD", "CosPGD:published"]
    assert again[2].conditions == own.conditions


def test_the_norm_of_the_run_is_that_of_attacks_which_name_none():
    specs = ["cepgd", "CEPGD:published", "cepgd(norm=Linf)", {"type": "CEPGD", "norm": "L1"}, {"type": "FMN"},
             build_attack("CosPGD"), type(build_attack("FGSM"))]  # fmt: skip
    norms = [study.attack.norm for study in plan_attacks(specs, [0.5], norm="L2")]
    assert norms == ["L2", "L2", "Linf", "L1", "L2", "Linf", "L2"]
    assert [study.attack.norm for study in plan_attacks([*specs[:2], "ddn"], [0.5])] == ["Linf", "Linf", "L2"]
    assert plan_attacks([{"type": "CEPGD"}], [2.0], norm="L2")[0].attack.eps == 2.0  # more than Linf has
    with pytest.raises(UserError, match="Square has no L2 form; set norm to Linf"):
        plan_attacks(["cepgd", "square"], [0.5], norm="L2")


def test_pictures_can_be_left_out_and_asked_for_later(tmp_path):
    settings = {"attacks": ["TsallisPGD"], "eps": ["4/255"]}
    run(tmp_path, pictures=False, **settings)
    assert not (tmp_path / "images").exists() and "<img" not in (tmp_path / "report.html").read_text()
    run(tmp_path, **settings)
    assert (tmp_path / "images" / "grid.json").exists() and "<img" in (tmp_path / "report.html").read_text()


def test_choice_of_pictures():
    condition = Condition("attack", "CEPGD")
    rows = [Row(i, condition, {"tp": [c], "fn": [10 - c]}) for i, c in enumerate([5, 9, 1, 7, 3])]
    assert choose(rows) == {"worst": 2, "median": 0, "best": 1}
    assert choose([*rows, Row(5, condition, {"tp": [], "fn": []})]) == {"worst": 2, "median": 0, "best": 1}
    assert choose(rows[:1]) == {"worst": 0} and choose([]) == {}
