"""What the ids in a data set's label files become: classes, void, or nothing that its config knows."""

from __future__ import annotations

import numpy as np

from segrobust.core.errors import UserError
from segrobust.datasets.inventory import Inventory
from segrobust.datasets.labels import VOID, class_ids, expected_ids, refuse_label_ids
from segrobust.datasets.survey import two_values
from segrobust.datasets.tally import Tally


def classes_of(tally: Tally, data: Inventory) -> dict[int, int | None]:
    """By the id in the file the class or the data set's void; None where it is neither."""
    return {one: _class_of(one, data) for one in sorted(tally.pixels)}


def _class_of(stored: int, data: Inventory) -> int | None:
    try:
        ids = class_ids(np.array([[stored]]), data.info, "", len(data.class_names), data.ignore_index)
    except UserError:
        return None
    return int(ids[0, 0])


def class_pixels(tally: Tally, data: Inventory) -> list[int]:
    """Pixels per class; ids that are no class count for nothing."""
    counts = [0] * len(data.class_names)
    for stored, meant in classes_of(tally, data).items():
        if meant is not None and meant != data.ignore_index:
            counts[meant] += tally.pixels[stored]
    return counts


def void_pixels(tally: Tally, data: Inventory) -> int:
    """Pixels that count for nothing."""
    return sum(tally.pixels[stored] for stored, meant in classes_of(tally, data).items() if meant == data.ignore_index)


def wrong_ids(tally: Tally, data: Inventory) -> list[str]:
    """One line for each thing that is wrong with the ids as a whole."""
    meant = classes_of(tally, data)
    found = [_no_classes([one for one, number in meant.items() if number is None], tally, data)]
    try:
        refuse_label_ids(data.pairs[0][1] if data.pairs else "", len(data.class_names), data.info)
    except UserError as error:
        found.append(str(error))
    valid = {number for number in meant.values() if number is not None}
    labels = sum(tally.sizes.values())
    if valid and valid <= {data.ignore_index}:
        found.append(f"every pixel of all {labels} labels is void ({data.ignore_index}): nothing can be measured")
    found += [two_values(valid, data.class_names, data.ignore_index, labels), _reduced_twice(meant, data)]
    return [one for one in found if one]


def _no_classes(wrong: list[int], tally: Tally, data: Inventory) -> str | None:
    if not wrong:
        return None
    classes, reduced = len(data.class_names), bool(data.info.get("reduce_zero_label"))
    one = wrong[0]
    listed = ", ".join(map(str, wrong[:8])) + (", ..." if len(wrong) > 8 else "")
    text = f"ids that are no class: {listed} ({one} in {tally.labels[one]} labels, the first {tally.first[one]}); "
    text += f"expected {expected_ids(np.array(wrong), classes, data.ignore_index, reduced)}"
    if wrong == [classes] and not reduced:
        text += f"; one too many: is 0 void (reduce_zero_label=True), or {classes} (ignore_index={classes})?"
    return text


def _reduced_twice(meant: dict[int, int | None], data: Inventory) -> str | None:
    """Files that somebody reduced: their 0 is a class, 255 is void already, and the last id is missing."""
    last = len(data.class_names)
    if not data.info.get("reduce_zero_label") or VOID not in meant or last in meant:
        return None
    return (
        f"{VOID} occurs in the labels and {last} does not: were they reduced already? reduce_zero_label makes 0 void "
        "and moves all others down by one; of such files it is to be False"
    )
