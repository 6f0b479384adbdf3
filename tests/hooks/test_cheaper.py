"""Cheaper forms of the attack in training: what they change, by hand, and what they leave as it is."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from mmcv.transforms import TRANSFORMS
from mmengine.registry import DATASETS
from torch.nn import functional as F

from segrobust.attacks import build_attack
from segrobust.commands.training import train
from segrobust.core.errors import UserError
from segrobust.datasets.pipeline import with_own_reading
from segrobust.hooks import AdversarialTrainingHook
from segrobust.hooks.cheaper import FOLLOWED, KeptPerturbations, attacked_at, check_followed
from tests.attacks.toys import PixelLinear
from tests.hooks.toys import After, Before, ToyScenes, ToySegmentor, history, hook_of, same, state_of, toy_config

EPS = 8 / 255
LAST = dict(type="CEPGD", eps="8/255", steps=2, optimiser="pgd", radius_reduction=False, keep="last")
FLIP_KEYS = ("img_path", "flip", "flip_direction")
OBSERVERS = (dict(type="Before"), dict(type="After"))


class RandomFlip:
    """A transform of that name."""


class RandomCrop:
    """A transform of that name."""


@DATASETS.register_module()
class FlippedScenes(ToyScenes):
    """Four scenes, half of the visits flipped."""

    pipeline = SimpleNamespace(transforms=[RandomFlip()])

    def __init__(self) -> None:
        super().__init__(4)

    def __getitem__(self, index):
        item, flipped = super().__getitem__(index), bool(torch.rand(()) < 0.5)
        sample = item["data_samples"]
        sample.set_metainfo(dict(flip=flipped, flip_direction="horizontal" if flipped else None))
        if flipped:
            item["inputs"] = item["inputs"].flip(-1)
            sample.gt_sem_seg.data = sample.gt_sem_seg.data.flip(-1)
        return item


def run(folder, iters=4, resume=False, dataset="ToyScenes", **fields):
    hook = dict(type="AdversarialTrainingHook", attack=LAST, **fields)
    config = toy_config(*OBSERVERS, hook, attack=None, iters=iters)
    config.train_dataloader.update(
        dataset=dict(type="SeededDataset", dataset=dict(type=dataset)), sampler=dict(type="SeededInfiniteSampler")
    )
    config.default_hooks.checkpoint.interval = 3
    return train(config, work_dir=folder, resume=resume)


def weights(runner):
    return state_of(runner.model)["tensors"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return run(tmp_path_factory.mktemp("plain"), error_interval=1)


def test_the_error_is_measured_every_so_many_iterations_and_nothing_else_changes(plain, tmp_path):
    runner = run(tmp_path, error_interval=3)
    every, some = history(plain, "adv_pixel_error"), history(runner, "adv_pixel_error")
    assert some == [every[0], every[3]]
    assert same(weights(plain), weights(runner))
    late = AdversarialTrainingHook(LAST, start=2)
    assert late.form.error_interval == 10


@pytest.fixture
def autocast(monkeypatch):
    """By whether the model learns there: whether its forwards ran in autocast."""
    own, found = ToySegmentor.extract_feat, {True: set(), False: set()}

    def spy(self, images):
        if len(images) > 1:  # one alone is what models/folded.py looks at
            found[self.training].add(torch.is_autocast_enabled("cpu"))
        return own(self, images)

    monkeypatch.setattr(ToySegmentor, "extract_feat", spy)
    return found


def test_the_attack_alone_runs_in_bf16(plain, tmp_path, autocast):
    runner = run(tmp_path, precision="bf16", error_interval=1)
    assert autocast == {True: {False}, False: {True}}
    fed, clean = hook_of(runner, After).images[0][0], hook_of(runner, Before).images[0][0]
    assert fed.dtype == torch.float32 and 4 < (fed - clean).abs().max() <= 8 + 1e-4
    first, exact = hook_of(runner, After).images[0], hook_of(plain, After).images[0]
    agree = torch.stack([(a - b).abs() < 1e-3 for a, b in zip(first, exact, strict=True)]).float().mean()
    assert 0.8 < agree < 1  # of the same weights nearly the same changes


def test_in_float32_it_is_the_ordinary_form(plain, tmp_path):
    assert same(weights(plain), weights(run(tmp_path, precision="float32")))


def test_an_attack_at_half_size_by_hand():
    """One step of a linear rule on averages of four pixels; the change is resized and cut off at ball and box."""
    net, attack = PixelLinear(), build_attack(LAST | dict(steps=1, random_start=False))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 8, 12, generator=generator)
    labels = (torch.rand(2, 8, 12, generator=generator) < 0.5).long()
    labels[1] = 255
    result, change = attacked_at(attack, 0.5, net, images, labels)
    nearest = labels[:, 1::2, 1::2]
    towards = (net.weight[1] - net.weight[0]).detach().sign().view(1, 3, 1, 1)
    assert change.shape == (2, 3, 4, 6) and (change[1] == 0).all() and torch.equal(result.images[1], images[1])
    small = F.interpolate(images, (4, 6), mode="bilinear", antialias=True)
    step = EPS * torch.where(nearest[0] == 0, 1.0, -1.0) * towards[0]
    torch.testing.assert_close(change[0], (small[0] + step).clamp(0, 1) - small[0])
    wide = F.interpolate(change, (8, 12), mode="bilinear")
    torch.testing.assert_close(result.images, (images + wide).clamp(0, 1))
    torch.testing.assert_close(result.distance, (result.images - images).abs().amax((1, 2, 3)))
    assert result.images.shape == images.shape and 0 < result.distance[0] <= EPS + 1e-6


def test_at_full_size_it_is_the_ordinary_attack():
    net, images = PixelLinear(), torch.rand(2, 3, 6, 6)
    labels = torch.zeros(2, 6, 6, dtype=torch.long)
    result, change = attacked_at(build_attack(LAST), 1.0, net, images, labels)
    assert torch.equal(result.images, build_attack(LAST)(net, images, labels).images)
    assert torch.equal(change, result.images - images)


def test_in_training_the_network_is_attacked_on_smaller_images_and_learns_from_whole_ones(tmp_path, monkeypatch):
    own, sizes = ToySegmentor.extract_feat, {True: set(), False: set()}

    def spy(self, images):
        if len(images) > 1:  # one alone is what models/folded.py looks at
            sizes[self.training].add(tuple(images.shape[2:]))
        return own(self, images)

    monkeypatch.setattr(ToySegmentor, "extract_feat", spy)
    run(tmp_path, scale=0.5, iters=2)
    assert sizes == {True: {(32, 32)}, False: {(16, 16)}}


def sample(path, direction=None):
    return type("Sample", (dict,), {"img_path": path, "flip_direction": direction})(flip=direction is not None)


@pytest.mark.parametrize(("direction", "axes"), [(None, ()), ("horizontal", (-1,)), ("vertical", (-2,)),
                                                 ("diagonal", (-2, -1))])  # fmt: skip
def test_what_is_kept_follows_flips(direction, axes):
    kept, images = KeptPerturbations(), torch.full((2, 3, 4, 6), 0.5)
    change = torch.arange(72.0).view(1, 3, 4, 6) / 1024
    kept.keep([sample("a")], change)
    starts = kept.starts([sample("b"), sample("a", direction)], images)
    assert starts[0].isnan().all() and torch.equal(starts[1], 0.5 + change[0].flip(axes))
    kept.keep([sample("a", direction)], change)
    assert torch.equal(kept.changes["a"].float(), change[0].flip(axes))
    assert kept.changes["a"].dtype == torch.float16
    assert kept.starts([sample("a")], torch.zeros(1, 3, 4, 7)).isnan().all()  # of another size


def test_an_attack_begins_where_it_ended_at_the_last_visit(tmp_path, monkeypatch):
    seen, own = [], KeptPerturbations.starts

    def spy(self, samples, images):
        starts = own(self, samples, images)
        seen.append(starts - images)
        return starts

    monkeypatch.setattr(KeptPerturbations, "starts", spy)
    runner = run(tmp_path, dataset="FlippedScenes", keep_perturbations=True, iters=6)
    before, after = hook_of(runner, Before), hook_of(runner, After)
    ended, flips = {}, set()  # as the image lies in its file
    for begun, *batch in zip(seen, before.samples, before.images, after.images, strict=True):
        for change, one, clean, fed in zip(begun, *batch, strict=True):
            axes = (-1,) if one.flip else ()
            if one.img_path in ended:
                flips.add(one.flip)
                torch.testing.assert_close(change.flip(axes), ended[one.img_path], atol=2e-5, rtol=0)
            else:
                assert change.isnan().all()
            ended[one.img_path] = ((fed - clean)[[2, 1, 0]] / 255).flip(axes)
    assert len(ended) == 4 and flips == {True, False}
    assert EPS / 2 < max(change.abs().max() for change in ended.values()) <= EPS + 1e-6


def test_before_anything_is_kept_it_is_the_ordinary_form(tmp_path):
    for iters, equal in ((2, True), (4, False)):
        forms = [
            run(tmp_path / f"{iters} {kept}", dataset="FlippedScenes", keep_perturbations=kept, iters=iters)
            for kept in (False, True)
        ]
        assert same(*map(weights, forms)) == equal


def test_a_resume_goes_on_with_what_was_kept(tmp_path):
    fields = dict(dataset="FlippedScenes", keep_perturbations=True)
    whole = run(tmp_path / "whole", iters=6, **fields)
    run(tmp_path / "stopped", iters=3, **fields)
    resumed = run(tmp_path / "stopped", iters=6, resume=True, **fields)
    assert len(hook_of(resumed, Before).images) == 3
    kept = [hook_of(runner, AdversarialTrainingHook).form.kept.changes for runner in (whole, resumed)]
    assert same(weights(whole), weights(resumed)) and same(*kept) and len(kept[0]) == 4


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ([RandomFlip(), RandomCrop()], "through one RandomFlip alone, and the training pipeline has RandomCrop"),
        ([RandomFlip(), RandomFlip()], "has several"),
    ],
)
def test_a_pipeline_that_moves_pixels_is_refused(transforms, message, tmp_path, monkeypatch):
    monkeypatch.setattr(FlippedScenes, "pipeline", SimpleNamespace(transforms=transforms))
    with pytest.raises(UserError, match=message):
        run(tmp_path, dataset="FlippedScenes", keep_perturbations=True)


@pytest.mark.parametrize(
    ("keys", "missing"),
    [
        (("img_path",), "flip, flip_direction"),
        (("img_path", "flip"), "flip_direction"),
        (("flip", "flip_direction", "img_shape"), "img_path"),
    ],
)
def test_a_pipeline_that_does_not_pack_what_is_followed_is_refused(keys, missing, tmp_path, monkeypatch):
    packing = TRANSFORMS.build(dict(type="PackSegInputs", meta_keys=keys))
    monkeypatch.setattr(FlippedScenes, "pipeline", SimpleNamespace(transforms=[RandomFlip(), packing]))
    with pytest.raises(UserError, match=rf"PackSegInputs\(meta_keys=...\) .* leaves out {missing}; add"):
        run(tmp_path, dataset="FlippedScenes", keep_perturbations=True)


@pytest.mark.parametrize(
    ("steps", "options"),
    [([RandomFlip()], {}), ([], dict(meta_keys=("img_path",))), ([RandomFlip()], dict(meta_keys=FLIP_KEYS))],
)
def test_a_pipeline_that_packs_it_is_taken(steps, options):
    """Without a RandomFlip, nothing is flipped and no word of it is needed."""
    packing = TRANSFORMS.build(dict(type="PackSegInputs", **options))
    dataset = SimpleNamespace(pipeline=SimpleNamespace(transforms=[*steps, packing]))
    check_followed(SimpleNamespace(world_size=1, train_dataloader=SimpleNamespace(dataset=dataset)))


def test_mmsegs_own_readers_are_followed():
    """As a training's loader has them, which reads by classes of its own."""
    steps = ("LoadImageFromFile", "LoadAnnotations", "RandomFlip", "PackSegInputs")
    known = with_own_reading({"pipeline": [{"type": one} for one in steps]})
    assert [one["type"] for one in known["pipeline"]] == ["ReadImage", "ReadLabel", "RandomFlip", "PackSegInputs"]
    assert {one["type"] for one in known["pipeline"]} <= {*FOLLOWED}


