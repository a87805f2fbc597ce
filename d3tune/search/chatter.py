"""What libraries say for themselves goes to the run's log, and to the user where that is asked for."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# with what Python's own warnings are logged by; Ray has its own way, see `d3tune.search.executor.messages`
LIBRARIES = ("ray", "mlflow", "alembic", "optuna", "sqlalchemy", "urllib3", "py.warnings")
# said in every search: that its own Ray is closed to others, and that Tune kept no results, which the study does
HARMLESS = ("Token authentication is enabled", "Failed to fetch metrics for")
_sinks: list[logging.Handler] = []


def worth_keeping(record: logging.LogRecord) -> bool:
    """Whether a message says anything of this search; a filter for handlers."""
    return not record.getMessage().startswith(HARMLESS)


class LogFile(logging.FileHandler):
    """The run's log; a disk that is full is told of by what the search itself writes."""

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.FileHandler.emit`, which raises where the file cannot be made."""
        with suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing of a message that cannot be written."""

    def close(self) -> None:
        """See `logging.FileHandler.close`."""
        with suppress(OSError):
            super().close()


class Shown(logging.Handler):
    """Hands messages to whoever shows them, each line by itself."""

    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__()
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        """Show a message."""
        for line in self.format(record).splitlines():
            self._show(line)


@contextmanager
def kept(path: Path, show: Callable[[str], None] | None = None) -> Iterator[None]:
    """Send what libraries log to a file while the block lasts, and nothing of it to the terminal.

    Args:
        path: of the file; it is made with the first message.
        show: takes each line of it too; None keeps it in the file alone.
    """
    before = [(logger, list(logger.handlers), logger.propagate) for logger in map(logging.getLogger, LIBRARIES)]
    sinks: list[logging.Handler] = [LogFile(path, encoding="utf-8", delay=True)]
    sinks += [] if show is None else [Shown(show)]
    for sink in sinks:
        # here, as `redirect` puts these in place of what others have set up
        sink.addFilter(worth_keeping)
        sink.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    _sinks[:] = sinks
    logging.captureWarnings(True)
    redirect()
    try:
        yield
    finally:
        logging.captureWarnings(False)
        _sinks.clear()
        for logger, handlers, propagate in before:
            for added in logger.handlers:
                # also what `messages.send_to` has put there meanwhile
                if isinstance(added, LogFile):
                    added.close()
            # a logger without any would print what is said at the end of the process
            logger.handlers[:], logger.propagate = handlers or [logging.NullHandler()], propagate
        for sink in sinks:
            sink.close()


def redirect() -> None:
    """Send what libraries log where `kept` says; again after an import, since some of them put handlers in place."""
    for logger in map(logging.getLogger, LIBRARIES if _sinks else ()):
        logger.handlers[:], logger.propagate = _sinks, False


def shown() -> list[logging.Handler]:
    """Of where `kept` sends messages, what is not the file."""
    return [sink for sink in _sinks if isinstance(sink, Shown)]
