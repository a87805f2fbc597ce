"""One executor that several searches share: their trials take turns, then each is confirmed."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from d3tune.errors import UsageError
from d3tune.search.executor import Executor, StopSignal, TrialQueue

POLL_SECONDS = 0.5
# searches that are told to stop at once still close their records; what they train is not waited for
PATIENCE = 5.0


class Shared:
    """An executor for a known number of searches, each of which runs in a thread of its own.

    The trials of all begin together, once every search has brought its queue or has given up. The thread that calls
    `serve` runs them, since only the main thread gets signals.
    """

    def __init__(self, executor: Executor, searches: int, *, alone: bool) -> None:
        """Prepare.

        Args:
            executor: runs everything; the caller closes it.
            searches: how many `seat` is called for.
            alone: whether one `Executor.map` at a time may run, as within this process.
        """
        self._executor, self._left = executor, searches
        self._mapping: Any = threading.Lock() if alone else nullcontext()
        self._change = threading.Condition()
        self._queues: dict[int, TrialQueue] = {}
        self._seats = 0
        self._over = False
        self._error: BaseException | None = None

    @property
    def concurrency(self) -> int:
        """See `Executor.concurrency`; of all searches together."""
        return self._executor.concurrency

    def seat(self) -> "Seat":
        """The executor of one of the searches."""
        self._seats += 1
        return Seat(self, self._seats)

    def serve(self, stop: StopSignal) -> None:
        """Run the trials of all searches, then wait until each has left; what ends the trials is raised in each.

        Args:
            stop: of all; told to stop at once, this returns although a search may be within a training.
        """
        with self._change:
            self._wait(lambda: len(self._queues) == self._left, stop)
            # in the order of their seats, not in that of their threads
            queues = [self._queues[seat] for seat in sorted(self._queues)]
        try:
            if queues:
                self._executor.run_trials(*queues)
        except BaseException as error:
            self._error = error
        with self._change:
            self._over = True
            self._change.notify_all()
            self._wait(lambda: self._left == 0, stop)

    def run_trials(self, seat: int, queue: TrialQueue) -> None:
        """Bring the queue of one search to its seat, and wait until the trials of all have ended."""
        with self._change:
            self._queues[seat] = queue
            self._change.notify_all()
            self._change.wait_for(lambda: self._over)
        if self._error is not None:
            raise self._error

    def map(
        self,
        function: Callable[..., Any],
        items: Sequence[tuple[Any, ...]],
        stop: StopSignal,
        on_result: Callable[[int, Any], None] | None,
    ) -> list[Any]:
        """See `Executor.map`."""
        with self._mapping:
            return self._executor.map(function, items, stop, on_result)

    def leave(self) -> None:
        """One search is over, or was never begun."""
        with self._change:
            self._left -= 1
            self._change.notify_all()

    def _wait(self, until: Callable[[], bool], stop: StopSignal) -> None:
        """Wait, whatever signals arrive meanwhile: they are put into the stop signal, which all searches heed."""
        told: float | None = None
        while not until():
            if stop.at_once:
                told = told or time.monotonic()
                if time.monotonic() > told + PATIENCE:
                    return
            try:
                self._change.wait(POLL_SECONDS)
            except KeyboardInterrupt:
                continue


class Seat:
    """See `Shared.seat`."""

    def __init__(self, shared: Shared, number: int) -> None:
        """Take it; `close` gives it back."""
        self._shared, self._number, self._taken = shared, number, True

    @property
    def concurrency(self) -> int:
        """See `Executor.concurrency`."""
        return self._shared.concurrency

    def run_trials(self, *queues: TrialQueue) -> None:
        """See `Executor.run_trials`."""
        for queue in queues:
            self._shared.run_trials(self._number, queue)

    def share_gpus(self, gpus_per_trial: float) -> None:
        """See `Executor.share_gpus`.

        Raises:
            UsageError: always: what one search needs is not what all need.
        """
        raise UsageError("--gpus-per-trial auto: is for one search; give several a number")

    def map(
        self,
        function: Callable[..., Any],
        items: Sequence[tuple[Any, ...]],
        stop: StopSignal,
        on_result: Callable[[int, Any], None] | None = None,
    ) -> list[Any]:
        """See `Executor.map`."""
        return self._shared.map(function, items, stop, on_result)

    def close(self) -> None:
        """The search is over; done twice it is done once."""
        if self._taken:
            self._taken = False
            self._shared.leave()
