"""Where Ray's messages go: to the run's log, and never to stdout, which is for data alone."""

import logging
from pathlib import Path
from typing import Any

from d3tune.search import chatter


def send_to(path: Path) -> None:
    """Send what Ray logs and prints in this process to a file, and to the user where `chatter.kept` was told to.

    Args:
        path: of the file; it is made with the first message.
    """
    logger = logging.getLogger("ray")
    handler = chatter.LogFile(path, encoding="utf-8", delay=True)
    logger.handlers[:] = [handler, *chatter.shown()]
    for sink in logger.handlers:
        sink.addFilter(chatter.worth_keeping)
    logger.propagate = False

    from ray._private import worker

    # Ray prints what befalls its processes and has no option against it
    worker.print_to_stdstream = _logged


def _logged(data: Any, ignore_prefix: bool = False) -> None:
    for line in data["lines"]:
        logging.getLogger("ray").warning("%s", line)
