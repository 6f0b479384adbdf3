"""The forms that repeat on a GPU equal torch's own within rounding, forward and backward."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from segrobust.models import repeating
from segrobust.models.deterministic import exchanged
from segrobust.models.repeating import adaptive_average, bilinear, cross_entropy

CLOSE = 1e-6
SIZES = [
    ((7, 9), (14, 18)), ((5, 8), (17, 23)), ((12, 15), (5, 4)), ((1, 6), (9, 1)), ((1, 1), (3, 4)), ((6, 5), (6, 11)),
    ((23, 31), (180, 240)), ((64, 3), (2, 3)), ((4, 4), (4, 4)),
]  # fmt: skip
OWN_INTERPOLATE, OWN_POOL, OWN_LOSS = F.interpolate, F.adaptive_avg_pool2d, F.cross_entropy


def both(form, own, *shape, dtype=torch.float32, last=False):
    """Results and input gradients of a form and of torch's own, for one input and one gradient."""
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(shape, generator=generator).to(dtype)
    start = start.contiguous(memory_format=torch.channels_last) if last else start
    found = []
    for function in (form, own):
        x = start.clone().requires_grad_()
        y = function(x)
        # weights of a mean, so that sums in the backward have the size of what is summed
        coming = torch.rand(y.shape, generator=torch.Generator().manual_seed(1)) * min(1, x.numel() / y.numel())
        found.append((y.detach(), *torch.autograd.grad(y, x, coming.to(y.dtype))))
    return found


def assert_close(found, bound=CLOSE):
    for mine, own in zip(*found, strict=True):
        assert mine.shape == own.shape and mine.dtype == own.dtype
        assert (mine.double() - own.double()).abs().max() <= bound


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize(("before", "after"), SIZES)
def test_bilinear_is_torchs(before, after, corners, last):
    found = both(
        lambda x: bilinear(x, after, corners),
        lambda x: OWN_INTERPOLATE(x, after, mode="bilinear", align_corners=corners),
        2, 3, *before, last=last,
    )  # fmt: skip
    assert_close(found)
    (mine, _), (own, _) = found
    assert mine.is_contiguous(memory_format=torch.channels_last) == own.is_contiguous(memory_format=torch.channels_last)


ASKED = [
    dict(size=7), dict(size=(7, 4)), dict(size=torch.Size((7, 4))), dict(scale_factor=2), dict(scale_factor=(1.7, 0.6)),
    dict(scale_factor=1.7, recompute_scale_factor=True), dict(scale_factor=1.7, recompute_scale_factor=False),
    dict(scale_factor=1.05),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "corners"), [*itertools.product(ASKED, [None, False, True])])
def test_whatever_is_asked_of_interpolate(asked, corners, monkeypatch):
    calls = []
    monkeypatch.setattr("segrobust.models.deterministic.bilinear", lambda *given: calls.append(1) or bilinear(*given))
    with exchanged():
        form = F.interpolate
    assert form is not OWN_INTERPOLATE
    options = dict(asked, mode="bilinear", align_corners=corners)
    found = both(lambda x: form(x, **options), lambda x: OWN_INTERPOLATE(x, **options), 1, 2, 5, 6)
    assert_close(found)
    assert calls


