"""Do two lists of class names mean the same classes in the same order? Scores are void where they do not."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from segrobust.core.errors import UserError

_LOG = logging.getLogger(__name__)


def plain_names(names: Sequence[str]) -> list[str]:
    """Names as they are compared: upper case, spaces, dashes and underscores make no difference."""
    return [re.sub(r"[\s_-]+", " ", str(name)).strip().lower() for name in names]


def made_up(names: Sequence[str]) -> bool:
    """Whether the names say nothing: there are none, or all are numbers (``class_0``, ...)."""
    return all(re.fullmatch(r"(class )?\d+", name) for name in plain_names(names))


def check_class_order(data: Sequence[str], other: Sequence[str], owner: str) -> None:
    """Compare a data set's class names with those of ``owner`` (the model, its checkpoint); other names are warned of.

    They are compared as :func:`plain_names`; :func:`made_up` ones say nothing.

    Raises:
        UserError: the same names in another order.
    """
    ours, theirs = plain_names(data), plain_names(other)
    if ours == theirs or made_up(data) or made_up(other):
        return
    if sorted(ours) == sorted(theirs):
        at = next(i for i, (own, given) in enumerate(zip(ours, theirs, strict=True)) if own != given)
        order = "reversed" if ours == theirs[::-1] else "in another order"
        raise UserError(f"the class names of the data set are those of {owner} {order}: class {at} is {data[at]!r} in "
                        f"the data and {other[at]!r} in {owner}; put classes into the order of the labels")  # fmt: skip
    only = next((name for name, plain in zip(data, ours, strict=True) if plain not in theirs), data[0])
    _LOG.warning("the data set names its %d classes otherwise than %s its %d (%r, for one, is no class there); "
                 "are they the same?", len(ours), owner, len(theirs), only)  # fmt: skip
