"""The one error for a user's mistake: the command line prints it as one line and exits with status 2."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Says what was expected, what came and what to do, in one line."""


class RunFailed(RuntimeError):
    """Says in one line what failed in a run that had begun: the command line prints it and exits with status 1."""


class FailedElsewhere(RunFailed):
    """Another process of the same run failed and tells why; ``status`` is the exit status of all of them."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in something that does not go on by itself: says in one line how to go on."""


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def as_user_error(
    describe: Callable[[Exception], str], kinds: tuple[type[Exception], ...] = (Exception,)
) -> Iterator[None]:
    """Inside, an error of these kinds becomes a :class:`UserError` with the text that ``describe`` gives it."""
    try:
        yield
    except UserError:
        raise
    except kinds as error:
        raise UserError(describe(error)) from error


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not among the ``known`` ones, with the nearest of them."""
    known = sorted(known)
    lower = {candidate.lower(): candidate for candidate in known}
    near = [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
    return UserError(f"unknown {kind} {name!r}; {hint}")
