"""A line that is said even where this process is ended by what it cannot handle."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# the shell's `read` fails where this process is gone and its end of the pipe with it
SCRIPT = 'read -r _ || printf "%s\\n" "$0" >&2'


@contextmanager
def last_words(line: str) -> Iterator[None]:
    """Have a line written to stderr if this process ends within the block, from a process beside it.

    Ray's native code ends the process that connects, past every handler, where its raylet dies meanwhile.

    Args:
        line: what to say; nothing is said where the block is left, by an error too.
    """
    try:
        # a session of its own: Ctrl-C is handled here, and must not end it first
        witness = subprocess.Popen(["/bin/sh", "-c", SCRIPT, line], stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603
    except OSError:
        # no shell, or no room for another process: then nobody speaks
        yield
        return
    assert witness.stdin is not None
    try:
        yield
    finally:
        # at once, whatever comes next; it may have been ended by someone
        with suppress(OSError):
            os.write(witness.stdin.fileno(), b"\n")
        with suppress(OSError):
            witness.stdin.close()
        witness.wait()
