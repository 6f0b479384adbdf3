"""Segmenters that are none of mmseg's: the same hooks train and validate them, and evaluation loads what they save."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import CheckpointLoader
from torch import nn

from segrobust.commands.training import prepare, train
from segrobust.core.errors import UserError
from segrobust.hooks.batches import equal_batches
from segrobust.models.load import build_segmenter, load_segmenter
from segrobust.models.segmenter import Segmenter, frozen_eval
from segrobust.models.trainable import TrainableSegmenter, build_trainable, live_segmenter
from tests.hooks.own_models import KINDS, PYTHON, TORCHVISION, OwnNet, model_of, own_config, tensors
from tests.hooks.toys import ToyScenes, history, hook_of, same, state_of
from tests.models.adapters.saved import no_sockets

AUGMENTED = {"train_dataloader.dataset.augment": True}


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    no_sockets(monkeypatch)


@HOOKS.register_module()
class OwnWatch(Hook):
    """The images before and after the attack is another hook's; here what the loss saw, and the states around it."""

    priority = "LOW"

    def __init__(self) -> None:
        self.fed, self.states = [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        self.fed.append([image.clone() for image in data_batch["inputs"]])
        self.states.append(state_of(runner.model))


@HOOKS.register_module()
class OwnBefore(OwnWatch):
    priority = "HIGH"


def batch_of(*indices, data=None):
    items = [(data or ToyScenes())[index] for index in indices]
    return {key: [item[key] for item in items] for key in ("inputs", "data_samples")}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_attacked_trained_validated_saved_and_loaded(kind, tmp_path):
    if kind in ("smp", "huggingface"):
        pytest.importorskip({"smp": "segmentation_models_pytorch", "huggingface": "transformers"}[kind])
    model = model_of(kind, tmp_path)
    config = own_config(model, dict(type="OwnBefore"), dict(type="OwnWatch"), iters=2, robust=True)
    config.default_hooks.checkpoint.interval = 2
    runner = train(config, work_dir=tmp_path / "work")
    before, after = hook_of(runner, OwnBefore), next(hook for hook in runner.hooks if type(hook) is OwnWatch)
    assert all(0 < error <= 1 for error in history(runner, "adv_pixel_error"))
    assert all(math.isfinite(loss) for loss in history(runner, "loss"))
    for clean, attacked in zip(before.fed, after.fed, strict=True):
        change = torch.stack([new - old for new, old in zip(attacked, clean, strict=True)]).abs()
        assert 4 < change.max() <= 8 + 1e-4
    for old, new in zip(before.states, after.states, strict=True):
        assert same(old, new)  # the attack left everything alone
    start, end = after.states[0]["tensors"], runner.model.state_dict()
    learned = [key for key, _ in live_segmenter(runner.model).network.named_parameters()]
    assert len([key for key in learned if not torch.equal(start[key], end[key])]) >= len(learned) - 2  # aux: two
    statistics = [key for key in end if key.endswith("running_mean")]
    assert statistics and all(not torch.equal(start[key], end[key]) for key in statistics)
    assert 0 <= runner.message_hub.get_scalar("val/robust/mIoU").current() <= 100
    loaded = load_segmenter(config, tmp_path / "work" / "iter_2.pth", device="cpu")
    images = tensors([ToyScenes()[index]["inputs"] for index in range(2)])
    with frozen_eval(runner.model), frozen_eval(loaded):
        assert torch.equal(loaded(images), live_segmenter(runner.model)(images))


def test_what_is_attacked_is_what_is_trained():
    """One map from a loader's batch to logits: of the model in training, of the attack and of evaluation."""
    trained = build_trainable(own_config())
    assert trained.training and all(weight.requires_grad for weight in trained.parameters())
    attacked = live_segmenter(trained)
    batch = batch_of(0, 1, 2)
    data = trained.data_preprocessor(batch, True)
    ((_, images, _),) = equal_batches(batch, range(3), torch.device("cpu"))
    assert torch.equal(images, data["inputs"]) and torch.equal(images, tensors(batch["inputs"]))
    net = OwnNet(5)
    net.load_state_dict(trained.state_dict())
    mean, std = (torch.tensor(PYTHON[name]).view(3, 1, 1) for name in ("mean", "std"))
    pixels = (images.flip(1) - mean) / std
    for mode in (True, False):
        trained.train(mode), net.train(mode)
        torch.manual_seed(1)
        ours = trained(**data)
        torch.manual_seed(1)
        assert torch.equal(attacked(images), ours)
        torch.manual_seed(1)
        net.load_state_dict(trained.state_dict())
        expected = net(pixels)
        expected = (expected[0] if mode else expected)[:, [0, 2, 1]]
        expected = nn.functional.interpolate(expected, size=(32, 32), mode="bilinear", align_corners=False)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 0.25]])
