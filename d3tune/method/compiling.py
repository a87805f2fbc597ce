"""Compiled losses: one graph a loss; on a GPU a CUDA graph, where launching kernels takes most of a small step."""

import gc
from collections.abc import Callable
from typing import Any

import torch

from d3tune.errors import D3TuneError

Loss = Callable[..., Any]


def compiled(loss: Loss, device: torch.device, backend: str = "inductor") -> Loss:
    """A loss of fixed shapes, compiled whole at its first call.

    Args:
        loss: from tensors, and collections of them, to a scalar, its parts by name, and perhaps more tensors.
        device: on a GPU the graph is replayed from memory of its own (``reduce-overhead``).
        backend: of ``torch.compile``.

    Raises:
        D3TuneError: by the loss, where it cannot be compiled here.
    """
    _without_pickles()
    mode = "reduce-overhead" if device.type == "cuda" and backend == "inductor" else None
    graph = torch.compile(loss, fullgraph=True, dynamic=False, backend=backend, mode=mode)

    def call(*arguments: Any) -> Any:
        # the compiler is imported by now
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

        try:
            total, parts, *more = graph(*arguments)
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            reason = " ".join(str(error).split())[:200]
            raise D3TuneError(f"--compile: torch cannot compile the losses here: {reason}; leave it out") from None
        # the next replay writes over what this one returned; the parts are read after many
        return total, {name: part.clone() for name, part in parts.items()}, *more

    return call


def _without_pickles() -> None:
    """Leave out torch's caches of graphs: it unpickles what it finds there."""
    from torch._functorch import config as functorch
    from torch._inductor import config as inductor

    functorch.enable_autograd_cache = False
    inductor.fx_graph_cache = False
    inductor.fx_graph_remote_cache = False


def begin_anew() -> None:
    """Forget what was compiled for trials before: torch compiles one function for few configurations only.

    A compiled loss and its model refer to each other, so the collector must take them.
    """
    torch.compiler.reset()
    gc.collect()
