"""Batch normalisation as a part of the convolution before it: the same function, found where it is one."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segrobust.models.folded import Folding, foldable, folded

IMAGE = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))


def learnt(network: nn.Module) -> nn.Module:
    """In eval mode, with weights and statistics as after a training."""
    generator = torch.Generator().manual_seed(1)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_var is not None:
            part.running_mean.normal_(generator=generator)
            part.running_var.uniform_(0.3, 3, generator=generator)
            if part.affine:
                nn.init.normal_(part.weight, generator=generator)
                nn.init.normal_(part.bias, generator=generator)
    return network.eval()


def plain(bias: bool = True, **norm) -> nn.Sequential:
    first = [nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect", bias=bias), nn.BatchNorm2d(6, **norm), nn.ReLU(True)]
    return nn.Sequential(*first, nn.Conv2d(6, 4, 3, groups=2, stride=2, bias=not bias), nn.BatchNorm2d(4, **norm))


class Built(nn.Module):
    """A convolution and a normalisation, put together by ``rule(conv, norm, images)``."""

    def __init__(self, rule, conv=None, norm=None) -> None:
        super().__init__()
        self.conv, self.norm, self.rule = conv or nn.Conv2d(3, 3, 1), norm or nn.BatchNorm2d(3), rule

    def forward(self, images):
        return self.rule(self.conv, self.norm, images)


class Standardised(nn.Conv2d):
    """Not what its torch class does."""

    def forward(self, images):
        return F.conv2d(images, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


def both(network, image):
    """Logits and the gradient of their sum of squares."""
    image = image.clone().requires_grad_()
    logits = network(image)
    return logits.detach(), torch.autograd.grad(logits.square().sum(), image)[0]


@pytest.mark.parametrize("fields", [{}, {"bias": False}, {"affine": False}, {"eps": 0.1}, {"shift": False}], ids=str)
def test_the_folded_network_is_the_same_function(fields):
    shift = {} if fields.pop("shift", True) else {"shift": False}
    network = learnt(plain(**fields)).double()
    if shift:  # as BatchNorm2d(bias=False) of newer torch
        network[1].bias = None
    image = IMAGE.double()
    expected = both(network, image)
    pairs = foldable(network, image)
    assert [(pair.conv, pair.norm) for pair in pairs] == [(network[0], network[1]), (network[3], network[4])]
    with folded(pairs):
        torch.testing.assert_close(both(network, image), expected, rtol=1e-12, atol=1e-12)
        network[1].train()  # what is folded does not even look at its statistics
        torch.testing.assert_close(network(image), expected[0], rtol=1e-12, atol=1e-12)
    assert not any("forward" in vars(part) for part in network)
    assert torch.equal(network.eval()(image), expected[0])


def test_the_weights_of_the_moment_are_folded():
    network = learnt(plain())
    folding = Folding(network)
    with folding(IMAGE):
        before = network(IMAGE)
    assert len(folding.pairs) == 2
    with torch.no_grad():
        network[0].weight.mul_(2)
        network[1].running_var.add_(1)
    expected = network(IMAGE)
    with folding(IMAGE):
        torch.testing.assert_close(network(IMAGE), expected)
    assert not torch.allclose(expected, before, atol=1e-2)


def test_an_error_inside_leaves_the_network_as_it_was():
    network = learnt(plain())
    expected, pairs = network(IMAGE), foldable(network, IMAGE)
    assert pairs
    with pytest.raises(RuntimeError, match="stop"), folded(pairs):
        raise RuntimeError("stop")
    assert torch.equal(network(IMAGE), expected)


def test_modes_gradients_statistics_and_random_numbers_are_left_alone():
    network = plain().train()
    network[0].bias.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    assert len(foldable(network, IMAGE)) == 2
    assert torch.equal(torch.get_rng_state(), state)
    assert all(part.training for part in network.modules())
    assert [one.requires_grad for one in network[0].parameters()] == [True, False]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(part._forward_hooks for part in network.modules())


def twice(conv, norm, images):
    return norm(conv(images)) + norm(conv(images))


SECOND_USES = {
    "its output goes elsewhere, too": lambda conv, norm, images: (made := conv(images)) * 0.3 + norm(made),
    "its output goes elsewhere without a gradient": lambda conv, norm, images: (
        (made := conv(images)).detach() + norm(made)
    ),
    "both are called twice": twice,
    "something is between them": lambda conv, norm, images: norm(conv(images).relu()),
    "nothing comes of its second use yet": lambda conv, norm, images: (made := conv(images)) * 0 + norm(made),
    "nothing comes of both yet": lambda conv, norm, images: (made := conv(images)) * 0 + norm(made) * 0,
    "something in place does nothing yet": lambda conv, norm, images: norm(conv(images).clamp_(-1e3)),
    "something in place is between them": lambda conv, norm, images: norm(conv(images).relu_()),
    "something makes another tensor of it": lambda conv, norm, images: norm(conv(images) * 1),
}


@pytest.mark.parametrize("rule", SECOND_USES.values(), ids=SECOND_USES)
@pytest.mark.parametrize("make", [learnt, nn.Module.eval], ids=["learnt", "not learnt yet"])
def test_a_second_use_is_not_folded(rule, make):
    """Before training a normalisation does nothing, and a second use would not be seen by what comes out."""
    assert foldable(make(Built(rule)), IMAGE) == []


def test_a_branch_that_starts_at_nothing_is_looked_into():
    """The last normalisation of a residual branch often begins with weights of 0."""
    first = Built(SECOND_USES["its output goes elsewhere, too"])
    last = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    nn.init.zeros_(last[1].weight)
    branch = nn.Sequential(first, last)
    pairs = foldable(Built(lambda conv, norm, images: images + branch(images), conv=branch).eval(), IMAGE)
    assert [pair.conv for pair in pairs] == [last[0]]


def test_only_plain_modules_that_nobody_watches_are_folded():
    straight = lambda conv, norm, images: norm(conv(images))  # noqa: E731
    watched = Built(straight)
    watched.norm.register_forward_hook(lambda *_: None)
    replaced = Built(straight)
    replaced.conv.forward = replaced.conv.forward
    watched_backwards = Built(straight)
    watched_backwards.conv.register_full_backward_pre_hook(lambda *_: None)
    others = [
        watched,
        watched_backwards,
        replaced,
        Built(straight, conv=nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 3, 1))),
        Built(straight, conv=Standardised(3, 3, 1)),
        Built(straight, norm=nn.BatchNorm2d(3, track_running_stats=False)),
        Built(straight, norm=nn.GroupNorm(1, 3)),
        Built(straight, conv=nn.ConvTranspose2d(3, 3, 1)),
    ]
    assert [foldable(one.eval(), IMAGE) for one in others] == [[]] * len(others)
    assert len(foldable(Built(straight).eval(), IMAGE)) == 1
    assert len(foldable(Built(straight, norm=nn.SyncBatchNorm(3)).eval(), IMAGE)) == 1


def test_what_lay_where_an_output_lies_now_does_not_count():
    """Of a long network, whose features make place for each other."""
    blocks = [(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU()) for _ in range(20)]
    assert len(foldable(nn.Sequential(*(part for block in blocks for part in block)).eval(), IMAGE)) == 20


def test_what_is_put_on_a_module_later_is_heeded_and_stays():
    network = learnt(plain())
    folding, own = Folding(network), network[0].forward
    with folding(IMAGE):
        assert "forward" in vars(network[0])
    hook = network[1].register_forward_hook(lambda part, given, out: out * 2)
    expected = network(IMAGE)
    with folding(IMAGE):
        assert torch.equal(network(IMAGE), expected)
    hook.remove()
    network[0].forward = mine = lambda images: own(images) + 1
    expected = network(IMAGE)
    with folding(IMAGE):
        assert torch.equal(network(IMAGE), expected)
    assert network[0].forward is mine


class OtherNames(nn.Conv2d):
    def _conv_forward(self, x, w, b):
        return super()._conv_forward(x, w, b)


def test_a_network_that_the_look_does_not_fit_is_not_folded():
    class Sum(nn.Module):
        def forward(self, images):
            if len(images) < 2:
                raise IndexError("one image")
            return images

    network = learnt(nn.Sequential(*plain(), Sum()))
    assert foldable(network, IMAGE) == []
    assert not any("forward" in vars(part) or part._forward_hooks for part in network)
    other = Built(lambda conv, norm, images: norm(conv(images)), conv=OtherNames(3, 3, 1)).eval()
    assert foldable(other, IMAGE) == [] and not any("forward" in vars(part) for part in other.modules())


def test_a_full_memory_is_not_taken_for_a_network_that_does_not_fit():
    def full(conv, norm, images):
        raise MemoryError

    with pytest.raises(MemoryError):
        foldable(Built(full).eval(), IMAGE)


def test_the_look_is_in_float32():
    seen = []

    def spied(conv, norm, images):
        seen.append(torch.is_autocast_enabled("cpu"))
        return norm(conv(images))

    with torch.autocast("cpu", torch.bfloat16):
        assert len(foldable(Built(spied).eval(), IMAGE)) == 1
    assert seen == [False] * 3
