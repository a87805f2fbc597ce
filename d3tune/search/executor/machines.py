"""A cluster's machines as they come and go: new ones are looked at, and it is said where none is left that trains."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from d3tune.search.executor import StopSignal

LOOK_SECONDS = 2.0
# machines that are put in the place of lost ones come and go within this time and are no news
AWAY_SECONDS = 30.0
log = logging.getLogger(__name__)


@contextmanager
def watched(
    places: Callable[[], int], stop: StopSignal, say: Callable[[str], None], look: Callable[[Callable[[], bool]], None]
) -> Iterator[None]:
    """While the block runs, say where no machine of a cluster can train any more, and where one can again.

    What was running goes on once a machine joins, from its last checkpoints. Where the time of the search is over, it
    is told to stop: its trials would wait for a machine for ever.

    Args:
        places: how many trials the cluster has places for; what it raises counts as not known.
        stop: of the search.
        say: takes one line an event.
        look: looks at machines that are new, until what it is given says that it is over; it stops the search itself
            where one cannot train.
    """
    closed = threading.Event()
    watch = threading.Thread(target=_watch, args=(places, stop, say, look, closed), name="machines", daemon=True)
    watch.start()
    try:
        yield
    finally:
        closed.set()
        watch.join()


def _watch(
    places: Callable[[], int],
    stop: StopSignal,
    say: Callable[[str], None],
    look: Callable[[Callable[[], bool]], None],
    closed: threading.Event,
) -> None:
    since, said = time.monotonic(), False
    while not closed.wait(LOOK_SECONDS) and not stop.requested:
        now, found = time.monotonic(), _known(places)
        # the head may be away: that is another one's to say
        _known(lambda: look(lambda: closed.is_set() or stop.requested))
        if found is None:
            continue
        if found > 0:
            if said:
                say("a machine of the cluster can train again: the search goes on there")
            since, said = now, False
        elif now > since + AWAY_SECONDS:
            if not said:
                say(
                    "no machine of the cluster can train any more: trials wait until one joins, and go on from their "
                    "last checkpoints; Ctrl-C ends the search, to be resumed"
                )
            said = True
            if stop.deadline is not None and now > stop.deadline:
                say("the time is over and no machine of the cluster can train: the search ends, to be resumed")
                stop.requested = True


def _known(ask: Callable[[], Any]) -> Any:
    """What Ray answers, or None where it does not."""
    try:
        return ask()
    except Exception:
        log.debug("the cluster does not answer", exc_info=True)
        return None