def test_the_loss_is_the_mean_cross_entropy_of_the_labelled_pixels(weights):
    """By hand, pixel by pixel; the wider image makes the others' right border void."""
    model = build_trainable(own_config({**PYTHON, "train_cfg": dict(class_weight=weights)})).eval()
    batch = batch_of(0, 1, data=ToyScenes(wide=(1,)))
    data = model.data_preprocessor(batch, True)
    assert data["inputs"].shape == (2, 3, 32, 40) and not data["inputs"][0, :, :, 32:].any()
    logits = model(**data).double()
    total = weight = 0.0
    for image, item in zip(logits, batch["data_samples"], strict=True):
        label = item.gt_sem_seg.data[0]
        for row in range(label.shape[0]):
            for column in range(label.shape[1]):
                if (truth := int(label[row, column])) != 255:
                    scores = image[:, row, column]
                    each = 1.0 if weights is None else weights[truth]
                    total += each * (scores.logsumexp(0) - scores[truth]).item()
                    weight += each
    found = model(**data, mode="loss")
    assert list(found) == ["loss_ce"]
    assert found["loss_ce"].item() == pytest.approx(total / weight, rel=1e-5)


def test_a_batch_without_labelled_pixels_gives_zero_and_no_gradient():
    model, batch = build_trainable(own_config()), batch_of(0, 1)
    for sample in batch["data_samples"]:
        sample.gt_sem_seg.data.fill_(255)
    loss = model(**model.data_preprocessor(batch, True), mode="loss")["loss_ce"]
    loss.backward()
    assert float(loss) == 0 and not model.segmenter.net.first.weight.grad.any()


def test_predictions_have_the_size_of_the_original():
    """A view at half the size: the logits, not the classes, are resized, as evaluation and mmseg do."""
    model, batch = build_trainable(own_config()).eval(), batch_of(0)
    batch["inputs"] = [batch["inputs"][0][:, ::2, ::2]]
    (sample,) = model.val_step(batch)
    logits = live_segmenter(model)(tensors(batch["inputs"]))
    resized = nn.functional.interpolate(logits, size=(32, 32), mode="bilinear", align_corners=False)
    assert torch.equal(sample.pred_sem_seg.data, resized.argmax(1))
    with pytest.raises(UserError, match="different sizes; set batch_size=1 in val_dataloader"):
        model.val_step(batch_of(0, 1, data=ToyScenes(wide=(1,))))


def averaged_run(folder, resume=False, **changes):
    config = own_config(PYTHON, dict(type="EMAHook", momentum=0.1), iters=6, robust=True, **AUGMENTED, **changes)
    config.default_hooks.checkpoint.interval = 3
    train(config, work_dir=folder, resume=resume)
    kept = CheckpointLoader.load_checkpoint(str(folder / "iter_6.pth"), map_location="cpu")
    return config, {key: kept[key] for key in ("state_dict", "ema_state_dict", "optimizer", "param_schedulers")}


def test_a_resume_goes_on_bitwise_and_both_kinds_of_weights_load(tmp_path):
    config, expected = averaged_run(tmp_path / "straight")
    (tmp_path / "resumed").mkdir()
    shutil.copy(tmp_path / "straight" / "iter_3.pth", tmp_path / "resumed")
    (tmp_path / "resumed" / "last_checkpoint").write_text("iter_3.pth")
    _, found = averaged_run(tmp_path / "resumed", resume=True)
    for key in expected:
        assert same(found[key], expected[key]), key
    assert set(expected["state_dict"]) == set(OwnNet(5).state_dict())  # the network's own names
    average = {key.removeprefix("module."): value for key, value in expected["ema_state_dict"].items()}
    assert not torch.equal(average["last.weight"], expected["state_dict"]["last.weight"])
    for kind, weights in (("ema", expected["state_dict"]), ("raw", average)):  # mmengine stores them so
        net = load_segmenter(config, tmp_path / "straight" / "iter_6.pth", device="cpu", weights=kind).network
        assert all(torch.equal(value, weights[key]) for key, value in net.state_dict().items())


