"""Random numbers that are part of what was measured: these may never change, on any device."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from segrobust.core.draws import Draws
from tests.core.splitmix import WORD, at, halves, key_of, uniform_of, word

MANY = 200_000
# of splitmix64.c (Vigna), by its seed
PUBLISHED = {
    0: [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F],
    1234567: [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431],
}


@pytest.mark.parametrize("key", PUBLISHED)
def test_words_are_the_published_ones(key):
    expected = PUBLISHED[key]
    found = Draws(torch.tensor([key])).words(len(expected))[0].tolist()
    assert [one & WORD for one in found] == expected
    assert [word(key, n) for n in range(len(expected))] == expected


def test_numbers_of_all_runs_from_now_on():
    draws = Draws.of([0, 1])
    assert (draws.uniform(3) * 2**24).int().tolist() == [[3980520, 1870208, 9432929], [8455878, 5430712, 6682892]]
    assert (draws.at(0).at(1).uniform() * 2**24).int().tolist() == [9941870, 7692874]
    normal = [[0.6349132657051086, 0.28316062688827515, -1.536185622215271]]
    laplace = [[0.643433690071106, 0.25224578380584717, -2.0835068225860596]]
    torch.testing.assert_close(draws.normal(3)[:1], torch.tensor(normal), rtol=1e-7, atol=0)
    torch.testing.assert_close(draws.laplace(3)[:1], torch.tensor(laplace), rtol=1e-7, atol=0)


@pytest.mark.parametrize("seed", [0, 7, 2968811710, 2**63 + 5, 2**64 - 1])
def test_everything_equals_whole_numbers_of_python(seed):
    draws = Draws.of([3, seed])
    assert draws.keys[1] == key_of(seed)
    for number in (0, 1, 1000, 2**40):
        key = at(key_of(seed), number)
        assert draws.at(number).keys[1].item() & WORD == key
        assert draws.at(number).uniform(5)[1].tolist() == uniform_of(seed, number, 5)
        even = [(half - 2**32 * (half >> 31) + 0.5) / 2**31 for half in halves(key, 4)]
        np.testing.assert_allclose(draws.at(number).normal(4)[1], stats.norm.ppf((1 + np.array(even)) / 2), rtol=1e-5)
        np.testing.assert_allclose(
            draws.at(number).laplace(4)[1], stats.laplace.ppf((1 + np.array(even)) / 2), rtol=1e-5
        )


@pytest.mark.parametrize("kind", ["uniform", "normal", "laplace"])
def test_neither_neighbours_nor_shape_nor_calls_before_change_a_bit(kind):
    def drawn(draws, *shape):
        return getattr(draws, kind)(*shape)

    state = torch.random.get_rng_state()
    draws = Draws.of(range(5)).at(3)
    whole = drawn(draws, 3, 7, 11)
    assert whole.shape == (5, 3, 7, 11) and whole.dtype == torch.float32
    assert torch.equal(drawn(draws, 3, 7, 11), whole)
    rows = torch.tensor([4, 1])
    assert torch.equal(drawn(draws.subset(rows), 3, 7, 11), whole[rows])
    assert torch.equal(drawn(Draws.of([2]).at(3), 231)[0], whole[2].flatten())
    assert torch.equal(drawn(draws, 20), whole.flatten(1)[:, :20])
    assert torch.equal(drawn(draws), whole.flatten(1)[:, 0])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_uniform_numbers_are_even():
    numbers = Draws.of(range(4)).uniform(MANY).double()
    assert numbers.min() >= 0 and numbers.max() < 1
    assert (numbers * 2**24 == (numbers * 2**24).round()).all()
    for stream in numbers:
        assert abs(stream.mean() - 0.5) < 4 / (12 * MANY) ** 0.5
        assert stream.var().item() == pytest.approx(1 / 12, abs=1e-3)
        counts = stream.histc(256, 0, 1)
        assert stats.chi2.sf((counts - MANY / 256).square().sum().item() / (MANY / 256), 255) > 1e-3
        last_bits = (stream * 2**24).long().remainder(256).bincount(minlength=256)
        assert stats.chi2.sf((last_bits - MANY / 256).square().sum().item() / (MANY / 256), 255) > 1e-3


@pytest.mark.parametrize(("kind", "distribution"), [("normal", stats.norm), ("laplace", stats.laplace)])
def test_other_numbers_have_their_distribution(kind, distribution):
    numbers = getattr(Draws.of([1]), kind)(MANY)[0].double().numpy()
    assert np.isfinite(numbers).all()
    assert stats.kstest(numbers, distribution.cdf).pvalue > 1e-3
    assert abs(numbers.mean()) < 4 * distribution.std() / MANY**0.5
    assert (np.abs(numbers) > distribution.ppf(0.9995)).mean() == pytest.approx(1e-3, rel=0.25)


def test_neighbours_have_nothing_in_common():
    """Seeds, restarts and steps, and positions."""
    bound = 5 / MANY**0.5
    by_seed = Draws.of(range(16)).uniform(MANY)
    by_number = torch.cat([Draws.of([5]).at(number).uniform(MANY) for number in range(16)])
    nested = torch.cat(
        [Draws.of([5]).uniform(MANY), Draws.of([5]).at(0).uniform(MANY), Draws.of([5]).at(0).at(0).uniform(MANY)]
    )
    for streams in (by_seed, by_number, nested):
        off = streams.corrcoef() - torch.eye(len(streams))
        assert off.abs().max() < bound
    for gap in (1, 2, 3, 64, 1024):
        pairs = torch.stack([by_seed[0][:-gap], by_seed[0][gap:]])
        assert pairs.corrcoef()[0, 1].abs() < bound
    bits = Draws.of(range(2)).words(MANY // 4)
    differing = sum(((bits[0] ^ bits[1]) >> n & 1).float().mean().item() for n in range(64)) / 64
    assert differing == pytest.approx(0.5, abs=0.005)
