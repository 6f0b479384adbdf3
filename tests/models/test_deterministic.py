"""The switch that makes passes repeat on a GPU, driven here by a stand-in for one: what it sets, and puts back."""

from __future__ import annotations

import sys
import threading
import time
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segrobust.models import deterministic as module
from segrobust.models.deterministic import alerted, deterministic, exchanged, operation_in

GPU, CPU = SimpleNamespace(type="cuda"), torch.device("cpu")
OWN = F.interpolate, F.adaptive_avg_pool2d, F.cross_entropy
ALERT = (
    "{} does not have a deterministic implementation, but you set 'torch.use_deterministic_algorithms(True, "
    "warn_only=True)'. You can file an issue at https://github.com/pytorch/pytorch/issues"
)


def shared():
    """All that the switch touches."""
    return (
        F.interpolate,
        F.adaptive_avg_pool2d,
        F.cross_entropy,
        warnings.showwarning,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.backends.cudnn.benchmark,
    )


@pytest.mark.parametrize(("device", "enabled"), [(CPU, True), (GPU, False)])
def test_nothing_changes_on_a_cpu_or_where_it_is_off(device, enabled):
    before = shared()
    with deterministic(device, enabled):
        assert shared() == before
    assert shared() == before


def test_what_is_set_on_a_gpu_and_put_back(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = shared()
    with deterministic(GPU):
        assert not {*OWN} & {F.interpolate, F.adaptive_avg_pool2d, F.cross_entropy}
        assert shared()[4:] == (True, True, False, False)
        inside = shared()
        with deterministic(GPU), deterministic(GPU, enabled=False):
            assert shared() == inside
        assert shared() == inside
        with pytest.raises(ZeroDivisionError), deterministic(GPU):
            raise ZeroDivisionError
        assert shared() == inside
    assert shared() == before
    with pytest.raises(ZeroDivisionError), deterministic(GPU):
        raise ZeroDivisionError
    assert shared() == before


def test_a_users_own_setting_comes_back():
    torch.use_deterministic_algorithms(True)
    try:
        before = shared()
        with deterministic(GPU):
            assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert shared() == before and not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_what_fails_on_the_way_in_leaves_nothing(monkeypatch):
    before = shared()
    monkeypatch.setattr(module, "_collecting", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError), deterministic(GPU):
        pytest.fail("entered")
    assert shared() == before
    monkeypatch.undo()
    with deterministic(GPU):
        assert F.interpolate is not OWN[0]
    assert shared() == before


def test_the_last_thread_out_puts_back():
    before, entered, go = shared(), threading.Event(), threading.Event()

    def other():
        with deterministic(GPU):
            entered.set()
            go.wait(10)

    thread = threading.Thread(target=other)
    with deterministic(GPU):
        inside = shared()
        thread.start()
        assert entered.wait(10)
    assert shared() == inside  # the other is still at work
    go.set()
    thread.join()
    assert shared() == before


def test_alerts_are_collected_and_other_warnings_shown():
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with deterministic(GPU):
            warnings.warn(ALERT.format("upsample_bicubic2d_backward_out_cuda"), stacklevel=1)
            warnings.warn("something else", stacklevel=1)
            with deterministic(GPU):
                warnings.warn(ALERT.format("cumsum_cuda_kernel"), stacklevel=1)
            assert alerted() == {"upsample_bicubic2d_backward", "cumsum"}
        assert not alerted()
    assert [str(one.message) for one in shown] == ["something else"]


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("max_pool2d_with_indices_backward_cuda", "max_pool2d_with_indices_backward"),
        ("adaptive_max_pool2d_backward_cuda", "adaptive_max_pool2d_backward"),
        ("grid_sampler_2d_backward_cuda", "grid_sampler_2d_backward"),
        ("kthvalue CUDA", "kthvalue"),
        ("median CUDA with indices output", "median"),
        ("put_", "put_"),
    ],
)
def test_names_in_torchs_words(name, operation):
    assert operation_in(ALERT.format(name)) == operation
    assert operation_in("max_pool2d: implementation of something else") == ""


