"""The errors a user can cause: each is one line that says what is wrong, where, and what to do."""

import difflib
from collections.abc import Iterable, Sequence

MANY = 20


class D3TuneError(Exception):
    """An error with a message for the user; the command line prints it alone, without a traceback.

    Attributes:
        exit_code: what the process exits with (1 failed, 2 usage, 3 no usable trial).
    """

    exit_code = 1


class UsageError(D3TuneError):
    """What was asked for is wrong: an unknown name, a missing file, an illegal value, what cannot be met."""

    exit_code = 2


class DatasetError(UsageError):
    """A dataset is missing, incomplete or inconsistent."""


class RunError(D3TuneError):
    """A run directory is damaged, in use, or of another search."""


class NoUsableTrialError(D3TuneError):
    """A search ended without one trial that could be selected."""

    exit_code = 3


def meant(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` where one of the known names is close to a mistyped one, else nothing."""
    close = difflib.get_close_matches(name.lower(), list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a mistyped name.

    Args:
        name: what the user wrote.
        known: every name that would have been right.

    Returns:
        ``"; did you mean 'x'?"`` where one is close, else ``"; known: a, b, c"``, of many only the nearest.
    """
    known = list(known)
    hint = meant(name, known)
    if hint:
        return hint
    if len(known) > MANY:
        near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.0)
        return f"; nearest of {len(known)}: {', '.join(near)}"
    return f"; known: {', '.join(known)}" if known else ""


def one_of(option: str, value: str, known: Sequence[str]) -> None:
    """Refuse a value that is none of the known ones, naming the nearest.

    Raises:
        UsageError: it is none of them.
    """
    if value not in known:
        raise UsageError(f"{option} {value}: no such choice{nearest(value, known)}")


def root_cause(error: BaseException) -> str:
    """The first line of what was raised first, at most 200 characters: clients wrap it in paragraphs."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    lines = text.strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
