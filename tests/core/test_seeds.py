"""Seeds are part of what was measured: these numbers may never change."""

import numpy as np

from segrobust.core.seeds import image_seeds, mixed, seed_of


def test_the_numbers_of_all_runs_so_far():
    assert image_seeds(0, [0, 1, 2]) == [2968811710, 3964924996, 3141116543]
    assert seed_of(0, "attack", 3, 0, 5) == 3050400741673637265
    assert seed_of(7, "numpy", bits=32) == 2455403365
    assert mixed(2968811710, 1, bits=63) == 8940955880932756199
    assert mixed(1, 2, 3) == 3822189696


def test_mixed_is_numpys_own_state():
    for numbers in ((0,), (0, 5), (2**63, 1), (4, 5, 6)):
        sequence = np.random.SeedSequence(numbers)
        assert mixed(*numbers) == sequence.generate_state(1)[0]
        assert mixed(*numbers, bits=63) == int(sequence.generate_state(1, np.uint64)[0]) % 2**63
