"""Training state as a flat dictionary of tensors, so that it can be stored without pickle."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from d3tune.method.adam import Adam

Tensors = dict[str, Tensor]


def pack(modules: Mapping[str, nn.Module], optimizers: Mapping[str, Adam]) -> Tensors:
    """Parameters, buffers and optimiser state by name: ``module/layer.weight``, ``adam/name/3/exp_avg``.

    They are no copies: training on changes them, as with torch's own ``state_dict``. Optimiser hyper-parameters are not
    part of it: they follow from the configuration.
    """
    tensors: Tensors = {}
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            tensors[f"{name}/{key}"] = value.detach()
    for name, optimizer in optimizers.items():
        for index, state in optimizer.state.items():
            for key, value in state.items():
                tensors[f"adam/{name}/{index}/{key}"] = value.detach()
    return tensors


def unpack(
    tensors: Mapping[str, Tensor],
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, Adam],
) -> None:
    """Load what `pack` made into modules and optimisers of the same configuration.

    Raises:
        RuntimeError, KeyError, ValueError: it is of another configuration.
    """
    for name, module in modules.items():
        module.load_state_dict(_below(tensors, f"{name}/"))
    for name, optimizer in optimizers.items():
        state: dict[int, Tensors] = {}
        for key, value in _below(tensors, f"adam/{name}/").items():
            index, field = key.split("/")
            state.setdefault(int(index), {})[field] = value
        _refuse_misfit(name, state, optimizer)
        # checkpoints are read on the CPU; a copy, since training changes it
        optimizer.state = {
            index: {field: value.to(optimizer.parameters[index].device, copy=True) for field, value in fields.items()}
            for index, fields in state.items()
        }


def updates_made(tensors: Mapping[str, Tensor]) -> int:
    """The number of updates that a state was stored after.

    Raises:
        KeyError, ValueError: it holds none.
    """
    update = tensors["update"]
    if update.shape != () or update.dtype != torch.int64 or update < 0:
        raise ValueError("'update' is no number of updates")
    return int(update)


def _refuse_misfit(name: str, state: Mapping[int, Tensors], optimizer: Adam) -> None:
    """Refuse moments that are not their parameter's: fused Adam takes their size on trust, and writes past their end.

    Raises:
        ValueError: a parameter, a field, a shape or a type is another.
    """
    for index, fields in state.items():
        if not 0 <= index < len(optimizer.parameters) or fields.keys() != {"step", "exp_avg", "exp_avg_sq"}:
            raise ValueError(f"the optimiser '{name}' has no state {index} of {', '.join(fields)}")
        like = optimizer.parameters[index]
        moments = (fields["exp_avg"], fields["exp_avg_sq"])
        if any(moment.shape != like.shape or moment.dtype != like.dtype for moment in moments):
            raise ValueError(f"state {index} of the optimiser '{name}' is of another shape or type")
        step = fields["step"]
        if step.shape != () or step.dtype != torch.float32 or not 0 <= step < torch.inf:
            raise ValueError(f"state {index} of the optimiser '{name}' has no number of steps")


def _below(tensors: Mapping[str, Tensor], prefix: str) -> Tensors:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
