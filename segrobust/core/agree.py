"""A user's error of one process as that of all of them, so that all can go on with something else.

    data = agree(lambda: read(path))        # in every process; nothing in it waits for another process

Without it an error of one process ends all (``core.processes``), whoever catches it: the others would wait for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from segrobust.core.errors import UserError
from segrobust.core.processes import MPI_COUNTS, exchange

_T = TypeVar("_T")
_E = TypeVar("_E", bound=Exception)
_COUNTS = ("WORLD_SIZE", *MPI_COUNTS)


def agree(work: Callable[[], _T]) -> _T:
    """What ``work`` gives in this process, once it has come to its end in all of them.

    Raises:
        UserError: where it is one in any process, in all of them; its own, or that of the first process that has one.
    """
    made, own = None, None
    try:
        made = work()
    except UserError as error:
        own = error
    said = next((text for text in exchange("" if own is None else f"error: {own}") if text), None)
    if said is None:
        return made
    raise of_all(own or UserError(said.removeprefix("error: ")))


def of_all(error: _E) -> _E:
    """The error, marked as one that every process of the run has."""
    error.of_all = True
    return error


def is_of_all(error: Exception) -> bool:
    """Whether every process of the run has this error, so that all may catch it and go on together."""
    alone = not any(int(os.environ.get(name) or 1) > 1 for name in _COUNTS)
    return alone or getattr(error, "of_all", False)
