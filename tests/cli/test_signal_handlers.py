"""A search handles signals while it is going on, and only then."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def handlers() -> Iterator[list[Any]]:
    """Handlers of the program that calls, one a signal."""

    def make() -> Callable[[int, Any], None]:
        return lambda number, frame: None

    ours = [make() for _ in SIGNALS]
    before = [signal.signal(number, handler) for number, handler in zip(SIGNALS, ours, strict=True)]
    yield ours
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize(("limit", "code"), [("1h", 0), ("0s", 3)], ids=["succeeds", "fails"])
def test_a_search_puts_the_handlers_back(
    limit: str, code: int, handlers: list[Any], d3tune: Callable[..., Any], with_store: Path, tiny: tuple[str, ...]
) -> None:
    options = ("--dataset", "hanzi", *tiny, "--executor", "local", "--trials", "1", "--confirm-seeds", "0")
    end = d3tune("search", *options, "--time", limit)
    assert end.code == code, end.err
    assert [signal.getsignal(number) for number in SIGNALS] == handlers
