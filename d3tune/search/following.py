"""A store that a thread keeps in step with the study: it may be away for a while, and has everything at the end."""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from d3tune.errors import root_cause

SYNC_SECONDS = 3.0
RETRY_SECONDS = 1.0
# longer than MLflow waits for an SQLite file that another has locked
PATIENCE = 25.0
# how often the end looks whether it is time to give up, and from when on it says that it waits
LOOK_SECONDS = 0.1
SILENT_SECONDS = 5.0
# what a store that still takes things gets once the user has asked to stop
HURRIED_SECONDS = 10.0
# one step that takes its time, such as tables that are made or a model that is sent; once the user has asked to stop
STEP_SECONDS, HURRIED_STEP_SECONDS = 300.0, 20.0
# stores that are opened make or change their tables, by a library that does one database of a process at a time
OPENING = threading.Lock()
log = logging.getLogger(__name__)


class Following:
    """Calls what writes a store every few seconds, and says where the store stops taking what is written.

    Attributes:
        ending: whether nothing more comes: what was left for later is written now.
        given_up: set once nobody waits for it any more: a write on its way is to be the last.
    """

    def __init__(self, store: str, sync: Callable[[], None], say: Callable[[str], None]) -> None:
        """Prepare; nothing is written before `start`.

        Args:
            store: what it is and where, as a line begins with it.
            sync: writes what the study has and the store has not; one thread at a time calls it.
            say: takes one line when the store stops taking what is written, and one when it takes it again.
        """
        self._store, self._sync, self._say = store, sync, say
        self._lagging = self._stepping = self.ending = False
        self._taken = self._began = 0.0
        self._seen: set[tuple[object, ...]] = set()
        self._before = 0
        self._error: BaseException | None = None
        self.given_up = threading.Event()
        self._turn = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Write from a thread until `finish`."""
        self._thread = threading.Thread(target=self._loop, name="following", daemon=True)
        self._thread.start()

    def took(self, *what: object) -> None:
        """Note that the store answered or took something: as long as that is news, the end goes on.

        Args:
            what: names it. What was noted before, and is done again after an error, is no news.
        """
        if what not in self._seen:
            self._seen.add(what)
            self._taken, self._error = time.monotonic(), None

    @contextmanager
    def step(self) -> Iterator[None]:
        """Something that takes its time without an answer in between."""
        began, self._stepping = time.monotonic(), True
        try:
            yield
        finally:
            # it is no time without an answer
            self._taken = max(self._taken, self._began) + time.monotonic() - began
            self._stepping = False

    def note(self, error: Exception | None) -> None:
        """Say once that the store takes nothing, and once that it does again; None is a write that it took."""
        if error is not None:
            log.debug("%s did not take the last batch; it is written with the next", self._store, exc_info=error)
        if error is not None and not self._lagging:
            self._say(f"{self._store} takes nothing now ({root_cause(error)}); the search goes on without it")
        elif error is None and self._lagging:
            self._say(f"{self._store} answers again and has everything")
        self._lagging = error is not None

    def finish(
        self, close: Callable[[], None], patience: float, hurry: Callable[[], float | None] = lambda: None
    ) -> str | None:
        """Stop the thread and write the rest, which takes as long as it takes while the store goes on taking it.

        Args:
            close: writes what is written at the end alone; it notes what the store took of it.
            patience: seconds to go on trying while the store takes nothing.
            hurry: other such seconds once the user has asked to stop, with `HURRIED_SECONDS` for what the store does
                take; None until then. It is asked again and again.

        Returns:
            Why the store is not complete, or None where it is.
        """
        self._began, self._before = time.monotonic(), len(self._seen)
        self.ending = True
        self._wake.set()
        over = threading.Event()
        # in a thread, because a call that hangs cannot be ended
        threading.Thread(target=self._complete, args=(close, over), name="completing", daemon=True).start()
        try:
            return self._wait(over, patience, hurry)
        except BaseException:
            self.given_up.set()
            raise

    def _wait(self, over: threading.Event, patience: float, hurry: Callable[[], float | None]) -> str | None:
        said, asked = False, math.inf
        while not over.wait(LOOK_SECONDS):
            now, hurried = time.monotonic(), hurry()
            if hurried is not None:
                asked = min(asked, now)
            seconds = patience if hurried is None else hurried
            if self._late(now, asked, seconds):
                with self._turn:
                    if over.is_set():
                        return None
                    self.given_up.set()
                return self._missed(seconds)
            if not said and now - self._began > SILENT_SECONDS:
                self._say(f"{self._store} is behind and is being completed; Ctrl-C leaves the rest for later")
                said = True
        return None

    def _late(self, now: float, asked: float, seconds: float) -> bool:
        """Whether it is time to give up."""
        idle = now - max(self._began, self._taken)
        if self._stepping:
            return idle > max(seconds, STEP_SECONDS if asked == math.inf else HURRIED_STEP_SECONDS)
        return idle > seconds or now - asked > HURRIED_SECONDS

    def _missed(self, seconds: float) -> str:
        """Why it was given up."""
        if self._error is not None:
            return root_cause(self._error)
        taking = len(self._seen) > self._before
        return "it was behind, and not waited for" if taking else f"no answer within {seconds:g} s"

    def _complete(self, close: Callable[[], None], over: threading.Event) -> None:
        """Write the rest, again and again until it is there or nobody waits any more."""
        if self._thread is not None:
            self._thread.join()
        while not self.given_up.is_set():
            try:
                self._sync()
                with self._turn:
                    if self.given_up.is_set():
                        return
                    self._stepping = True
                close()
            except BaseException as error:
                log.debug("closing %s", self._store, exc_info=True)
                self._error, self._stepping = error, False
                time.sleep(RETRY_SECONDS)
            else:
                over.set()
                return

    def _loop(self) -> None:
        while not self.ending:
            self._wake.wait(SYNC_SECONDS)
            try:
                self._sync()
            except Exception as error:
                self._error = error
                if not self.given_up.is_set():
                    self.note(error)
            else:
                if not self.given_up.is_set():
                    self.note(None)
