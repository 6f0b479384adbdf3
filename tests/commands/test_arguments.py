"""Slips of who calls ``evaluate`` from Python: one attack, one radius, and what is no model or data set."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from segrobust.attacks import build_attack
from segrobust.attacks.bounded import FGSM
from segrobust.commands.evaluation import evaluate
from segrobust.core.errors import UserError
from segrobust.datasets.source import Sample
from segrobust.models.segmenter import Segmenter
from segrobust.runs.settings import Settings
from tests.runs.toy_run import ToySource, lines, toy_model

QUIET = {"checks": False, "pictures": False}


def test_one_attack_and_one_radius_are_lists_of_one(tmp_path):
    source = ToySource(2)
    evaluate(toy_model(), source, ["FGSM"], ["1/255"], work_dir=tmp_path / "lists", **QUIET)
    expected = lines(tmp_path / "lists")
    assert len(expected) == 2 * 2
    ones = [("FGSM", "1/255"), ("fgsm", 1 / 255), (FGSM(), np.float64(1 / 255)), (dict(type="FGSM"), ("1/255",)),
            (FGSM, torch.tensor(1 / 255, dtype=torch.float64))]  # fmt: skip
    for n, (attack, eps) in enumerate(ones):
        evaluate(toy_model(), source, attack, eps, work_dir=tmp_path / str(n), **QUIET)
        assert lines(tmp_path / str(n)) == expected


def test_lists_stay_lists():
    attacks = ["FGSM", build_attack("CEPGD")]
    assert Settings(attacks=attacks).attacks == Settings(attacks=iter(attacks)).attacks == tuple(attacks)
    for given, kept in ((["1/255", 0.1], ("1/255", 0.1)), (np.array([0.1, 0.2]), (0.1, 0.2)), (0, (0,))):
        assert Settings(eps=given).eps == kept


def loader() -> DataLoader:
    return DataLoader(TensorDataset(torch.zeros(1, 3, 4, 4)))


SLIPS = {
    "a raw network": (dict(model=torch.nn.Conv2d(3, 4, 1)), "model: expected a Segmenter, got Conv2d; Segmenter.wrap"),
    "a config": (dict(model="configs/x.py"), r"got str; .*load_segmenter\(config, checkpoint\)"),
    "no weights": (dict(model=Segmenter.wrap(torch.nn.Identity(), num_classes=4)), "Identity has no parameters"),
    "a raw surrogate": (dict(surrogate=torch.nn.Conv2d(3, 4, 1)), "surrogate: expected a Segmenter, got Conv2d"),
    "no folder of data": (dict(dataset="data/camvid"), "no such folder of data: 'data/camvid'"),
    "a list as data": (dict(dataset=[1, 2]), r"got list, which lacks .*; source_from_config\(config\)"),
    "a loader": (dict(dataset=loader()), r"dataset: expected a loader of pairs \(images, labels\), got 1 things"),
    "nothing as data": (dict(dataset=None), "dataset: expected a Source, got NoneType, which lacks num_classes, "),
    "no folder": (dict(work_dir=3), 'work_dir: expected a folder such as "work_dirs/mine", got 3'),
    "an empty folder": (dict(work_dir=""), "work_dir: expected a folder such as"),
    "a file as folder": (dict(work_dir=__file__), "work_dir: expected a folder, got the file"),
    "no attacks": (dict(attacks=None), "attacks: expected a list such as"),
    "no radii": (dict(eps=None), "eps: expected a list such as"),
    "a radius in words": (dict(eps="small"), "eps: expected a number or a fraction such as .*got 'small'"),
    "a forgotten /255": (dict(eps=8), 'did you mean "8/255"'),
    "an unknown option": (dict(atacks=["FGSM"]), "unknown option 'atacks'; did you mean attacks"),
    "an unknown setting": (dict(batchsize=2), "unknown option 'batchsize'; did you mean batch_size"),
    "half a step": (dict(steps=2.5), "steps: expected a whole number >= 1, got 2.5"),
    "a truth value as seed": (dict(seed=True), "seed: expected a whole number >= 0, got True"),
    "an unknown norm": (dict(norm="L3"), "norm: unknown value 'L3'; did you mean L2 or L1"),
    "a norm that it lacks": (dict(attacks=["CEPGD", "Square"], norm="L2"), "Square has no L2 form; set norm to Linf"),
    "an unknown corruption": (dict(corruptions="fogg"), "corruptions: unknown corruption 'fogg'; did you mean fog"),
    "severity 6": (dict(severity=[1, 6]), "severity: .*expected 1, 2, 3, 4 or 5, got 6"),
    "no universal one": (dict(universal="pach"), "universal: unknown universal attack 'pach'; did you mean patch"),
    "severities of nothing": (dict(severity=3), "severity: expected corruptions beside it, such as all, got none"),
    "one for all, of another model": (dict(universal="patch", surrogate=toy_model()), "universal: takes no surrogate"),
    "one for all, with targets": (dict(universal="patch", target="majority"), "universal: takes no target"),
    "a typing error": (dict(attacks="fgms"), "unknown attack 'fgms'; did you mean fgsm"),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_slips_are_told_in_one_line_and_leave_nothing_behind(slip, tmp_path):
    changes, words = SLIPS[slip]
    call = {"model": toy_model(), "dataset": ToySource(2), "attacks": ["FGSM"], "work_dir": tmp_path / "run"}
    with pytest.raises(UserError, match=words) as refusal:
        evaluate(**{**call, **QUIET, **changes})
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_what_is_universal_is_not_measured_on_images_that_it_was_fitted_on(tmp_path):
    call = {"universal": "patch(patch=[4, 4], epochs=1)", "work_dir": tmp_path, **QUIET}
    with pytest.raises(UserError, match="universal: 2 of the 2 images to fit on are measured too, such as 'scene <0>'"):
        evaluate(toy_model(), ToySource(4), fit_on=ToySource(2), **call)
    assert not lines(tmp_path)
    evaluate(toy_model(), ToySource(4), fit_on=ToySource(2, salt=1), **call)
    assert len(lines(tmp_path)) == 4 * 3


class Given:
    """A source whose samples are those of the toy one, changed."""

    def __init__(self, change) -> None:
        self.toy, self.change = ToySource(2), change

    def __getattr__(self, name: str):
        return getattr(self.toy, name)

    def __len__(self) -> int:
        return len(self.toy)

    def __getitem__(self, index: int):
        return self.change(self.toy[index])


def test_samples_in_other_types_give_the_same_rows(tmp_path):
    evaluate(toy_model(), ToySource(2), "FGSM", "1/255", work_dir=tmp_path / "plain", **QUIET)
    changes = [
        lambda s: Sample(s.image.numpy(), s.label.numpy().astype(np.uint8), s.name),
        lambda s: Sample(s.image.double(), s.label.int(), s.name),
    ]
    for n, change in enumerate(changes):
        evaluate(toy_model(), Given(change), "FGSM", "1/255", work_dir=tmp_path / str(n), **QUIET)
        assert lines(tmp_path / str(n)) == lines(tmp_path / "plain")


SAMPLES = {
    "a pair": (lambda s: (s.image, s.label), r"dataset\[0\]: expected a Sample\(image, label, name\) .*got a tuple"),
    "8-bit images": (lambda s: Sample((s.image * 255).byte(), s.label, ""), r"image of dataset\[0\]: expected float"),
    "0..255": (lambda s: Sample(s.image * 255, s.label, ""), r"dataset\[0\]: expected values in \[0, 1\], got"),
    "NaN": (lambda s: Sample(s.image * np.nan, s.label, ""), r"dataset\[0\]: expected values in \[0, 1\], got"),
    "channels last": (lambda s: Sample(s.image.permute(1, 2, 0), s.label, ""), r"got torch.float32 \(12, 12, 3\)"),
    "float labels": (lambda s: Sample(s.image, s.label.float(), ""), r"dataset\[0\]: expected class ids \[H, W\]"),
    "a channel": (lambda s: Sample(s.image, s.label[None], ""), r"got torch.int64 \(1, 12, 12\)"),
    "another size": (lambda s: Sample(s.image, s.label[:5], ""), r"label of dataset\[0\] is 5x12"),
    "-1 for void": (lambda s: Sample(s.image, s.label.masked_fill(s.label == 255, -1), ""), r"\[0\] holds the id -1"),
    "another's classes": (lambda s: Sample(s.image, s.label * 0 + 4, ""), r"holds the id 4 .*expected 0..3"),
    "no label": (lambda s: Sample(s.image, None, ""), r"label of dataset\[0\]: expected a tensor .*got NoneType"),
}  # fmt: skip


@pytest.mark.parametrize("what", SAMPLES)
def test_samples_that_can_be_read_in_more_than_one_way_are_refused(what, tmp_path):
    change, words = SAMPLES[what]
    with pytest.raises(UserError, match=words) as refusal:
        evaluate(toy_model(), Given(change), "FGSM", work_dir=tmp_path / "run", **QUIET)
    assert "\n" not in str(refusal.value)


class Stored(Given):
    """The toy images as the halves of files, whose labels and sizes are given in some form."""

    def __init__(self, label=lambda label: label, size=lambda size: size) -> None:
        super().__init__(lambda sample: sample)
        self.label, self.size = label, size

    def original_label(self, index: int):
        return self.label(self.toy[index].label.repeat_interleave(2, 0).repeat_interleave(2, 1))

    def file_size(self, index: int):
        height, width = self.toy[index].label.shape
        return self.size((2 * height, 2 * width))


def test_labels_of_files_in_other_types_give_the_same_rows(tmp_path):
    original = {**QUIET, "metric_size": "original"}
    evaluate(toy_model(), Stored(), "FGSM", "1/255", work_dir=tmp_path / "plain", **original)
    forms = [Stored(lambda label: label.numpy().astype(np.uint8)), Stored(lambda label: label.byte()),
             Stored(lambda label: label.int(), list), Stored(size=np.array)]  # fmt: skip
    for n, source in enumerate(forms):
        evaluate(toy_model(), source, "FGSM", "1/255", work_dir=tmp_path / str(n), **original)
        assert lines(tmp_path / str(n)) == lines(tmp_path / "plain") != []


STORED = {
    "another's classes": (Stored(lambda label: label * 0 + 4), r"label original_label\(0\) of .* holds the id 4"),
    "float labels": (Stored(lambda label: label.float()), r"^original_label\(0\) of .*: expected class ids"),
    "a channel": (Stored(lambda label: label[None]), r"got torch.int64 \(1, 24, 24\)"),
    "another size": (Stored(lambda label: label[:5]), r"original_label\(0\) .* is 5x24 .* its image is 24x24"),
    "no label": (Stored(lambda _: None), r"original_label\(0\) of the dataset: expected a tensor .*got NoneType"),
    "one number": (Stored(size=lambda size: size[0]), r"file_size\(0\) of the dataset: expected two whole .*got 24"),
    "three numbers": (Stored(size=lambda size: (*size, 3)), r"\(height, width\), got \(24, 24, 3\)"),
    "half pixels": (Stored(size=lambda size: (size[0] / 2, size[1])), r"expected two whole numbers .*got \(12.0, 24\)"),
}  # fmt: skip


@pytest.mark.parametrize("what", STORED)
def test_labels_of_files_that_can_be_read_in_more_than_one_way_are_refused(what, tmp_path):
    source, words = STORED[what]
    with pytest.raises(UserError, match=words) as refusal:
        evaluate(toy_model(), source, "FGSM", work_dir=tmp_path / "run", metric_size="original", **QUIET)
    assert "\n" not in str(refusal.value)
