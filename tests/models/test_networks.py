"""Networks as users have them: working in place, bound to multiples of 32, in other types, and failing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from segrobust.attacks import ModelError, build_attack
from segrobust.core.errors import UserError
from segrobust.models.failures import modules_that_write_on_their_input
from segrobust.models.segmenter import Segmenter
from tests.models.adapters.test_mmseg import by_test_step, pixels
from tests.models.tiny import CLASSES, TinyNet, mmseg_config, tiny_mmseg

HALVES = (0.5, 0.5, 0.5)


class On(nn.Module):
    """A function as a module."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def add_in_place(x: Tensor) -> Tensor:
    x += 0.25
    return x


IN_PLACE = {
    "ReLU": (nn.ReLU(inplace=True), nn.ReLU()),
    "+=": (On(add_in_place), On(lambda x: x + 0.25)),
    "sub_": (On(lambda x: x.sub_(0.5)), On(lambda x: x - 0.5)),
    "clamp_": (On(lambda x: x.clamp_(0.2, 0.8)), On(lambda x: x.clamp(0.2, 0.8))),
    "index_fill_": (
        On(lambda x: x.index_fill_(1, torch.tensor([0]), 0.0)),
        On(lambda x: x.index_fill(1, torch.tensor([0]), 0.0)),
    ),
}


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("operation", IN_PLACE)
def test_a_network_may_work_in_place_on_its_input(operation, normalised):
    torch.manual_seed(0)
    last = nn.Conv2d(3, 3, 1)
    options = dict(mean=HALVES, std=HALVES) if normalised else {}
    in_place, plain = IN_PLACE[operation]
    images = torch.rand(2, 3, 8, 8)
    given, labels = images.clone(), torch.randint(0, 3, (2, 8, 8))
    model = Segmenter.wrap(nn.Sequential(in_place, last), num_classes=3, **options)
    reference = Segmenter.wrap(nn.Sequential(plain, last), num_classes=3, **options)
    assert torch.equal(model(given), reference(images))
    attack = build_attack("CEPGD", steps=3, eps="8/255")
    assert torch.equal(attack(model, given, labels).images, attack(reference, images, labels).images)
    assert torch.equal(given, images)


def test_a_step_in_place_in_a_forward_itself_is_told():
    class Adds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x).sigmoid()
            y += 1
            return y

    model = Segmenter.wrap(Adds(), num_classes=3)
    images, labels = torch.rand(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    with pytest.raises(ModelError, match=r"it stands in a forward itself \(such as x \+= y .* torch says: one"):
        build_attack("CEPGD", steps=2)(model, images, labels)


def test_a_step_in_place_that_breaks_the_gradient_is_named():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sigmoid(), nn.Hardtanh(0.2, 0.8, inplace=True), nn.Conv2d(4, 3, 1))
    model = Segmenter.wrap(net, num_classes=3)
    images = torch.rand(1, 3, 4, 4)
    with pytest.raises(ModelError, match=r"their input: net\.2 \(set inplace=False there\); torch says: one"):
        build_attack("FGSM")(model, images, torch.zeros(1, 4, 4, dtype=torch.long))
    assert modules_that_write_on_their_input(model, images) == ["net.2"]
    net[2] = nn.Hardtanh(0.2, 0.8)
    assert modules_that_write_on_their_input(model, images) == []
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


class Strict(nn.Module):
    """Wants multiples of ``divisor`` and answers at half the resolution."""

    def __init__(self, divisor: int = 32) -> None:
        super().__init__()
        self.net, self.divisor = TinyNet(), divisor

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] % self.divisor or x.shape[-2] % self.divisor:
            raise RuntimeError(f"size {tuple(x.shape[-2:])}\nis not a multiple of {self.divisor}")
        return self.net(x)


def test_size_divisor_pads_with_zeros_after_normalisation_and_crops():
    net = Strict().eval()
    model = Segmenter.wrap(net, num_classes=CLASSES, mean=HALVES, std=HALVES, size_divisor=32)
    images = torch.rand(2, 3, 33, 47, requires_grad=True)
    padded = F.pad((images - 0.5) / 0.5, (0, 64 - 47, 0, 64 - 33))
    expected = F.interpolate(net(padded), size=(64, 64), mode="bilinear", align_corners=False)[..., :33, :47]
    weights = torch.randn(2, CLASSES, 33, 47)
    assert torch.equal(model(images), expected)
    (ours,) = torch.autograd.grad((model(images) * weights).sum(), images)
    (theirs,) = torch.autograd.grad((expected * weights).sum(), images)
    assert torch.equal(ours, theirs) and ours[..., -1, -1].abs().min() > 0
    fits = torch.rand(1, 3, 32, 64)
    assert torch.equal(model(fits), Segmenter.wrap(net, num_classes=CLASSES, mean=HALVES, std=HALVES)(fits))
    build_attack("FGSM")(model, images.detach(), torch.zeros(2, 33, 47, dtype=torch.long))


@pytest.mark.parametrize(("divisor", "way_out", "taken"), [(8, 32, "64x96"), (32, 32, "64x96"), (64, 64, "64x128")])
def test_a_network_that_refuses_a_size_is_told_in_one_line_with_the_way_out(divisor, way_out, taken):
    model = Segmenter.wrap(Strict(divisor), num_classes=CLASSES, name="mine").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError) as refusal:
        model(torch.rand(2, 3, 33, 79))
    assert str(refusal.value) == (
        f"mine fails on images of 33x79: RuntimeError: size (33, 79) is not a multiple of {divisor}; the network "
        f"refuses this size but takes {taken}: set size_divisor={way_out} in Segmenter.wrap"
    )
    assert isinstance(refusal.value.__cause__, RuntimeError)
    assert model.training and all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    model = Segmenter.wrap(model.net, num_classes=CLASSES, size_divisor=way_out).eval()
    assert model(torch.rand(2, 3, 33, 79)).shape == (2, CLASSES, 33, 79)


