"""What the commands share that train configurations: they train on the machine that there is."""

import os

import pytest

from d3tune.cli.measuring import carried_out
from d3tune.errors import UsageError


def test_a_configuration_of_a_larger_machine_trains_on_this_one() -> None:
    threads = 64 * (os.cpu_count() or 1)
    assert carried_out(lambda executor, stop: executor.concurrency, "compare", "local", None, threads) == 1
    with pytest.raises(UsageError, match="--concurrency 0"):
        carried_out(lambda executor, stop: executor.concurrency, "compare", "local", 0, threads)
