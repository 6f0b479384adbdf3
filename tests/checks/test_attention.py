"""Attention of torch's draws random numbers only where its dropout is on."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from segrobust.checks.probe import Watch


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_without_dropout_is_not_random(dropout, masked):
    query = torch.rand(1, 2, 5, 8)
    mask = torch.zeros(5, 5) if masked else None
    with torch.no_grad(), Watch() as seen:
        F.scaled_dot_product_attention(query, query, query, attn_mask=mask, dropout_p=dropout)
    assert bool(seen.sampled) == (dropout > 0)


def test_other_operations_that_draw_are_named():
    with torch.no_grad(), Watch() as seen:
        F.dropout(torch.ones(4), 0.5) + torch.rand(4)
        F.scaled_dot_product_attention(*[torch.rand(1, 1, 4, 8)] * 3)
    assert seen.sampled == {"native_dropout", "rand"} or seen.sampled == {"bernoulli_.float", "rand"}