def started_from(file, tmp_path, model=PYTHON, **changes):
    config = own_config(model, dict(type="OwnBefore"), iters=1, attack=None, load_from=str(file), **changes)
    runner = train(config, work_dir=tmp_path / "work")
    return runner, hook_of(runner, OwnBefore).states[0]["tensors"]


def test_training_begins_with_anothers_weights_whatever_wraps_them(tmp_path):
    """An entry that the config names, a prefix; and the checkpoint of that training is evaluated by the same config."""
    torch.manual_seed(5)
    weights = OwnNet(5).state_dict()
    stored = {"nets": {"student": {f"module.{key}": value for key, value in weights.items()}, "teacher": weights}}
    torch.save({**stored, "state_dict": OwnNet(5).state_dict()}, tmp_path / "theirs.pth")
    model = {**PYTHON, "envelope": "nets.student"}
    runner, begun = started_from(tmp_path / "theirs.pth", tmp_path, model)
    assert all(torch.equal(begun[key], value) for key, value in weights.items())
    loaded = load_segmenter(own_config(model), tmp_path / "work" / "iter_1.pth", device="cpu").network
    assert same(dict(loaded.state_dict()), dict(runner.model.state_dict()))


def test_a_file_that_does_not_fit_is_refused_and_parts_begin_anew(tmp_path):
    weights = OwnNet(4).state_dict()
    torch.save(weights, tmp_path / "four.pth")
    with pytest.raises(UserError, match=r"^load_from: .*wrong number of classes: 4 in the checkpoint, 5 in the model"):
        started_from(tmp_path / "four.pth", tmp_path)
    _, begun = started_from(tmp_path / "four.pth", tmp_path, load_from_except=["last", "aux"])
    assert torch.equal(begun["first.weight"], weights["first.weight"]) and begun["last.weight"].shape[0] == 5


def test_an_auxiliary_head_is_left_out_as_in_evaluation(tmp_path):
    from torchvision.models import get_model

    model = {**TORCHVISION, "arch": "fcn_resnet50"}
    net = get_model("fcn_resnet50", weights=None, weights_backbone=None, num_classes=3, aux_loss=True)
    torch.save(net.state_dict(), tmp_path / "aux.pth")
    trained = build_trainable(own_config(model))
    from segrobust.hooks.load_from import LoadFromHook

    LoadFromHook().load(trained, str(tmp_path / "aux.pth"))
    assert torch.equal(trained.state_dict()["classifier.4.weight"], net.classifier[4].weight)


def test_weights_of_transformers_are_taken_in_place(tmp_path):
    """An optimizer holds the parameters that were there before."""
    pytest.importorskip("transformers")
    trained = build_trainable(own_config(model_of("huggingface", tmp_path)))
    held = dict(trained.named_parameters())
    weights = {f"module.{key}": value + 1 for key, value in trained.state_dict().items()}
    from segrobust.hooks.load_from import LoadFromHook

    torch.save(weights, tmp_path / "more.pth")
    LoadFromHook().load(trained, str(tmp_path / "more.pth"))
    for name, weight in trained.named_parameters():
        assert weight is held[name]
    assert all(torch.equal(value, weights[f"module.{key}"]) for key, value in trained.state_dict().items())


def test_the_runners_autocast_is_used(tmp_path):
    """bfloat16 inside the network, float32 images, loss and weights."""
    seen = []

    @HOOKS.register_module(force=True)
    class Types(Hook):
        def before_train(self, runner) -> None:
            net = live_segmenter(runner.model).net
            net.last.register_forward_hook(lambda part, given, out: seen.append((part.training, len(out), out.dtype)))

    runner = train(own_config(PYTHON, dict(type="Types"), iters=1, **{"optim_wrapper.type": "CpuAutocast"}), tmp_path)
    assert {(True, 2, torch.bfloat16), (False, 2, torch.bfloat16)} == {one for one in seen if one[1] > 1}
    assert all(weight.dtype == torch.float32 for weight in runner.model.parameters())


