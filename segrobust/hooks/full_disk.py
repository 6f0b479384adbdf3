"""A disk that fills up while a training runs ends it in one line, wherever that shows first."""

from __future__ import annotations

import errno
import logging
import sys

FULL = (errno.ENOSPC, errno.EDQUOT)


def disk_is_full(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in FULL


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
