"""TRADES and MART as formulas: their values and gradients against the papers' equations, written out here."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from segrobust.core.errors import UserError
from segrobust.recipes import Seen, build_paired_loss
from segrobust.recipes.paired import kl, log_not_rival, mean

K = 4


@pytest.fixture
def given():
    """Clean and attacked logits that require gradients, labels and which of them are valid; some pixels are wrong."""
    generator = torch.Generator().manual_seed(0)
    clean, attacked = (3 * torch.randn(2, K, 5, 6, dtype=torch.float64, generator=generator) for _ in range(2))
    labels = torch.randint(K, (2, 5, 6), generator=generator)
    valid = torch.rand(2, 5, 6, generator=generator) > 0.2
    return clean.requires_grad_(), attacked.requires_grad_(), labels.masked_fill(~valid, 0), valid


def terms(loss, given, **losses):
    clean, attacked, labels, valid = given
    own = {name: F.cross_entropy(one.movedim(1, -1)[valid], labels[valid])
           for name, one in (("clean", clean), ("attacked", attacked))}  # fmt: skip
    seen = (Seen({"decode.loss_ce": own[name]}, one) for name, one in (("clean", clean), ("attacked", attacked)))
    return build_paired_loss(loss)(*seen, labels, valid)


def total(terms):
    return sum(value for name, value in terms.items() if "loss" in name)


def rows(given):
    """The valid pixels as rows: probabilities of both and labels."""
    clean, attacked, labels, valid = given
    return clean.movedim(1, -1)[valid].softmax(1), attacked.movedim(1, -1)[valid].softmax(1), labels[valid]


def trades(given, beta):
    p, r, y = rows(given)
    return -p[range(len(y)), y].log().mean() + beta * (p * (p / r).log()).sum(1).mean()


def mart(given, beta):
    p, r, y = rows(given)
    at = range(len(y))
    rival = r.masked_fill(F.one_hot(y, K).bool(), 0).amax(1)
    boosted = -r[at, y].log() - (1 - rival).log()
    return (boosted + beta * (1 - p[at, y]) * (p * (p / r).log()).sum(1)).mean()


@pytest.mark.parametrize(("name", "formula", "beta"), [("TRADES", trades, 6.0), ("MART", mart, 5.0)])
def test_value_and_gradients_are_those_of_the_paper(name, formula, beta, given):
    found, expected = total(terms(name, given)), formula(given, beta)  # the defaults are the papers'
    torch.testing.assert_close(found, expected)
    for one, other in zip(*(torch.autograd.grad(value, given[:2]) for value in (found, expected)), strict=True):
        assert other.abs().max() > 1e-3
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(total(terms(dict(type=name, beta=1), given)), formula(given, 1))


@pytest.mark.parametrize("name", ["TRADES", "MART"])
def test_without_an_attack_there_is_no_divergence(name, given):
    clean, _, labels, valid = given
    found = terms(name, (clean, clean, labels, valid))
    assert found["loss_kl"] == 0 and found["kl"] == 0
    assert terms(name, given)["kl"] > 0.1 and not terms(name, given)["kl"].requires_grad


@pytest.mark.parametrize("name", ["TRADES", "MART"])
def test_void_pixels_have_no_part(name, given):
    clean, attacked, _, valid = given
    before = total(terms(name, given))
    with torch.no_grad():
        clean.movedim(1, -1)[~valid] = 50 * torch.randn(int((~valid).sum()), K, dtype=torch.float64)
    assert torch.equal(total(terms(name, given)), before)
    assert not torch.autograd.grad(total(terms(name, given)), attacked)[0].movedim(1, -1)[~valid].any()
    assert mean(kl(clean, attacked), torch.zeros_like(valid)) == 0


@pytest.mark.parametrize("sure", [50.0, 1e4])
def test_a_sure_and_wrong_network_has_a_finite_loss_and_gradient(sure):
    logits = torch.tensor([0.0, sure, -sure, 1.0]).view(1, 4, 1, 1).requires_grad_()
    labels = torch.zeros(1, 1, 1, dtype=torch.long)
    found = -log_not_rival(logits, labels)
    torch.testing.assert_close(found, torch.full_like(found, sure - 1), rtol=1e-2, atol=0)
    assert torch.isfinite(torch.autograd.grad(found.sum(), logits)[0]).all()
    other = logits.detach().flip(1)
    assert torch.isfinite(kl(logits.detach(), other)).all()


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (dict(type="TRADE"), "did you mean trades"),
        (dict(type="TRADES", lamda=1), "did you mean|known: beta"),
        (dict(type="MART", beta=-1), "beta >= 0, got -1"),
        (dict(beta=1), "a config with type"),
    ],
)
def test_wrong_settings_are_told(spec, told):
    with pytest.raises(UserError, match=told):
        build_paired_loss(spec)
    assert build_paired_loss("mart") == build_paired_loss(build_paired_loss(dict(type="MART", beta=5.0)))
