"""The corruption study: rows are those of the corrupted images, image by image, and grow with severities and types."""

from __future__ import annotations

import pytest
import torch

from segrobust.analysis.summary import summarise
from segrobust.commands.data import source_from_config
from segrobust.core.errors import UserError
from segrobust.datasets.corruptions import CORRUPTIONS, corrupt
from segrobust.datasets.source import Sample
from segrobust.models.load import load_segmenter
from segrobust.models.shipped import zoo
from segrobust.runs.executor import Executor
from segrobust.runs.folder import RunFolder
from segrobust.runs.images import entries_of
from segrobust.studies.bench import Bench
from segrobust.studies.clean import Clean
from segrobust.studies.corruption import CorruptionStudy, plan_corruptions
from tests.runs.toy_run import K, ToySource, toy_model


def made(study, bench, ids):
    """The corrupted images of some places of the bench's source, by place."""
    images = {}
    for group in bench.groups({i: bench.source[i] for i in ids}):
        (perturbed,) = study.perturbed(bench, group)
        assert perturbed.condition == study.conditions[0] and len(perturbed.extra) == len(group.ids)
        images |= dict(zip(group.ids, perturbed.images, strict=True))
    return images


def run(bench, studies, path, batch_size=3):
    folder = RunFolder(path)
    folder.open({}, [one for study in studies for one in study.conditions], entries_of(bench.source))
    Executor(bench, studies, folder, batch_size).run()
    return folder.complete_rows()


def test_every_type_and_severity_is_a_condition_of_its_own():
    conditions = [one for study in plan_corruptions(["all"], [5, 1, 3, 2, 4]) for one in study.conditions]
    assert [(one.study, one.name, one.severity) for one in conditions] == [
        ("corruption", name, severity) for name in CORRUPTIONS for severity in (1, 2, 3, 4, 5)
    ]
    assert len({one.id for one in conditions}) == 75


def test_a_plan_takes_groups_and_no_condition_twice():
    plan = plan_corruptions(["noise", "shot-noise"], [3, 3])
    assert [(study.name, study.severity) for study in plan] == [
        ("gaussian_noise", 3), ("shot_noise", 3), ("impulse_noise", 3)
    ]  # fmt: skip
    for names, severities in ((["rain"], [1]), (["fog"], [0])):
        with pytest.raises(UserError):
            plan_corruptions(names, severities)


@pytest.mark.parametrize("name", ["shot_noise", "glass_blur", "frost", "elastic_transform"])
def test_an_images_corruption_depends_on_seed_and_place_not_on_its_batch(name):
    bench, study = Bench(toy_model(), ToySource()), CorruptionStudy(name, 3)
    together = made(study, bench, range(7))
    for i in range(7):
        assert torch.equal(made(study, bench, [i])[i], together[i])
        assert together[i].shape == bench.source[i].image.shape and together[i].dtype == torch.float32
    assert not torch.equal(made(study, Bench(toy_model(), ToySource(), seed=1), [1])[1], together[1])
    same = [Sample(bench.source[1].image, bench.source[1].label, name)] * 2
    first, second = next(study.perturbed(bench, bench.group([0, 1], same))).images
    assert not torch.equal(first, second)


@pytest.mark.parametrize("severity", [1, 5])
def test_images_are_corrupted_at_the_severity_of_the_condition(severity):
    bench = Bench(toy_model(), ToySource())
    image = bench.source[1].image
    expected = corrupt(image.permute(1, 2, 0).numpy(), "contrast", severity, seed=0)  # draws nothing
    found = made(CorruptionStudy("contrast", severity), bench, [1])[1]
    assert torch.equal(found, torch.from_numpy(expected).permute(2, 0, 1))


def test_severities_draw_numbers_of_their_own():
    bench = Bench(toy_model(), ToySource())
    low, high = (made(CorruptionStudy("gaussian_noise", n), bench, [1])[1] - bench.source[1].image for n in (1, 2))
    assert torch.corrcoef(torch.stack([low.flatten(), high.flatten()]))[0, 1].abs() < 0.2


def test_rows_count_what_the_model_makes_of_the_corrupted_images(tmp_path):
    bench, study = Bench(toy_model(), ToySource()), CorruptionStudy("impulse_noise", 5)
    rows = run(bench, [study], tmp_path / "threes")
    images = made(study, bench, range(7))
    for row in rows:
        image, label = images[row.image], bench.source[row.image].label
        with torch.no_grad():
            right = toy_model()(image[None]).argmax(1)[0] == label
        assert sum(row.counts["tp"]) == int(right.sum())
        assert sum(row.counts["tp"]) + sum(row.counts["fn"]) == int((label != 255).sum())
        assert row.extra == {"forwards": 1, "backwards": 0}
    assert [row.image for row in rows] == list(range(7))
    assert run(bench, [study], tmp_path / "ones", batch_size=1) == rows


def test_a_run_grows_by_severities_and_has_its_means(tmp_path):
    bench = Bench(toy_model(), ToySource())
    first = run(bench, [Clean(), *plan_corruptions(["fog", "contrast"], [1])], tmp_path)
    rows = run(bench, [Clean(), *plan_corruptions(["fog", "contrast"], [1, 5])], tmp_path)
    assert len(first) == 7 * 3 and len(rows) == 7 * 5
    assert [row for row in rows if row.condition in {one.condition for one in first}] == first
    records = {(one["study"], one["name"], one["severity"]): one for one in summarise(rows, K)}
    clean, fog, contrast, mean = (
        records[key]["aAcc"]
        for key in (("clean", "clean", None), *(("corruption", name, 5) for name in ("fog", "contrast", "mean")))
    )
    assert mean == pytest.approx((fog + contrast) / 2, abs=0.01)
    lost = records["corruption", "mean", 5]["degradation"]
    assert lost["points"]["aAcc"] == pytest.approx(clean - mean, abs=0.01)
    assert lost["relative"]["aAcc"] == pytest.approx(100 * (clean - mean) / clean, abs=0.05)


@pytest.mark.usefixtures("camvid")
def test_a_shipped_model_loses_more_at_every_severity(tmp_path):
    name = next(one for one in zoo() if "-std-" in one)
    bench = Bench(load_segmenter(name, device="cpu"), source_from_config(name, num_images=2))
    types = ["defocus_blur", "snow", "contrast"]
    rows = run(bench, [Clean(), *plan_corruptions(types, [1, 3, 5])], tmp_path)
    scores = {(one["name"], one["severity"]): one["aAcc"] for one in summarise(rows, bench.source.num_classes)}
    for kind in (*types, "mean"):
        assert scores["clean", None] > scores[kind, 1] > scores[kind, 3] > scores[kind, 5]
