"""Square: the published sizes, the queries that look at the whole image, and the loss that it counts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segrobust.attacks import build_attack
from segrobust.attacks.base import Problem
from segrobust.attacks.gradient import Engine
from segrobust.attacks.segmentation import Goal
from segrobust.attacks.square import Search
from segrobust.core.draws import Draws
from tests.attacks.toys import SmallNet, batch
from tests.known_answer.trace import Recorder

PUBLISHED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10000 queries (arXiv 1912.00049, section 4)


def test_the_area_halves_where_the_paper_halves_it():
    attack = build_attack("Square", steps=10000, spacing=None)
    for number, query in enumerate(PUBLISHED):
        for after, halved in ((0, number), (1, number + 1)):
            side = attack.grid(query + after, (1000, 1000)).side
            assert side == round((0.1 * 0.5**halved) ** 0.5 * 1000)


def test_every_tenth_query_and_the_last_look_at_the_image_as_it_is():
    recorder = Recorder(SmallNet())
    images, labels = batch(recorder.net, count=1, size=24)
    build_attack("Square", steps=35, smallest_cell=4)(recorder, images, labels)
    changed = [
        [not torch.equal(recorder.points[query], other) for other in recorder.points[:query]] for query in range(35)
    ]
    assert len(recorder.points) == 35
    squares = [query for query in range(1, 35) if query % 10 and query != 34]
    assert all(all(changed[query]) for query in squares)  # a query with squares shows what was never seen


class Flat(nn.Module):
    """Every pixel right by the same margin, whatever the image."""

    num_classes = 2

    def forward(self, images):
        return torch.stack([torch.ones_like(images[:, 0]), 0 * images[:, 0]], 1)


def test_squares_that_gain_nothing_are_not_kept():
    recorder = Recorder(Flat())
    images, labels = torch.full((1, 3, 24, 24), 0.5), torch.zeros(1, 24, 24, dtype=torch.long)
    build_attack("Square", steps=35, smallest_cell=4)(recorder, images, labels)
    looks = [query for query in range(1, 35) if torch.equal(recorder.points[query], recorder.points[0])]
    assert looks == [10, 20, 30, 34]


def test_the_loss_is_the_sigmoid_of_sixteen_median_margins():
    labels = torch.zeros(1, 1, 5, dtype=torch.long)
    logits = torch.tensor([[[[0.3, 0.1, -0.05, 0.2, 40.0]], [[0.0, 0.0, 0.0, 0.0, 0.0]]]])
    valid = torch.tensor([[[True, True, True, True, False]]])
    engine = Engine(nn.Module(), Goal(labels, valid))
    engine.model = lambda points: logits
    search = Search(build_attack("Square"), Problem(engine, torch.full((1, 3, 1, 5), 0.5), Draws.of((0,))))
    for _ in range(2):  # what a query finds must not change the scale of the next one
        loss = search._query(search.clean)[0, 0]
    expected = torch.sigmoid(16 * torch.tensor([0.3, 0.1, -0.05, 0.2]) / 0.1)  # of the two in the middle, the lower
    assert loss[:4].tolist() == pytest.approx(expected.tolist()) and loss[4] == 0
    engine.model = lambda points: 3 * logits
    expected = torch.sigmoid(3 * 16 * torch.tensor([0.3, 0.1, -0.05, 0.2]) / 0.1)  # the scale is that of the first
    assert search._query(search.clean)[0, 0, :4].tolist() == pytest.approx(expected.tolist())
