"""Radii as people write them."""

from __future__ import annotations

import logging

import pytest

from segrobust.core.errors import UserError
from segrobust.core.units import parse_eps, usual_eps_near
from segrobust.studies.attack import plan_attacks


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        *((text, "8/255") for text in (0.03, "0.03", "0.031", 0.0314, "8/256")),
        *(("0.016", "4/255"), (0.0039, "1/255"), ("0.008", "2/255"), ("16/256", "16/255")),
        *((whole, "1/255") for whole in (1, "1", "1.0", "255/255.0")),
        *((exact, "") for exact in ("255/255", "1/255")),
        *((exact, "") for exact in ("8/255", "7.7/255", "7.9 / 255", 8 / 255, 0.0313725, "0.0156863", 4 / 255)),
        *((unlike, "") for unlike in (0, "0", 0.1, 0.5, 0.25 / 255, 1e-9, "0.02745")),
    ],
)
def test_a_radius_near_a_usual_one(written, meant):
    assert usual_eps_near(written) == meant


@pytest.mark.parametrize(
    ("written", "meant"), [(8, "8/255"), ("2.5", "2.5/255"), ("8/2.55", "8/255"), (255, "255/255")]
)
def test_a_radius_above_1_is_refused_with_the_one_meant(written, meant):
    with pytest.raises(UserError, match=f'at most 1, got .*; did you mean "{meant}"'):
        parse_eps(written)


@pytest.mark.parametrize("written", [256, "300/255"])
def test_no_radius_is_proposed_that_would_be_refused_too(written):
    with pytest.raises(UserError, match=f"at most 1, got {written!r}$"):
        parse_eps(written)


def test_true_is_no_radius():
    with pytest.raises(UserError, match=r"expected a number .* got True"):
        parse_eps(True)


def test_it_is_said_once_and_for_linf_alone(caplog):
    with caplog.at_level(logging.WARNING):
        plan_attacks(["CEPGD", "CosPGD"], ["0.031", "8/255"])
        plan_attacks([{"type": "CEPGD", "norm": "L2"}], ["0.031"])
    assert [record.getMessage() for record in caplog.records] == [
        "eps 0.031 is 7.905/255; if you mean 8/255, write it so"
    ]