def test_data_without_a_pipeline_is_refused(tmp_path):
    with pytest.raises(UserError, match="no pipeline that tells what it does"):
        run(tmp_path, keep_perturbations=True)


def test_several_processes_are_refused():
    with pytest.raises(UserError, match="comes to another process in every epoch"):
        check_followed(SimpleNamespace(world_size=2))


ALMA = dict(type="ALMAProx", steps=5, eps_max="8/255")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(error_interval=0), "error_interval to be an integer >= 1, got 0"),
        (dict(precision="bf61"), "bf16"),
        (dict(scale=0), "0 < scale <= 1, got 0"),
        (dict(scale=1.5), "0 < scale <= 1, got 1.5"),
        (dict(attack=ALMA, scale=0.5), "ALMAProx finds on a smaller image has another norm"),
        (dict(attack=ALMA, keep_perturbations=True), "ALMAProx does not begin at given points"),
        (dict(attack=dict(type="FGSM", eps="8/255"), keep_perturbations=True), "FGSM does not begin"),
        (dict(keep_perturbations=1), "keep_perturbations to be True or False, got 1"),
    ],
)
def test_what_cannot_work_is_told_in_one_line(fields, message):
    with pytest.raises(UserError, match=message) as caught:
        AdversarialTrainingHook(**{"attack": LAST, **fields})
    assert "\n" not in str(caught.value)
