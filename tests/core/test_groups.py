from segrobust.core.groups import of_equal_size


def test_indices_are_apart_by_size_in_the_order_they_come():
    sizes = {9: (4, 5), 1: (4, 6), 2: (4, 5), 4: (4, 7), 3: (4, 6)}
    assert of_equal_size(sizes) == [[9, 2], [1, 3], [4]]
    assert of_equal_size({}) == []
