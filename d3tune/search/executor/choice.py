"""Which executor a command gets."""

from collections.abc import Callable, Sequence
from pathlib import Path

from d3tune.config import Resources
from d3tune.search.executor import Executor, StopSignal
from d3tune.search.executor.inprocess import InProcessExecutor
from d3tune.search.executor.site import Site


def open_executor(
    resources: Resources,
    log_file: Path,
    stop: StopSignal,
    num_gpus: int | None = None,
    sites: Sequence[Site] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Executor:
    """Start what the resources name; the caller closes it.

    Args:
        resources: with ``executor``.
        log_file: where Ray's own messages go.
        stop: of the command, which may be told to stop while Ray starts.
        num_gpus: logical GPUs of a private Ray; None detects the real ones.
        sites: what every node of a cluster must have.
        say: takes one line where a cluster has no machine left that could train.

    Raises:
        UsageError: a trial can never fit, or a node of the cluster lacks something.
        D3TuneError: Ray does not start, or the cluster cannot be reached.
    """
    if resources.executor == "local":
        return InProcessExecutor()
    # Ray takes seconds to import
    from d3tune.search.executor.ray import RayExecutor

    return RayExecutor(resources, log_file, num_gpus, stop, sites, say)
