"""The universal study: fitted on one source, measured on another, the same rows in any batches, and its control."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from segrobust.analysis.summary import summarise
from segrobust.attacks.patch import UniversalPatch
from segrobust.attacks.universal import UniversalPerturbation
from segrobust.commands.evaluation import evaluate
from segrobust.core.errors import UserError
from segrobust.core.rows import ORIGINAL, Condition
from segrobust.datasets.source import Sample
from segrobust.runs.executor import Executor
from segrobust.runs.folder import RunFolder
from segrobust.runs.images import entries_of
from segrobust.studies.bench import Bench
from segrobust.studies.clean import Clean
from segrobust.studies.universal import UniversalStudy, plan_universal
from tests.attacks.toys import SmallNet, batch
from tests.runs.toy_run import K, ToySource, toy_model


class Sized(ToySource):
    """Images of the given sizes."""

    def __init__(self, sizes, first=0):
        made = [batch(SmallNet(K), count=1, size=size, seed=first + i) for i, size in enumerate(sizes)]
        self.samples = [Sample(images[0], labels[0], f"{i}") for i, (images, labels) in enumerate(made)]


FITTED_ON, MEASURED = Sized([12] * 5, first=50), Sized([12] * 4)
PERTURBATION = UniversalPerturbation(eps="64/255", epochs=5)
PATCH = UniversalPatch(patch=(4, 5), place="random", epochs=2)


def run(bench, studies, path, batch_size=3):
    folder = RunFolder(path)
    folder.open({}, [one for study in studies for one in study.conditions], entries_of(bench.source))
    Executor(bench, studies, folder, batch_size).run()
    return folder.complete_rows()


def fitted(universal, source, seed=0, size=2):
    """What the study is to find, from batches made by hand."""
    batches = [
        (torch.stack([one.image for one in part]), torch.stack([one.label for one in part]))
        for start in range(0, len(source), size)
        for part in [source.samples[start : start + size]]
    ]
    return universal.fit(toy_model(), batches, seed=seed)


def right(image, label):
    with torch.no_grad():
        return (toy_model()(image[None]).argmax(1)[0] == label) & (label != 255)


def test_a_perturbation_is_fitted_on_one_source_and_measured_on_another(tmp_path):
    bench = Bench(toy_model(), MEASURED, seed=3)
    rows = run(bench, [UniversalStudy(PERTURBATION, FITTED_ON, 2)], tmp_path)
    change, noise = fitted(PERTURBATION, FITTED_ON, seed=3), PERTURBATION.control(MEASURED[0].image[None], seed=3)
    assert len(rows) == 8
    for row in rows:
        sample = MEASURED[row.image]
        image = (sample.image + (noise if row.condition.control else change)).clamp(0, 1)
        assert sum(row.counts["tp"]) == int(right(image, sample.label).sum())
        assert sum(row.counts["tp"]) + sum(row.counts["fn"]) == int((sample.label != 255).sum())
        assert row.extra.keys() == {"forwards", "backwards", "distance"}
        assert row.extra["distance"] == float((image - sample.image).abs().max()) <= 64 / 255 + 1e-6
    records = {one["name"]: one for one in summarise(rows, K)}
    assert records["perturbation (epochs=5)"]["aAcc"] < records["noise perturbation (epochs=5)"]["aAcc"] - 5


def test_pixels_under_a_patch_do_not_count_and_rings_hold_all_others(tmp_path):
    source = Sized([12, 40, 40, 12])
    bench, study = Bench(toy_model(), source), UniversalStudy(PATCH, FITTED_ON, 2)
    patch = fitted(PATCH, FITTED_ON)
    rows = [row for row in run(bench, [study], tmp_path) if not row.condition.control]
    for row in rows:
        sample = source[row.image]
        group = bench.group([row.image], [sample])
        attacked, covered = PATCH.apply(patch, sample.image[None], bench.seeds(group))
        hit, counted = right(attacked[0], sample.label) & ~covered[0], (sample.label != 255) & ~covered[0]
        assert sum(row.counts["tp"]) == int(hit.sum())
        assert sum(row.counts["tp"]) + sum(row.counts["fn"]) == int(counted.sum()) < int((sample.label != 255).sum())
        regions = torch.tensor(row.extra["regions"])
        assert regions.sum(0).tolist() == [int(hit.sum()), int(counted.sum())]
        assert len(regions) <= 2 if sample.image.shape[1] == 12 else len(regions) >= 3
        assert row.extra.keys() == {"forwards", "backwards", "regions"}


def test_rows_are_the_same_in_any_batches_and_after_a_kill(tmp_path):
    source = Sized([12, *[36] * 6])
    bench = Bench(toy_model(), source)
    rows = run(bench, [UniversalStudy(PATCH, FITTED_ON, 2)], tmp_path / "threes")
    assert len({len(row.extra["regions"]) for row in rows if row.image > 0}) > 1
    assert run(bench, [UniversalStudy(PATCH, FITTED_ON, 2)], tmp_path / "ones", batch_size=1) == rows
    (file,) = (tmp_path / "threes" / "rows").glob("rank-*.jsonl")
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:3]))
    assert run(bench, [UniversalStudy(PATCH, FITTED_ON, 2)], tmp_path / "threes") == rows


def test_the_fit_knows_nothing_of_the_size_at_which_is_measured():
    plain, study = UniversalStudy(PATCH, FITTED_ON), UniversalStudy(PATCH, FITTED_ON)
    bench = Bench(toy_model(), MEASURED)
    plain.fit(bench)
    study.fit(replace(bench, metric_size=ORIGINAL))  # of sources that know no other size
    assert torch.equal(*[next(one.perturbed(bench, bench.group([0], [MEASURED[0]]))).images for one in (plain, study)])


def test_it_is_fitted_once_and_only_where_rows_are_missing(tmp_path, monkeypatch):
    calls, fit = [], UniversalStudy.fit
    monkeypatch.setattr(UniversalStudy, "fit", lambda self, bench: calls.append(fit(self, bench)))
    bench = Bench(toy_model(), MEASURED)
    first = run(bench, [UniversalStudy(PERTURBATION, FITTED_ON)], tmp_path)
    assert len(calls) == 1
    assert run(bench, [UniversalStudy(PERTURBATION, FITTED_ON)], tmp_path) == first and len(calls) == 1
    grown = run(bench, [Clean(), UniversalStudy(PATCH, FITTED_ON)], tmp_path)
    assert len(calls) == 2 and [row for row in grown if row.condition.norm] == first


def test_conditions_tell_whatever_decides_the_rows():
    study = UniversalStudy(PERTURBATION, FITTED_ON)
    attack, noise = study.conditions
    name = "perturbation (epochs=5)"
    assert (attack.study, attack.name, attack.norm, attack.eps) == ("universal", name, "Linf", 64 / 255)
    assert (noise.name, noise.control, attack.control) == (f"noise {name}", True, False)
    others = [
        UniversalStudy(replace(PERTURBATION, epochs=6), FITTED_ON),
        UniversalStudy(replace(PERTURBATION, norm="L2"), FITTED_ON),
        UniversalStudy(replace(PERTURBATION, weight="ce"), FITTED_ON),
        UniversalStudy(PERTURBATION, FITTED_ON, 4),
        UniversalStudy(PERTURBATION, MEASURED),
        UniversalStudy(PATCH, FITTED_ON),
        UniversalStudy(replace(PATCH, place="centre"), FITTED_ON),
    ]
    conditions = [one for other in (study, *others) for one in other.conditions]
    assert len(set(conditions)) == 2 * 8
    patch = others[-2].conditions[0]
    assert patch.norm is patch.eps is None and patch.fields["rings"] == [8, 16, 32, 64, None]
    assert "rings" not in attack.fields
    for one in conditions:
        assert Condition.from_description(json.loads(json.dumps(one.description())), "conditions.json") == one


def test_what_it_cannot_do_is_refused():
    study = UniversalStudy(PERTURBATION, FITTED_ON)
    bench = Bench(toy_model(), MEASURED)
    with pytest.raises(UserError, match="knows of no target"):
        study.fit(replace(bench, target=object()))
    with pytest.raises(UserError, match="knows of no mask"):
        study.fit(replace(bench, mask=torch.ones(12, 12)))
    with pytest.raises(UserError, match="images of one size, 12x12, got one of 16x16"):
        next(study.perturbed(bench, bench.group([1], [ToySource()[1]])))
    other = Sized([12])
    other.class_names, bench.model.class_names = ToySource.class_names[::-1], ToySource.class_names
    with pytest.raises(UserError, match="reversed"):
        UniversalStudy(PERTURBATION, other).fit(bench)


def test_images_that_are_measured_are_not_fitted_on(tmp_path):
    call = {"universal": "patch(patch=[4, 4], epochs=1)", "work_dir": tmp_path, "checks": False, "pictures": False}
    with pytest.raises(UserError, match=r"1 of the 5 images to fit on are measured too, such as .* fit_on"):
        evaluate(toy_model(), MEASURED, fit_on=Sized([12] * 5, first=3), **call)
    assert not RunFolder(tmp_path).conditions()
    assert len(evaluate(toy_model(), MEASURED, fit_on=FITTED_ON, **call)) == 3


def test_a_plan_of_texts():
    texts = ["perturbation", "perturbation(norm=L2, eps=3)", "patch", "patch(place=random, patch=[4, 5], epochs=2)"]
    plan = plan_universal([*texts, "patch"], ["4/255", "8/255"], FITTED_ON, norm="Linf")
    assert [study.universal for study in plan] == [
        UniversalPerturbation(eps=4 / 255), UniversalPerturbation(eps=8 / 255),
        UniversalPerturbation(norm="L2", eps=3), UniversalPatch(), PATCH,
    ]  # fmt: skip
    assert [study.title for study in plan] == [
        "perturbation 4/255", "perturbation 8/255", "perturbation 3", "patch", "patch 4x5 at random (epochs=2)"
    ]  # fmt: skip
    assert plan_universal(["perturbation"], [2.0], FITTED_ON, norm="L2")[0].universal.norm == "L2"
    assert UniversalPatch(place=(3, 1)).title == "patch at 3,1"
    patches = ["patch(patch=[4, 5])", "patch(patch=[5, 4])", "patch(weight=ce)", "patch(weight=ce, epochs=3)"]
    named = [one.name for study in plan_universal(patches, [], FITTED_ON) for one in study.conditions]
    assert len(set(named)) == 8  # one line of a table each, and its own


def test_a_fit_on_other_images_has_another_name_in_the_same_run():
    first = plan_universal(["patch", "patch(epochs=2)"], [], FITTED_ON)
    assert [study.title for study in first] == ["patch", "patch (epochs=2)"]
    known = [one for study in first for one in study.conditions]
    texts = ["patch", "perturbation(epochs=1)", "perturbation"]
    later = plan_universal(texts, ["4/255"], Sized([12] * 2, first=9), known=known)
    assert [study.title for study in later] == ["patch#2", "perturbation (epochs=1) 4/255", "perturbation 4/255"]
    assert later[0].conditions[1].name == "noise patch#2"
    again = plan_universal(["patch(epochs=2)", "patch"], [], FITTED_ON, known=known)
    assert [study.conditions for study in again] == [study.conditions for study in first[::-1]]
