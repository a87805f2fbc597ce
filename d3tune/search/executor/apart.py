"""Ray's processes in process groups of their own."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def ray_apart() -> Iterator[None]:
    """Have what Ray starts within the block lead process groups of their own.

    Terminals, ``timeout``, systemd and schedulers signal the whole group of a search. It shall reach the search alone,
    which drains: a raylet that is ended with it would take the workers and their next checkpoint along.
    """
    from ray._private import services as ray_services

    services: Any = ray_services
    plain = services.ConsolePopen

    def start(*arguments: Any, **options: Any) -> Any:
        return plain(*arguments, process_group=0, **options)

    # Ray has no option for it
    services.ConsolePopen = start
    try:
        yield
    finally:
        services.ConsolePopen = plain


@contextmanager
def on_loopback() -> Iterator[None]:
    """Have a Ray that is started within the block listen on 127.0.0.1 alone.

    Asked for that address, Ray takes the outward one of the machine instead, and listens on all of them: other machines
    might join. It does as it is asked only where it takes clusters for impossible.
    """
    from ray._private import ray_constants

    constants: Any = ray_constants
    plain = constants.ENABLE_RAY_CLUSTER
    # Ray has an option for it, which is read when it is imported, and then holds for --address too
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = plain