def test_second_derivatives_and_double_precision():
    x = torch.rand(1, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    for form in (
        lambda x: bilinear(x, (5, 7)),
        lambda x: bilinear(x, (2, 9), True),
        lambda x: adaptive_average(x, (2, 3)),
    ):
        assert torch.autograd.gradcheck(form, x) and torch.autograd.gradgradcheck(form, x)
    assert_close(both(lambda x: bilinear(x, (45, 31)), lambda x: OWN_INTERPOLATE(x, (45, 31), mode="bilinear"),
                      1, 2, 11, 9, dtype=torch.float64), 1e-13)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_loses_no_more_than_torch(dtype, autocast):
    x = torch.rand(1, 3, 9, 11, generator=torch.Generator().manual_seed(0)).to(dtype)
    exact = OWN_INTERPOLATE(x.double(), (40, 33), mode="bilinear")
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        mine, single = bilinear(x, (40, 33)), bilinear(x.float(), (40, 33))
    own = OWN_INTERPOLATE(x, (40, 33), mode="bilinear")
    assert mine.dtype == dtype and (mine - exact).abs().max() <= 1.01 * (own - exact).abs().max()
    assert single.dtype == torch.float32 and (single - exact).abs().max() < CLOSE


def test_autocast_does_not_reach_the_backward_either():
    x = torch.rand(1, 1, 9, 11, requires_grad=True)
    y = bilinear(x, (40, 33))
    coming = torch.rand(y.shape) / 10
    expected = torch.autograd.grad(y, x, coming, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(*torch.autograd.grad(y, x, coming), *expected)


def test_tf32_is_off_inside():
    """A stand-in: the switch of a GPU's products, which may be set anywhere."""
    products, gpu = torch.backends.cuda.matmul, SimpleNamespace(type="cuda")
    before = products.fp32_precision
    try:
        for setting, dtype, inside in (
            ("tf32", torch.float32, "ieee"),
            ("tf32", torch.float64, "tf32"),
            ("ieee", torch.float32, "ieee"),
        ):
            products.fp32_precision = setting
            with repeating._true_precision(gpu, dtype):
                assert products.fp32_precision == inside
            assert products.fp32_precision == setting
    finally:
        products.fp32_precision = before


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
@pytest.mark.parametrize("size", [(1, 1), 2, (3, 3), (6, None), (5, 4), (13, 1)])
def test_adaptive_average_is_torchs(size, last):
    with exchanged():
        form = F.adaptive_avg_pool2d
    assert form is not OWN_POOL
    assert_close(both(lambda x: form(x, size), lambda x: OWN_POOL(x, size), 2, 3, 11, 7, last=last))


@pytest.mark.parametrize("shape", [(2, 4, 5, 6), (3, 4, 7), (2, 4, 2, 3, 2)])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_is_torchs(shape, reduction, weighted):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (shape[0], *shape[2:]), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.3] = 255
    weight = torch.tensor([0.5, 1.0, 2.0, 0.0]) if weighted else None
    own = both(
        lambda x: cross_entropy(x, labels, weight, 255, reduction),
        lambda x: OWN_LOSS(x, labels, weight, ignore_index=255, reduction=reduction),
        *shape,
    )
    assert_close(own, 4e-6 if reduction == "sum" else CLOSE)  # a sum of up to 60 values of size 2


def test_cross_entropy_at_its_edges():
    logits = torch.zeros(1, 3, 2, 2, requires_grad=True)
    nothing = torch.full((1, 2, 2), 255)
    assert cross_entropy(logits, nothing, ignore_index=255).isnan()
    assert cross_entropy(logits, nothing, ignore_index=255, reduction="sum") == 0
    far = torch.tensor([[[[-torch.inf]], [[0.0]]]], requires_grad=True)
    loss = cross_entropy(far, torch.ones(1, 1, 1, dtype=torch.long))
    assert loss == 0 and not torch.autograd.grad(loss, far)[0].any()
    ignored = cross_entropy(far, torch.full((1, 1, 1), 255), ignore_index=255, reduction="none")
    assert ignored == 0 and not torch.autograd.grad(ignored.sum(), far)[0].any()


def test_what_follows_may_work_in_place():
    x = torch.randn(1, 2, 3, 3, requires_grad=True)
    for form in (lambda x: bilinear(x, (5, 5)), lambda x: adaptive_average(x, (2, 2)), lambda x: bilinear(x, (3, 3))):
        for last in (False, True):
            y = form(x.contiguous(memory_format=torch.channels_last) if last else x).relu_()
            assert torch.autograd.grad(y.sum(), x)[0].abs().sum() > 0


def test_weights_are_made_once_and_few_are_kept(monkeypatch):
    monkeypatch.setattr(repeating, "_kept", kept := type(repeating._kept)())
    x = torch.rand(1, 1, 2, 3)
    with torch.inference_mode():
        bilinear(x, (4, 7))
    assert len(kept) == 2
    weights = list(kept.values())
    y = bilinear(x.requires_grad_(), (4, 7))  # those of a pass without a gradient serve one with it
    y.sum().backward()
    assert [*map(id, kept.values())] == [*map(id, weights)]
    for size in range(8, 8 + 2 * repeating.KEPT):
        bilinear(x, (4, size))
    assert len(kept) == repeating.KEPT
    assert any(one is weights[0] for one in kept.values())  # what is used again and again stays


def test_what_a_captured_graph_reads_stays(monkeypatch):
    """A stand-in: the capture's state is what a GPU would say."""
    monkeypatch.setattr(repeating, "_kept", kept := type(repeating._kept)())
    monkeypatch.setattr(repeating, "_in_graphs", held := {})
    x = SimpleNamespace(device=torch.device("cuda", 0))

    def weights_of(capturing):
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
        return repeating._weights(_Made, x, ())

    first = weights_of(False)
    assert weights_of(True) is first and list(held.values()) == [first]
    kept.clear()
    assert weights_of(True) is first and weights_of(False) is first


class _Made:
    def to(self, device):
        return self
