"""DDC-AT: which branch learns which pixels, what the attack in training sees, and that inference is the main branch."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from segrobust.commands.training import train
from segrobust.core.errors import UserError
from segrobust.hooks import AdversarialTrainingHook, LoadFromHook
from segrobust.models.adapters.mmseg import MMSegSegmenter
from segrobust.models.load import load_segmenter
from segrobust.models.mm import load_config
from segrobust.recipes import ddcat
from tests.hooks.toys import Before, ToyScenes, history, hook_of, same, toy_config
from tests.recipes.toys import branched

CONFIG = "configs/fpn/fpn_r18w24_1xb8-ddcat-linf4-s3-1500_camvid-180x240.py"
SHIPPED = "camvid-fpn-r18w24-std-180x240"
BOTH = ("decode_head", "auxiliary_branch")


@pytest.fixture(scope="module")
def standard(tmp_path_factory):
    """The weights of a short standard training, in a file."""
    folder = tmp_path_factory.mktemp("standard")
    runner = train(toy_config(iters=4, attack=None), work_dir=folder)
    torch.save({"state_dict": runner.model.state_dict()}, folder / "weights.pth")
    return folder / "weights.pth"


@pytest.fixture(scope="module")
def trained(standard, tmp_path_factory):
    """A training of the branches that begins with these weights."""
    config = branched(dict(type="Before"), iters=16, load_from=str(standard))
    return train(config, work_dir=tmp_path_factory.mktemp("ddcat"))


def halves(model, count=3, noise=30):
    """A batch of clean images and others of the same labels, as the network gets it in training."""
    generator = torch.Generator().manual_seed(0)
    samples = [ToyScenes()[index] for index in range(count)]
    clean = [one["inputs"].float() for one in samples]
    other = [(one + noise * torch.randn(one.shape, generator=generator)).clamp(0, 255) for one in clean]
    data = dict(inputs=clean + other, data_samples=[one["data_samples"] for one in samples] * 2)
    return model.data_preprocessor(data, True)


def active(trained):
    model = undecided(trained).train()
    model.active = True
    return model


def undecided(trained):
    """The trained model, whose mask branch picks either branch about as often and whose branches differ."""
    model = copy.deepcopy(trained.model).train()
    with torch.no_grad():
        model.auxiliary_branch.conv_seg.weight += torch.randn(3, 8, 1, 1, generator=torch.Generator().manual_seed(0))
        mask = model.mask_branch(model.extract_feat(halves(model)["inputs"]))
        model.mask_branch.conv_seg.bias[0] += (mask[:, 1] - mask[:, 0]).median()
    return model


def test_the_division():
    clean, attacked = torch.tensor([[[0, 1, 2]]]), torch.tensor([[[0, 2, 2]]])
    assert ddcat.changed(torch.cat([clean, attacked])).tolist() == [[[False, True, False]]] * 2
    mask = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]]).view(1, 2, 1, 3)
    assert ddcat.picked(mask).tolist() == [[[True, False, False]]]  # a tie picks the main branch
    main, auxiliary = torch.zeros(1, 4, 1, 3), torch.ones(1, 4, 1, 3)
    assert torch.equal(ddcat.merged(main, auxiliary, ddcat.picked(mask))[0, :, 0], torch.tensor([[1.0, 0, 0]] * 4))


def reference(model, data):
    """The loss from the three heads, written out, and the share of the pixels with a label that is divided."""
    labels = torch.cat([one.gt_sem_seg.data for one in data["data_samples"]]).long()
    valid, size = labels != 255, labels.shape[-2:]
    features = model.extract_feat(data["inputs"])
    heads = (model.decode_head, model.auxiliary_branch, model.mask_branch)
    main, auxiliary, mask = (F.interpolate(head(features), size, mode="bilinear") for head in heads)
    by_auxiliary = mask.argmax(1) == 1
    said = auxiliary.argmax(1) * by_auxiliary + main.argmax(1) * ~by_auxiliary
    differs = said[:3] != said[3:]
    differs = torch.cat([differs, differs])
    each = [F.cross_entropy(logits, labels, ignore_index=255, reduction="none") for logits in (main, auxiliary)]
    own = (each[0] * ~differs + each[1] * differs).mean()  # mmseg's mean is over void, too
    of_mask = F.cross_entropy(mask.movedim(1, -1)[valid], differs[valid].long())
    return own + of_mask, differs[valid].float().mean()


def test_the_loss_is_that_of_the_branch_that_learns_the_pixel(trained):
    models = [active(trained) for _ in range(2)]
    data = halves(models[0])
    found, logged = models[0].parse_losses(models[0](**data, mode="loss"))
    expected, share = reference(models[1], data)
    assert 0.02 < share < 0.98 and logged["auxiliary_share"] == pytest.approx(float(share))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for value in (found, expected):
        value.backward()
    grads = [{name: one.grad for name, one in model.named_parameters()} for model in models]
    for name, one in grads[1].items():
        torch.testing.assert_close(grads[0][name], one, rtol=1e-3, atol=1e-5)


def test_gradients_reach_the_branch_that_learns_the_pixel_and_no_other(trained, monkeypatch):
    model, logits = active(trained), {}
    divided = torch.tensor([True, False, False]).repeat(2)  # image by image: the upsampling mixes neighbours
    monkeypatch.setattr(ddcat, "changed", lambda said: divided.view(-1, 1, 1).expand_as(said))
    for name in BOTH:
        getattr(model, name).register_forward_hook(
            lambda head, _, out, name=name: logits.update({name: out}) or out.retain_grad()
        )
    model.parse_losses(model(**halves(model), mode="loss"))[0].backward()
    main, auxiliary = (logits[name].grad.abs().amax((1, 2, 3)) > 0 for name in BOTH)
    assert torch.equal(auxiliary, divided) and torch.equal(main, ~divided)


def test_the_same_images_twice_are_not_divided_and_neither_is_a_batch_without_an_attack(trained):
    model = active(trained)
    data = halves(model, noise=0)
    assert model(**data, mode="loss")["auxiliary_share"] == 0
    assert model(**halves(model), mode="loss")["auxiliary_share"] > 0
    model.active = False
    losses = model(**halves(model), mode="loss")
    assert losses["auxiliary_share"] == 0 and losses["mask_branch.loss_ce"] > 0
    assert model(**halves(model), mode="loss")["decode.loss_ce"].requires_grad


def test_branches_begin_as_one_and_have_statistics_of_their_own(trained, standard):
    start, end = hook_of(trained, Before).states[0]["tensors"], trained.model.state_dict()
    given = torch.load(standard)["state_dict"]
    assert all(torch.equal(start[name], value) for name, value in given.items())
    kept = [name.removeprefix("decode_head.") for name in given if name.startswith("decode_head.")]
    assert all(torch.equal(start[f"auxiliary_branch.{name}"], given[f"decode_head.{name}"]) for name in kept)
    for name in (one for one in kept if one.endswith(("running_mean", "running_var"))):
        main, auxiliary, mask = (end[f"{branch}.{name}"] for branch in ddcat.BRANCHES)
        for one, other in ((main, auxiliary), (main, mask), (auxiliary, start[f"auxiliary_branch.{name}"])):
            assert (one - other).abs().max() > 1e-4


def test_the_division_is_logged_and_the_mask_branch_learns_it(trained):
    shares, of_mask = history(trained, "auxiliary_share"), history(trained, "mask_branch.loss_ce")
    assert len(shares) == 16 and 0 < min(shares) <= max(shares) < 1
    assert sum(of_mask[-4:]) < 0.9 * sum(of_mask[:4])
    parts = [history(trained, name) for name in ("decode.loss_ce", "mask_branch.loss_ce")]
    assert history(trained, "loss") == pytest.approx([sum(each) for each in zip(*parts, strict=True)])
    assert not trained.model.active and hook_of(trained, AdversarialTrainingHook).pairs is None


def test_inference_is_the_main_branch_and_the_attack_in_training_sees_the_branch_that_the_mask_picks(trained):
    model = undecided(trained).eval()
    segmenter = MMSegSegmenter.live(model)
    images = torch.stack([ToyScenes()[index]["inputs"] / 255 for index in range(3)]).flip(1)
    before = segmenter(images)
    with torch.no_grad():
        model.auxiliary_branch.conv_seg.bias += torch.tensor([0.0, 5.0, 0.0])
    assert torch.equal(segmenter(images), before)
    with model.under_attack():
        merged = segmenter(images.requires_grad_())
        merged[:, 1].sum().backward()
        assert images.grad.any()
    features = model.extract_feat(segmenter._preprocessed(images))
    auxiliary, mask = (
        F.interpolate(head(features), (32, 32), mode="bilinear") for head in (model.auxiliary_branch, model.mask_branch)
    )
    by_auxiliary = mask.argmax(1, keepdim=True) == 1
    assert by_auxiliary.any() and not by_auxiliary.all()
    torch.testing.assert_close(merged, auxiliary * by_auxiliary + before * ~by_auxiliary)
    with pytest.raises(ZeroDivisionError), model.under_attack():
        raise ZeroDivisionError
    assert torch.equal(segmenter(images), before)


def test_deep_supervision_sees_all_pixels(tmp_path):
    config = branched(iters=2)
    config.model.auxiliary_head = dict(config.model.decode_head, in_index=0, in_channels=4)
    runner = train(config, work_dir=tmp_path)
    parts = [history(runner, name) for name in ("decode.loss_ce", "mask_branch.loss_ce", "aux.loss_ce")]
    assert history(runner, "loss") == pytest.approx([sum(each) for each in zip(*parts, strict=True)])


def test_heads_that_do_not_fit_are_refused(trained, tmp_path):
    config = branched()
    config.model.decode_head.update(num_classes=2, out_channels=1, loss_decode=dict(type="CrossEntropyLoss"))
    with pytest.raises(UserError, match="one sigmoid channel; set out_channels"):
        MMSegSegmenter.from_config(config)
    model = active(trained)
    model.auxiliary_branch.forward = lambda features: [features[-1]]
    with pytest.raises(UserError, match="one map of logits from the head, which FCNHead does not give"):
        model(**halves(model), mode="loss")


def test_the_shipped_config_begins_with_the_standard_model_and_is_evaluated_as_it(repository, tmp_path):
    path = repository / CONFIG
    config = load_config(path)
    model = load_segmenter(path).network
    LoadFromHook().load(model, config.load_from)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "branches.pth")
    found, expected = load_segmenter(path, tmp_path / "branches.pth"), load_segmenter(SHIPPED)
    images = torch.rand(1, 3, 180, 240, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found(images), expected(images))
    auxiliary = found.network.auxiliary_branch.state_dict()
    assert all(torch.equal(auxiliary[name], value) for name, value in found.network.decode_head.state_dict().items())
    assert found.network.mask_branch.conv_seg.out_channels == 2


def test_a_file_that_has_the_branches_keeps_them(trained, tmp_path):
    weights = {name: value.clone() for name, value in trained.model.state_dict().items()}
    for name in ("auxiliary_branch.conv_seg.weight", "mask_branch.conv_seg.weight"):
        weights[name] += 1
    torch.save({"state_dict": weights}, tmp_path / "branches.pth")
    model = copy.deepcopy(trained.model)
    LoadFromHook().load(model, tmp_path / "branches.pth")
    assert same(dict(model.state_dict()), weights)
