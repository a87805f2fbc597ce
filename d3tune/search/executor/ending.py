"""The end of a process that shall end at once: what must be done is done last, and nothing waits for anything."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

_last: list[Callable[[], None]] = []


def before_end(do: Callable[[], None]) -> None:
    """Have something done by `end_now`."""
    _last.append(do)


def end_now(code: int) -> NoReturn:
    """End this process without what libraries do at the end of an interpreter, which may wait for what is gone."""
    for do in _last:
        do()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