def test_other_models_are_refused_in_one_line():
    from torch.distributed.fsdp import FullyShardedDataParallel

    with pytest.raises(UserError, match=r"got Conv2d; for a network of your own set model=dict\(type=\"Python") as told:
        live_segmenter(nn.Conv2d(3, 2, 1))
    assert "\n" not in str(told.value)
    sharded = FullyShardedDataParallel.__new__(FullyShardedDataParallel)
    nn.Module.__init__(sharded)
    trained = build_trainable(own_config())
    trained.segmenter.net.inner = sharded
    with pytest.raises(UserError, match="FSDP"):
        live_segmenter(trained)
    assert live_segmenter(nn.DataParallel(build_trainable(own_config()))).num_classes == 3


class Learned(Segmenter):
    """A parameter beside its network."""

    def __init__(self) -> None:
        super().__init__(num_classes=3)
        self.net, self.scale = nn.Conv2d(3, 3, 1), nn.Parameter(torch.ones(1))

    @property
    def network(self) -> nn.Module:
        return self.net


def test_what_a_checkpoint_would_lack_is_refused():
    with pytest.raises(UserError, match="Learned: scale lies outside of its network"):
        TrainableSegmenter(Learned())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(class_wieght=[1, 1, 1]), "unknown entry of model.train_cfg 'class_wieght'; did you mean class_weight"),
        (dict(class_weight=[1, 1]), "each of the 3 classes, got 2"),
        (dict(class_weight=[1, -1, 1]), "finite numbers >= 0"),
        (dict(class_weight=[0, 0, 0]), "one above 0"),
        (dict(class_weight="high"), "class_weight: expected a number for each class, got 'high'"),
    ],
)
def test_wrong_options_are_told(options, words):
    config = own_config({**PYTHON, "train_cfg": options})
    with pytest.raises(UserError, match=words):
        build_trainable(config)
    assert build_segmenter(config).num_classes == 3  # evaluation reads none of them


def changed(key, **values):
    def changes(sample):
        if key is None:
            del sample.gt_sem_seg
        elif key == "value":
            sample.gt_sem_seg.data[0, 0, 0] = 11
        else:
            size = sample.gt_sem_seg.data[:, :16]
            del sample.gt_sem_seg
            from mmengine.structures import PixelData

            sample.gt_sem_seg = PixelData(data=size)

    return changes


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (None, "no gt_sem_seg; add LoadAnnotations"),
        ("value", r"label of 0.png holds the id 11 \(1 pixels out of range\); expected 0..2 or 255"),
        ("size", r"label of 0.png is \(16, 32\) and its image \(32, 32\)"),
    ],
)
def test_labels_that_do_not_fit_are_told(key, words):
    model, batch = build_trainable(own_config()), batch_of(0)
    changed(key)(batch["data_samples"][0])
    with pytest.raises(UserError, match=words):
        model.data_preprocessor(batch, True)


def test_a_factorys_arguments_are_its_own(tmp_path):
    """Neither taken for weights to be left out, nor for a download."""
    kwargs = dict(outputs=5, pretrained=True, checkpoint_path="https://example.org/own.pth")
    for load_from in (None, "some.pth"):
        config = own_config({**PYTHON, "kwargs": kwargs}, load_from=load_from)
        assert prepare(config, tmp_path, False, False, None, "none").model.kwargs == kwargs


def test_a_batch_of_one_image_is_told_where_it_cannot_be_normalised(tmp_path):
    model = dict(type="PythonSegmenter", factory="tests.hooks.own_models:pooled_net", num_classes=3)
    with pytest.raises(UserError, match=r"batch_size=1.*set batch_size in train_dataloader to at least 2") as told:
        train(own_config(model, iters=1, attack=None, **{"train_dataloader.batch_size": 1}), tmp_path)
    assert "\n" not in str(told.value)
    assert train(own_config(model, iters=1, attack=None), tmp_path).iter == 1
