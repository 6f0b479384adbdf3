"""What is read and written at each pixel's class is the same in the form for a CPU and in that for a GPU."""

from __future__ import annotations

import pytest
import torch

from segrobust.attacks import per_class
from segrobust.core import threats
from tests.attacks.waiting import counted

GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.randint(6, (3, 8, 9), generator=GENERATOR)
CHOSEN = torch.rand(3, 8, 9, generator=GENERATOR) > 0.3


def test_values_are_written_at_the_labels():
    planes, values = torch.randn(3, 7, 8, 9, generator=GENERATOR), torch.randn(3, 8, 9, generator=GENERATOR)
    found, expected = planes.clone(), planes.clone()
    per_class._write_compared(found, LABELS, values)
    for place in torch.cartesian_prod(*map(torch.arange, LABELS.shape)).tolist():
        image, row, column = place
        expected[image, LABELS[image, row, column], row, column] = values[image, row, column]
    assert torch.equal(found, expected)
    assert torch.equal(per_class.write(planes, LABELS, values), expected)
    assert torch.equal(planes, expected)  # in place


def test_pixels_per_class_are_counted_alike():
    expected = torch.stack([torch.bincount(one[on], minlength=7) for one, on in zip(LABELS, CHOSEN, strict=True)])
    assert torch.equal(per_class._count_compared(LABELS, CHOSEN, 7), expected)
    assert torch.equal(per_class.count(LABELS, CHOSEN, 7), expected)


def test_sorted_values_go_back_to_their_places():
    values = torch.randn(3, 50, generator=GENERATOR)
    order = values.argsort(1, descending=True)
    assert torch.equal(threats._in_order(values.gather(1, order), order), values)
    assert torch.equal(threats._in_order_gathered(values.gather(1, order), order), values)


@pytest.mark.parametrize("waits", [True, False])
def test_a_scatter_of_tensors_on_a_gpu_counts_as_a_wait(waits):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        planes, labels = torch.empty(1, 3, 4, 4, device="cuda"), torch.empty(1, 4, 4, dtype=torch.long, device="cuda")
        with counted() as seen:
            if waits:
                planes.scatter_(1, labels.unsqueeze(1), planes[:, :1])
                planes.scatter_add(1, labels.unsqueeze(1), planes[:, :1])
            else:
                planes.scatter_(1, labels.unsqueeze(1), 0.5)  # of a number
                per_class.write(planes, labels, planes[:, 0])
                per_class.count(labels, labels > 0, 3)
    assert sum(seen.values()) == 2 * waits