def test_modules_reach_the_forms(monkeypatch):
    """torch's modules, mmseg's ``resize`` and torchvision's own reference, and what is not bilinear stays torch's."""
    from segrobust.models.mm import import_mmseg

    import_mmseg()
    from mmseg.models.utils.wrappers import Upsample, resize
    from torchvision.transforms.functional import resize as of_torchvision

    calls = []
    for name in ("bilinear", "adaptive_average", "cross_entropy"):
        form = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, form=form, name=name: calls.append(name) or form(*given))
    x = torch.rand(1, 3, 5, 6)
    labels = torch.zeros(1, 5, 6, dtype=torch.long)
    every = [
        lambda: resize(x, size=(9, 9), mode="bilinear", align_corners=False),
        lambda: Upsample(scale_factor=2, mode="bilinear", align_corners=True)(x),
        lambda: nn.Upsample(scale_factor=2, mode="bilinear")(x),
        lambda: nn.UpsamplingBilinear2d(size=(4, 4))(x),
        lambda: of_torchvision(x, [7, 8], antialias=False),
        lambda: nn.AdaptiveAvgPool2d(2)(x),
        lambda: nn.CrossEntropyLoss()(x, labels),
    ]
    own = [one() for one in every]
    assert not calls
    with exchanged():
        found = [one() for one in every]
        assert calls == ["bilinear"] * 5 + ["adaptive_average", "cross_entropy"]
        others = [
            F.interpolate(x, size=(9, 9)),
            F.interpolate(x, size=(9, 9), mode="bicubic"),
            F.interpolate(x, size=(3, 3), mode="bilinear", antialias=True),
            F.interpolate(x[0], size=9, mode="linear"),
            F.adaptive_avg_pool2d(x, 1),
            F.cross_entropy(x, labels, label_smoothing=0.1),
            F.cross_entropy(x, x.softmax(1)),
            F.cross_entropy(x[:, :, 0, 0], labels[:, 0, 0]),
        ]
        assert len(calls) == 7
        for wrong in (dict(size=(2, 2), scale_factor=2), dict(), dict(size=(1, 2, 3)), dict(size=(0, 2))):
            with pytest.raises((ValueError, AssertionError, RuntimeError)):
                F.interpolate(x, mode="bilinear", **wrong)
    for mine, theirs in zip(found, own, strict=True):
        assert (mine - theirs).abs().max() <= 1e-6
    assert torch.equal(others[1], F.interpolate(x, size=(9, 9), mode="bicubic"))
    holder = sys.modules["torchvision.transforms._functional_tensor"]
    assert (F.interpolate, F.adaptive_avg_pool2d, F.cross_entropy) == OWN and holder.interpolate is OWN[0]


def test_the_forms_take_part_in_torchs_modes():
    """A torch-function mode, such as a default device, sees one call and the form still serves it."""
    with exchanged(), torch.device("cpu"):
        x = torch.rand(1, 1, 3, 3)
        assert F.interpolate(x, size=(5, 5), mode="bilinear").shape == (1, 1, 5, 5)


def test_the_workspace_of_cublas_is_set_before_its_first_use():
    import os

    assert os.environ["CUBLAS_WORKSPACE_CONFIG"]


def test_entering_costs_microseconds():
    """Per batch; a nested one, per forward, is a counter."""
    began = time.perf_counter()
    for _ in range(200):
        with deterministic(GPU):
            pass
    outermost = (time.perf_counter() - began) / 200
    with deterministic(GPU):
        began = time.perf_counter()
        for _ in range(200):
            with deterministic(GPU):
                pass
        nested = (time.perf_counter() - began) / 200
    assert outermost < 5e-4 and nested < 1e-4  # 15 and 1 on an idle core
