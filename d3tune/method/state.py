"""Training state as a flat dictionary of tensors, so that it can be stored without pickle."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

Tensors = dict[str, Tensor]


def pack(modules: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]) -> Tensors:
    """Parameters, buffers and optimiser state by name: ``module/layer.weight``, ``adam/name/3/exp_avg``.

    Optimiser hyper-parameters are not part of it: they follow from the configuration.
    """
    tensors: Tensors = {}
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            tensors[f"{name}/{key}"] = value.detach().clone()
    for name, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                tensors[f"adam/{name}/{index}/{key}"] = value.detach().clone()
    return tensors


def unpack(
    tensors: Mapping[str, Tensor],
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
) -> None:
    """Load what `pack` made into modules and optimisers of the same configuration."""
    for name, module in modules.items():
        module.load_state_dict(_below(tensors, f"{name}/"))
    for name, optimizer in optimizers.items():
        state: dict[int, Tensors] = {}
        for key, value in _below(tensors, f"adam/{name}/").items():
            index, field = key.split("/")
            state.setdefault(int(index), {})[field] = value.clone()
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _below(tensors: Mapping[str, Tensor], prefix: str) -> Tensors:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