def test_the_same_of_mmseg_names_its_preprocessor():
    model = tiny_mmseg(mmseg_config(preprocessor=dict(test_cfg=dict(size_divisor=1))))

    def refuse(_, inputs: tuple) -> None:
        assert not inputs[0].shape[-1] % 32, "not divisible by 32"

    model.module.backbone.register_forward_pre_hook(refuse)
    words = r"AssertionError: not divisible by 32.* takes 64x64: set size_divisor=32 in data_preprocessor, in its"
    with pytest.raises(UserError, match=words):
        model(pixels() / 255)
    model.module.data_preprocessor.test_cfg = dict(size_divisor=32)
    assert torch.equal(model(pixels() / 255), by_test_step(model.module, pixels()))


class Fails(nn.Module):
    def __init__(self, error: BaseException, after: int = 0) -> None:
        super().__init__()
        self.conv, self.error, self.after = nn.Conv2d(3, 2, 1), error, after

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.after:
            raise self.error
        return self.conv(x)


def test_any_other_error_is_told_without_advice_on_sizes():
    images = torch.rand(2, 3, 7, 9)
    for error, after in ((KeyError("rgb"), 0), (RuntimeError(), 0), (RuntimeError("batches are one image here"), 1)):
        with pytest.raises(UserError, match=r"^Fails fails on images of 7x9: \w+Error: [\w' ]+$") as refusal:
            Segmenter.wrap(Fails(error, after), num_classes=2)(images)
        assert refusal.value.__cause__ is error


THROUGH = [
    torch.OutOfMemoryError("full"),
    MemoryError(),
    KeyboardInterrupt(),
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    distributed.DistBackendError("NCCL error: unhandled system error"),
    distributed.DistNetworkError("failed to recv"),
    RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:1"),
    RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 1000ms"),
    ConnectionResetError(104, "Connection reset by peer"),
]


@pytest.mark.parametrize("error", THROUGH, ids=lambda error: type(error).__name__)
def test_interrupts_and_what_the_machine_lacks_or_fails_with_go_through(error):
    with pytest.raises(type(error)) as caught:
        Segmenter.wrap(Fails(error), num_classes=2)(torch.rand(2, 3, 7, 9))
    assert caught.value is error


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_in_other_types_get_their_own_and_give_float32(dtype):
    images = torch.rand(2, 3, 17, 22, generator=torch.Generator().manual_seed(3))
    exact = Segmenter.wrap(TinyNet().eval(), num_classes=CLASSES, mean=HALVES, std=HALVES)(images)
    net = TinyNet().to(dtype).eval()
    model = Segmenter.wrap(net, num_classes=CLASSES, mean=HALVES, std=HALVES)
    logits = model(images)
    by_hand = net(((images - 0.5) / 0.5).to(dtype))
    by_hand = F.interpolate(by_hand, size=(17, 22), mode="bilinear", align_corners=False)
    assert logits.dtype == torch.float32 and torch.equal(logits, by_hand.float())
    assert (logits - exact).abs().max() < {torch.float16: 5e-3, torch.bfloat16: 5e-2, torch.float64: 1e-5}[dtype]
    result = build_attack("CEPGD", steps=3, eps="8/255")(model, images, logits.argmax(1))
    assert result.images.dtype == torch.float32 and (result.pixel_error > 0).all()
    whole = Segmenter.wrap(TinyNet().eval(), num_classes=CLASSES, mean=HALVES, std=HALVES).to(dtype)
    assert torch.equal(whole(images), logits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mmseg_models_in_half_precision_too(dtype):
    images = pixels() / 255
    exact, model = tiny_mmseg(), tiny_mmseg().to(dtype)
    logits = model(images)
    assert logits.dtype == torch.float32
    assert (logits.argmax(1) == exact(images).argmax(1)).float().mean() > 0.9


def test_images_in_other_types_are_widened_or_kept():
    model = Segmenter.wrap(TinyNet().eval(), num_classes=CLASSES)
    images = (torch.rand(1, 3, 8, 8) * 255).round() / 256  # exact in half precision
    expected = model(images)
    for dtype, given in ((torch.float16, torch.float32), (torch.float64, torch.float64)):
        logits = model(images.to(dtype))
        assert logits.dtype == given and torch.equal(logits, expected.to(given))
    leaf = images.double().requires_grad_()
    assert torch.autograd.grad(model(leaf).sum(), leaf)[0].dtype == torch.float64


class Quarter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.conv(F.avg_pool2d(x, 4))}


def test_logits_at_a_quarter_are_resized_as_the_metric_does():
    net, images = Quarter(), torch.rand(2, 3, 24, 36)
    expected = F.interpolate(net(images)["logits"], size=(24, 36), mode="bilinear", align_corners=False)
    model = Segmenter.wrap(net, num_classes=3)
    assert torch.equal(model(images), expected)
    assert not torch.allclose(model(images), F.interpolate(net(images)["logits"], size=(24, 36), mode="nearest"))
    result = build_attack("CEPGD", steps=3)(model, images, expected.argmax(1))
    wrong = (model(result.images).argmax(1) != expected.argmax(1)).float().mean((1, 2))
    assert torch.allclose(result.pixel_error, wrong) and np.all(wrong.numpy() > 0)
