"""A curve with fewer points and the same area below it."""

import heapq
from collections.abc import Sequence


def thinned(x: Sequence[float], y: Sequence[float], most: int) -> list[int]:
    """Which points of a curve to keep, so that its shape and the area below it hardly change.

    Points go one by one (after Visvalingam and Whyatt, 1993): of the one that adds the least area by going and the one
    that takes the least, whichever leaves the sum of all changes nearer to 0.

    Args:
        x: abscissae of the n points in the order of the curve.
        y: their ordinates.
        most: how many may stay, at least 2.

    Returns:
        Indices, rising; first and last point stay.
    """
    last = len(x) - 1
    before, after = [i - 1 for i in range(last + 1)], [i + 1 for i in range(last + 1)]
    change: dict[int, float] = {}
    heaps: tuple[list[tuple[float, int]], list[tuple[float, int]]] = ([], [])

    def measure(i: int) -> None:
        """What the area changes by without a point that is no end."""
        if 0 < i < last:
            p, n = before[i], after[i]
            change[i] = ((x[n] - x[i]) * (y[p] - y[i]) - (x[p] - x[i]) * (y[n] - y[i])) / 2
            heapq.heappush(heaps[change[i] > 0], (abs(change[i]), i))

    for i in range(1, last):
        measure(i)
    changed = 0.0
    while len(change) + 2 > most:
        gone = min(_smallest(heaps, change), key=lambda i: abs(changed + change[i]))
        changed += change.pop(gone)
        p, n = before[gone], after[gone]
        after[p], before[n] = n, p
        measure(p)
        measure(n)
    return sorted({0, last, *change})


def _smallest(heaps: tuple[list[tuple[float, int]], ...], change: dict[int, float]) -> list[int]:
    """The point of the smallest change in each heap; what no longer holds is thrown out."""
    found = []
    for sign, heap in enumerate(heaps):
        while heap and (abs(change.get(heap[0][1], float("nan"))) != heap[0][0] or (change[heap[0][1]] > 0) != sign):
            heapq.heappop(heap)
        if heap:
            found.append(heap[0][1])
    return found
