"""Trials of several searches, which take turns at the same workers."""

import time

from d3tune.search.executor import TrialQueue
from d3tune.search.study import Assignment


class Turns:
    """Hands out trials: the next one is of the search with the fewest running, among those with the fewest begun.

    Attributes:
        queues: of the searches; a place in it names one.
    """

    def __init__(self, *queues: TrialQueue) -> None:
        """Take the searches; those of one command share their stop signal."""
        self.queues = queues

    def next(self) -> tuple[int, Assignment] | None:
        """The place of a search and its next trial, or None where none has one to give."""
        for place in sorted(range(len(self.queues)), key=self._share):
            assignment = _next(self.queues[place])
            if assignment is not None:
                return place, assignment
        return None

    @property
    def over(self) -> bool:
        """Whether every search is being stopped, or its time is over: none gives a trial any more."""
        return all(_stopped(queue) for queue in self.queues)

    def _share(self, place: int) -> tuple[int, int]:
        ledger = self.queues[place].ledger
        return len(ledger.running), ledger.standing.begun


def _next(queue: TrialQueue) -> Assignment | None:
    return None if _stopped(queue) else queue.next_trial()


def _stopped(queue: TrialQueue) -> bool:
    late = queue.stop.deadline is not None and time.monotonic() > queue.stop.deadline
    return late or queue.stop.requested
