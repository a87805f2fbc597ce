"""What of Ray's messages a run's log keeps."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from d3tune.search.executor import messages


@pytest.fixture
def untouched() -> Iterator[None]:
    """Ray's logger as it was, afterwards."""
    logger = logging.getLogger("ray")
    before = (list(logger.handlers), logger.propagate)
    yield
    for handler in logger.handlers:
        handler.close()
    logger.handlers[:], logger.propagate = before


def test_what_ray_says_in_every_search_is_not_kept(untouched: None, tmp_path: Path) -> None:
    messages.send_to(tmp_path / "log.txt")
    logger = logging.getLogger("ray.tune")
    logger.warning("Token authentication is enabled for this %s. Set this and that", "Ray cluster")
    logger.warning("Failed to fetch metrics for %d trial(s)", 2)
    assert not (tmp_path / "log.txt").exists()
    logger.warning("A worker died")
    assert (tmp_path / "log.txt").read_text(encoding="utf-8") == "A worker died\n"
