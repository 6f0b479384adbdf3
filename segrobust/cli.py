"""The command line: parse, check what can be checked at once, and only then import torch.

Exit status: 0 done; 1 ran but something failed; 2 the user's input was wrong, told in one line; 130 interrupted;
141 whoever reads the output left early, as `head` does.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Sequence

from segrobust.commands.interrupt import Interrupts
from segrobust.core.errors import FailedElsewhere, RunFailed, UserError
from segrobust.core.processes import together
from segrobust.parsers import build_parser

READER_LEFT = 128 + 13  # as a shell reports SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    with Interrupts("run the same command again to go on") as interrupts:
        try:
            status = _run(argv, interrupts)
            sys.stdout.flush()
            return status
        except BrokenPipeError:
            if not _reader_left():
                raise
            return READER_LEFT
        except SystemExit as error:  # rich leaves so, with a status of its own
            if not isinstance(error.__context__, BrokenPipeError):
                raise
            return READER_LEFT
        except KeyboardInterrupt as error:
            return interrupts.tell(str(error) or interrupts.advice, error)
        except Exception as error:
            if interrupts.came:  # another process left first, or a data loader's worker
                return interrupts.tell(interrupts.advice, error)
            raise


def _reader_left() -> bool:
    """Whether nobody reads the output any more; then what is still to be written at Python's end goes nowhere."""
    output = sys.stdout.fileno()
    watch = select.poll()
    watch.register(output, 0)
    if not any(event & select.POLLERR for _, event in watch.poll(0)):
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, output)
    os.close(nowhere)
    return True


def _run(argv: Sequence[str] | None, interrupts: Interrupts) -> int:
    try:
        options = _parse(argv)
        interrupts.advice = getattr(options, "interrupted", interrupts.advice)
        with together():
            return options.run(options) or 0
    except FailedElsewhere as error:
        return error.status
    except UserError as error:
        _tell(f"error: {one_line(error)}", error)
        return 2
    except RunFailed as error:
        _tell(one_line(error), error)
        return 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    try:
        parser = build_parser()
        options, leftover = parser.parse_known_args(argv)
        if leftover:
            options.parser.refuse(leftover)
        return options
    except UserError as error:
        error.reported = os.environ.get("LOCAL_RANK", "0") != "0"  # all processes of a machine read the same words
        raise


def _tell(text: str, error: BaseException) -> None:
    """Print it, unless another process of the run does."""
    if not getattr(error, "reported", False):
        print(f"segrobust: {text}", file=sys.stderr)


def one_line(error: Exception) -> str:
    """The error's text in one line, without the traceback that a data loader's worker puts before it."""
    text = str(error)
    if "Original Traceback" in text:
        text = text.rpartition("UserError: ")[2]
    return " ".join(text.split())
