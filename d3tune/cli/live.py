"""The table that a search shows in a terminal while it goes on; lines of what has happened scroll by above it.

`frame` draws; `on_screen` shows. One thread does all writing, so that nothing tears and the search waits for no
terminal. The cursor is never hidden and rests below the table: whatever ends the process leaves the terminal usable.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import IO, TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from d3tune.cli.terminal import say as plain
from d3tune.words import TEST_SELECTED, masked

if TYPE_CHECKING:
    from d3tune.search.progress import Latest, Progress, RunningNow, View

# lines of the table at most, the empty one included that the cursor rests on
MOST_LINES = 25
# from so many on, a rule parts the table from what is above it
ROOMY = 8
# of a line; a terminal that is made narrower than a line would fold it
MOST_COLUMNS = 78
REFRESH_SECONDS = 0.5
# for a terminal that takes nothing
PATIENCE = 2.0
NONE = "–"


def frame(view: "View", width: int, height: int) -> Group:
    """The table as it fits a terminal: one line of text each, and an empty last one.

    Args:
        view: the search at one moment.
        width: of the terminal, in characters.
        height: of the terminal, in lines.
    """
    room = max(min(MOST_LINES, height - 1) - 1, 1)
    columns = max(min(MOST_COLUMNS, width - 1), 1)
    lines = [Text("─" * columns, style="dim")] if room >= ROOMY else []
    lines += [Text(_title(view), style="bold"), *(Text(line) for line in _facts(view))]
    if room > len(lines) + 1 and view.running:
        lines += _running_lines(view, room - len(lines))
    for line in lines[:room]:
        line.no_wrap = True
        line.truncate(columns, overflow="ellipsis")
    return Group(*lines[:room], Text(""))


def _title(view: "View") -> str:
    """What is being done, how much of it is, and the time."""
    parts = [view.phase]
    ended = view.complete + view.pruned + view.failed
    if view.total:
        parts.append(f"{view.done}/{view.total}")
    elif view.phase == "trials":
        parts.append(f"{ended}/{view.planned}")
    times = f"{duration(view.elapsed)} so far"
    if view.phase == "trials":
        times += f", {NONE if view.left is None else 'about ' + duration(view.left)} of trials left"
    return f"{' '.join(parts)}   {times}"


def _facts(view: "View") -> list[str]:
    """Counts, and the best so far, once the study is open."""
    if not view.metric:
        return []
    counts = f"{view.complete} complete, {view.pruned} pruned, {view.failed} failed"
    going = f"{len(view.running)} running, {view.to_go} to go"
    return [f"{counts}, {going}", _best_line(view)]


def _best_line(view: "View") -> str:
    if view.best is None:
        return f"best   {NONE}"
    number, best = view.best
    label = f" ({TEST_SELECTED})" if view.test_selected else ""
    accuracies = "  ".join(f"{name} {_figure(value)}" for name, value in (("S", best.S), ("U", best.U)))
    return (
        f"best   trial {number}  {view.metric} {best.value:.3f}{label}  {accuracies}  {best.head}, update {best.update}"
    )


def _running_lines(view: "View", room: int) -> list[Text]:
    """The running trials, as many as fit in so many lines, and how many more there are."""
    title = f"{'trial':>6} {'update':>15} {'H':>6} {'S':>6} {'U':>6} {'time':>9}  head"
    rows = sorted(view.running, key=lambda row: row[0].number)
    fitting = len(rows) if len(rows) < room else room - 2
    lines = [_running_line(trial, seconds) for trial, seconds in rows[:fitting]]
    if len(rows) > fitting:
        lines.append(f"{'':>6} … and {len(rows) - fitting} more")
    return [Text(title, style="dim"), *(Text(line) for line in lines)]


def _running_line(trial: "RunningNow", seconds: float) -> str:
    latest: Latest | None = trial.latest
    update = f"{0 if latest is None else latest.update}/{trial.updates}"
    figures = [NONE] * 3 if latest is None else [_figure(value) for value in (latest.H, latest.S, latest.U)]
    cells = " ".join(f"{cell:>6}" for cell in figures)
    return f"{trial.number:>6} {update:>15} {cells} {duration(seconds):>9}  {'' if latest is None else latest.head}"


def _figure(value: float) -> str:
    return f"{value:.3f}" if value == value else NONE


def duration(seconds: float) -> str:
    """A time for people: ``42s``, ``3m 07s``, ``2h 05m``, ``3d 04h``."""
    whole = max(round(seconds), 0)
    for size, unit, below, name in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // below:02}{name}"
    return f"{whole}s"


@contextmanager
def on_screen(progress: "Progress") -> Iterator[Callable[[str], None]]:
    """Show a search while the block lasts, where stderr is a terminal that can; nothing of the table stays.

    Args:
        progress: what to show.

    Yields:
        What says one line to people: above the table, or plainly where there is none.
    """
    if not _drawable(sys.stderr):
        yield plain
        return
    screen = _Screen(progress, sys.stderr)
    try:
        yield screen.say
    finally:
        screen.close()


def _drawable(stream: IO[str]) -> bool:
    console = Console(file=stream)
    return stream.isatty() and console.is_interactive and not console.is_dumb_terminal


class _Console(Console):
    """A terminal whose cursor stays visible, and which may go away without ending the search."""

    def show_cursor(self, show: bool = True) -> bool:
        return False

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class _Now:
    """What is drawn is what is so when it is drawn."""

    def __init__(self, screen: "_Screen") -> None:
        self._screen = screen

    def __rich__(self) -> Group:
        return self._screen.frame()


class _Screen:
    """A thread that shows lines and, below them, the table."""

    def __init__(self, progress: "Progress", stream: IO[str]) -> None:
        self._progress, self._stream = progress, stream
        self._console = _Console(file=stream, highlight=False)
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="screen", daemon=True)
        self._thread.start()

    def say(self, line: str) -> None:
        """Show a line soon; may be called by any thread and by signal handlers."""
        if self._thread.is_alive() and not self._closing.is_set():
            self._lines.put(line)
        else:
            plain(line)

    def close(self) -> None:
        """Show what was said, and remove the table."""
        self._closing.set()
        self._thread.join(PATIENCE)
        if not self._thread.is_alive():
            for line in self._said():
                plain(line)

    def _run(self) -> None:
        # the terminal may be gone, which is no reason to end
        with suppress(OSError, ValueError):
            while not self._closing.is_set():
                if _in_foreground(self._stream):
                    self._draw()
                else:
                    # another program has the terminal: lines alone, like any job in the background
                    self._tell()
                    self._closing.wait(REFRESH_SECONDS)
            self._tell()

    def _draw(self) -> None:
        """Keep the table there until the end, or until another program has the terminal."""
        live = Live(_Now(self), console=self._console, auto_refresh=False, transient=True, redirect_stdout=False)
        live.start()
        try:
            while not self._closing.is_set() and _in_foreground(self._stream):
                # lines take the table along
                if not self._tell():
                    live.refresh()
                self._closing.wait(REFRESH_SECONDS)
        finally:
            # what another program has written since is not to be wiped
            self._console.quiet = not _in_foreground(self._stream)
            live.stop()
            self._console.quiet = False

    def frame(self) -> Group:
        """The table as it is now."""
        return frame(self._progress.view(), *_size(self._stream))

    def _tell(self) -> bool:
        """Show what was said; whether there was anything."""
        lines = self._said()
        if lines:
            plainly = ("".join(sign if sign.isprintable() else "?" for sign in line.expandtabs()) for line in lines)
            shown = "\n".join(plainly)
            self._console.print(Text(masked(shown)), soft_wrap=True)
        return bool(lines)

    def _said(self) -> list[str]:
        lines = []
        with suppress(Empty):
            while True:
                lines.append(self._lines.get_nowait())
        return lines


def _size(stream: IO[str]) -> tuple[int, int]:
    """Columns and lines, as they are now; of a terminal that does not know them, what most have."""
    try:
        columns, lines = os.get_terminal_size(stream.fileno())
    except OSError:
        columns, lines = 0, 0
    return columns or 80, lines or 24


def _in_foreground(stream: IO[str]) -> bool:
    try:
        return os.tcgetpgrp(stream.fileno()) == os.getpgrp()
    except OSError:
        # not this process's own terminal, but one all the same
        return True
