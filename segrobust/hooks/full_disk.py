"""A disk that fills up while a training runs ends it in one line, wherever that shows first."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segrobust.core.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)


def disk_is_full(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in FULL


@contextmanager
def full_disk_told(folder: str | Path) -> Iterator[None]:
    """UserError: instead of the system's "no space left" in a training's folder."""
    try:
        yield
    except OSError as error:
        if not disk_is_full(error):
            raise
        raise UserError(f"training stopped: the disk of {folder} is full; make room and go on with --resume") from error


def raise_where_full(handler: logging.Handler) -> None:
    """Have a log's handler raise where the disk is full, and be silent from then on.

    Logging itself would print a traceback for every line, and go on.
    """
    tell = handler.handleError

    def handle(record: logging.LogRecord) -> None:
        if disk_is_full(sys.exc_info()[1]):
            handler.setLevel(logging.CRITICAL + 1)
            raise  # what logging is handling when it calls this
        tell(record)

    handler.handleError = handle
