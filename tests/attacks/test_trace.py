"""Traces: the best error so far within the radius, beside the backwards that each image spent."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segrobust.attacks import build_attack
from segrobust.attacks.gradient import BestError, History, Passes
from segrobust.attacks.trace import MOST_POINTS, ErrorTrace
from tests.attacks.toys import SmallNet, batch, share_wrong

MODEL = SmallNet().eval()
IMAGES, LABELS = batch(MODEL, count=3, size=8)


def traces(attack, images=IMAGES, labels=LABELS, seeds=(1, 2, 3)):
    result = attack(MODEL, images, labels, seeds=seeds)
    return result, result.trace.per_image()


@pytest.mark.parametrize("name", ["CEPGD", "TsallisPGD", "SharpPGD", "SEA", "Standard"])
def test_they_end_at_the_error_of_the_answer_and_never_fall(name):
    result, found = traces(build_attack(name, eps="8/255", steps=60))
    for n, trace in enumerate(found):
        spent, errors = zip(*trace, strict=True)
        assert list(spent) == sorted(set(spent)) and list(errors) == sorted(errors) and len(trace) <= MOST_POINTS
        assert spent[-1] == result.backwards[n] and errors[-1] == pytest.approx(float(result.pixel_error[n]), abs=1e-6)
        assert spent[0] > 1  # stages at larger radii hold no answer


def test_without_larger_radii_they_begin_at_the_first_gradient_and_hold_every_step():
    attack = build_attack("CEPGD", eps="8/255", steps=10, optimiser="pgd", radius_reduction=False, random_start=False)
    _, found = traces(attack)
    assert [[spent for spent, _ in trace] for trace in found] == [list(range(1, 11))] * 3
    assert [trace[0][1] for trace in found] == pytest.approx(share_wrong(MODEL, IMAGES, LABELS).tolist(), abs=1e-6)


def test_long_ones_are_thinned_evenly():
    attack = build_attack("CEPGD", eps="8/255", steps=97, optimiser="pgd", radius_reduction=False)
    _, found = traces(attack)
    assert [spent for spent, _ in found[0]] == [1 + 4 * n for n in range(25)]


def test_the_best_of_all_restarts_counts():
    given = {"eps": "4/255", "steps": 8, "optimiser": "pgd", "radius_reduction": False}
    result, found = traces(build_attack("CEPGD", restarts=3, **given))
    assert [trace[-1] for trace in found] == [
        [24, pytest.approx(float(error), abs=1e-6)] for error in result.pixel_error
    ]


def test_an_image_has_its_trace_whatever_the_others_of_its_batch():
    attack = build_attack("Standard", eps="8/255", steps=30)
    _, whole = traces(attack)
    alone = [traces(attack, IMAGES[n : n + 1], LABELS[n : n + 1], (n + 1,))[1][0] for n in range(3)]
    assert whole == alone


def test_images_that_leave_keep_their_own_count():
    """Engine 0 holds all three images, engine 1 the last two of them."""
    history = History(3, [Passes(None), Passes(torch.tensor([1, 2]))])
    history.errors = [
        BestError(0, (2,), torch.tensor([0.5, 0.25, 0.0])),
        BestError(1, (2, 3), torch.tensor([0.125, 0.75])),
        BestError(1, (4, 3), torch.tensor([0.5, 1.0])),
        BestError(0, (4, 3), torch.tensor([0.0, 0.0, 0.0])),
    ]
    assert ErrorTrace(history).per_image() == [
        [[2, 0.5], [4, 0.5]],
        [[2, 0.25], [5, 0.25], [7, 0.5]],
        [[2, 0.0], [5, 0.75], [7, 1.0]],
    ]


def test_points_that_are_measured_without_a_gradient_count_where_the_last_one_was_spent():
    history = History(1, [Passes(None)])
    history.errors = [BestError(0, (3,), torch.tensor([error])) for error in (0.25, 0.5)]
    assert ErrorTrace(history).per_image() == [[[3, 0.5]]]


def test_attacks_without_gradients_and_minimum_norm_ones_have_none():
    assert not any(traces(build_attack("UniformNoise", samples=3))[1])
    assert build_attack("FMN", steps=3)(MODEL, IMAGES, LABELS).trace is None
    assert np.shape(ErrorTrace(History(2)).per_image()) == (2, 0)
