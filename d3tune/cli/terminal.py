"""What a command says, prints and ends with."""

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

from d3tune.words import masked

if TYPE_CHECKING:
    from d3tune.search.executor import StopSignal

EXIT_USAGE, EXIT_INTERRUPTED = 2, 130
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def say(line: str) -> None:
    """One line for people: on stderr, so that stdout is data alone."""
    with suppress(OSError):
        # the terminal may be gone, which is no reason to end
        print(masked(line), file=sys.stderr, flush=True)  # noqa: T201


def put(value: Any) -> None:
    """A command's result on stdout: text as it is, anything else as JSON."""
    text = (
        value
        if isinstance(value, str)
        else json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str)
    )
    print(masked(text))  # noqa: T201


def fail(message: str, code: int) -> NoReturn:
    """End with one line and an exit code; what a terminal would obey instead of show is replaced."""
    line = " ".join(message.split())
    say("d3tune: " + "".join(sign if sign.isprintable() else "?" for sign in line))
    sys.exit(code)


@contextmanager
def draining(
    stop: "StopSignal",
    line: str = "stopping: trials end at their last checkpoint (again to stop at once)",
    tell: Callable[[str], None] = say,
) -> Iterator[None]:
    """First Ctrl-C, SIGTERM or SIGHUP: drain, and ``tell`` the line. Second: at once."""

    def handle(number: int, frame: object) -> None:
        if stop.requested:
            stop.at_once = True
            raise KeyboardInterrupt
        stop.requested = True
        tell(line)

    # under nohup a hangup is to be ignored; Ctrl-C works in a shell's background jobs too
    nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    obeyed = [number for number in SIGNALS if number != signal.SIGHUP or not nohup]
    before = {number: signal.signal(number, handle) for number in obeyed}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
