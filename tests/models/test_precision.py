"""Products are computed in what was asked for, and torch's switches are as before afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segrobust.attacks import build_attack
from segrobust.core.errors import UserError
from segrobust.models.precision import check_precision, computing_in, float32_unless_autocast, products
from segrobust.models.segmenter import Segmenter
from segrobust.studies.bench import Bench
from tests.runs.toy_run import K, ToySource

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
OPERATIONS = ("cuda.matmul", "cuda.conv", "cuda.rnn", "cpu.matmul", "cpu.conv", "cpu.rnn")


@pytest.fixture(autouse=True)
def as_before():
    """Every test begins and ends with torch's own defaults."""
    begins = switches()
    assert begins == ("none", "none", "tf32", "tf32", "none", "none", "none", "highest", False, True)
    yield
    torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    for operation in ("cuda.matmul", "cpu.matmul", "cpu.conv", "cpu.rnn"):
        setting(operation).fp32_precision = "none"
    assert switches() == begins


def setting(operation: str):
    backends = torch.backends
    return {
        "cuda.matmul": backends.cuda.matmul,
        "cuda.conv": backends.cudnn.conv,
        "cuda.rnn": backends.cudnn.rnn,
        "cpu.matmul": backends.mkldnn.matmul,
        "cpu.conv": backends.mkldnn.conv,
        "cpu.rnn": backends.mkldnn.rnn,
    }[operation]


def switches() -> tuple:
    """All of torch's, the older ones included: "?" where torch refuses to say, as they contradict the others."""

    def told(read):
        try:
            return read()
        except RuntimeError:
            return "?"

    return (
        torch.backends.fp32_precision,
        *(setting(operation).fp32_precision for operation in OPERATIONS),
        told(torch.get_float32_matmul_precision),
        told(lambda: torch.backends.cuda.matmul.allow_tf32),
        told(lambda: torch.backends.cudnn.allow_tf32),
    )


@pytest.fixture
def gpu(monkeypatch):
    """A GPU by name; torch's switches can be set without one."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA X1")


def set_by_user(name: str) -> None:
    if name == "all tf32":
        torch.backends.fp32_precision = "tf32"
    elif name == "older":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = False
    elif name == "high":
        torch.set_float32_matmul_precision("high")
    elif name == "medium":
        torch.set_float32_matmul_precision("medium")
    elif name == "mixed":  # of older and newer ones, which contradict each other
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.backends.cudnn.conv.fp32_precision = "none"
        torch.backends.mkldnn.conv.fp32_precision = "bf16"


STATES = ("default", "all tf32", "older", "high", "medium", "mixed")


@pytest.mark.parametrize("state", STATES)
def test_products_are_exact_inside_and_as_before_afterwards(state):
    set_by_user(state)
    before = switches()
    with computing_in("float32", CPU):
        assert switches()[1:] == ("ieee",) * 6 + ("highest", False, False)
    assert switches() == before


@pytest.mark.parametrize("state", STATES)
def test_what_followed_the_general_switch_follows_it_again(state):
    """An operation without a setting of its own."""
    set_by_user(state)
    torch.backends.fp32_precision = "none"
    own = products()
    with computing_in("float32", CPU):
        pass
    torch.backends.fp32_precision = "tf32"
    assert products() == {name: "tf32" if value == "none" else value for name, value in own.items()}


def test_what_follows_the_general_switch_is_not_given_its_value():
    torch.backends.fp32_precision = "tf32"
    with computing_in("float32", CPU):
        pass
    torch.backends.fp32_precision = "none"
    own = products()
    assert {own[name] for name in ("cuda.matmul", "cpu.matmul", "cpu.conv", "cpu.rnn")} == {"none"}


@pytest.mark.parametrize("state", STATES)
def test_tf32_is_that_of_the_gpu_alone(state, gpu):
    set_by_user(state)
    before = switches()
    with computing_in("tf32", GPU):
        assert switches()[1:] == ("tf32",) * 3 + ("ieee",) * 3 + ("high", True, True)
        with computing_in("float32", GPU):  # a reported forward in the middle
            assert switches()[1:] == ("ieee",) * 6 + ("highest", False, False)
        assert switches()[1:] == ("tf32",) * 3 + ("ieee",) * 3 + ("high", True, True)
    assert switches() == before


def test_an_error_leaves_nothing_behind(gpu):
    before = switches()
    with pytest.raises(ZeroDivisionError), computing_in("tf32", GPU):
        _ = 1 / 0
    with pytest.raises(ZeroDivisionError), computing_in("bf16", CPU):
        _ = 1 / 0
    assert switches() == before and not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precision_is_autocast_over_exact_products(name, dtype):
    one = torch.eye(2)
    with computing_in(name, CPU):
        assert (one @ one).dtype == dtype and set(products().values()) == {"ieee"}
        with computing_in("float32", CPU):
            assert (one @ one).dtype == torch.float32
        assert (one @ one).dtype == dtype
    assert (one @ one).dtype == torch.float32


def test_a_runners_autocast_is_left_on_and_products_are_exact_without_one():
    one = torch.eye(2)
    with torch.autocast("cpu", torch.bfloat16), float32_unless_autocast(CPU):
        assert (one @ one).dtype == torch.bfloat16 and products()["cuda.conv"] == "tf32"
    with float32_unless_autocast(CPU):
        assert (one @ one).dtype == torch.float32 and products()["cuda.conv"] == "ieee"


@pytest.mark.parametrize(
    ("precision", "device", "capability", "told"),
    [
        ("tf32", CPU, None, r"precision tf32: expected a GPU of compute capability 8.0 or more, got the device 'cpu'"),
        ("tf32", GPU, (7, 5), "got NVIDIA X1 with 7.5; leave it out, or choose bf16 or fp16"),
        ("fp8", CPU, None, "unknown precision 'fp8'; did you mean fp16?"),
    ],
)
def test_what_would_be_computed_otherwise_is_refused(precision, device, capability, told, gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    with pytest.raises(UserError, match=told):
        check_precision(precision, device)
    with pytest.raises(UserError, match=told), computing_in(precision, device):
        pass


@pytest.mark.parametrize("capability", [(8, 0), (12, 1)])
def test_tf32_where_the_gpu_has_it(capability, gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    check_precision("tf32", GPU)


class Noting(nn.Module):
    """Notes how it is made to compute."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(3, K, 1)
        self.seen: list[tuple[bool, frozenset, bool]] = []

    def forward(self, images):
        self.seen.append((images.requires_grad, frozenset(products().values()), torch.is_autocast_enabled("cpu")))
        return self.last(images)


@pytest.mark.parametrize(("precision", "autocast"), [("float32", False), ("bf16", True)])
def test_a_bench_attacks_as_asked_and_reports_in_float32(precision, autocast):
    torch.set_float32_matmul_precision("medium")
    net, source = Noting(), ToySource()
    bench = Bench(Segmenter.wrap(net, num_classes=K).eval(), source, precision=precision)
    group = bench.group([1], [source[1]])
    with torch.autocast("cpu", torch.float16):
        bench.predict(group.images)
    with bench.attacking([0]):
        build_attack("FMN", steps=2)(bench.model, group.images, group.labels)
    exact = frozenset({"ieee"})
    assert net.seen[0] == (False, exact, False) and {seen for _, seen, _ in net.seen} == {exact}
    assert all(on == autocast for _, _, on in net.seen[1:-2])
    # what a minimum-norm attack says of its result, it measures so: as it is, and rounded to 8 bits
    assert net.seen[-2:] == [(False, exact, False)] * 2
