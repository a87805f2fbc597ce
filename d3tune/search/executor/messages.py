"""Where Ray's messages go: to the run's log, and never to stdout, which is for data alone."""

import logging
from pathlib import Path
from typing import Any

# said in every search: that its own Ray is closed to others, and that Tune kept no results, which the study does
HARMLESS = ("Token authentication is enabled", "Failed to fetch metrics for")


def send_to(path: Path) -> None:
    """Send what Ray logs and prints in this process to a file.

    Args:
        path: of the file; it is made with the first message.
    """
    logger = logging.getLogger("ray")
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.addFilter(lambda record: not record.getMessage().startswith(HARMLESS))
    logger.handlers[:] = [handler]
    logger.propagate = False

    from ray._private import worker

    # Ray prints what befalls its processes and has no option against it
    worker.print_to_stdstream = _logged


def _logged(data: Any, ignore_prefix: bool = False) -> None:
    for line in data["lines"]:
        logging.getLogger("ray").warning("%s", line)
