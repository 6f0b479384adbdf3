"""Radii as people write them."""

from __future__ import annotations

import logging

import pytest

from segrobust.evaluation.jobs import plan_jobs
from segrobust.units import usual_eps_near


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        *((text, "8/255") for text in (0.03, "0.03", "0.031", 0.0314, "8/256")),
        *(("0.016", "4/255"), (0.0039, "1/255"), ("0.008", "2/255"), ("16/256", "16/255")),
        *((exact, "") for exact in ("8/255", "7.7/255", "7.9 / 255", 8 / 255, 0.0313725, "0.0156863", 4 / 255)),
        *((unlike, "") for unlike in (0, "0", 0.1, 0.5, 0.25 / 255, 1e-9, "0.02745")),
    ],
)
def test_a_radius_near_a_usual_one(written, meant):
    assert usual_eps_near(written) == meant


def test_it_is_said_once_and_for_linf_alone(caplog):
    with caplog.at_level(logging.WARNING):
        plan_jobs(["CEPGD", "CosPGD"], ["0.031", "8/255"])
        plan_jobs([{"type": "CEPGD", "norm": "L2"}], ["0.031"])
    assert [record.getMessage() for record in caplog.records] == [
        "eps 0.031 is 7.905/255; if you mean 8/255, write it so"
    ]
