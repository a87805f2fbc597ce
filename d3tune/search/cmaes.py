"""Optuna's CMA-ES sampler, which keeps its state as a pickle in the study, with a reader that runs nothing."""

import io
import pickle
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from d3tune.errors import RunError

STATE = "cma:optimizer"
# what a state is made of; nothing else is looked up, so that nothing else can be called
ALLOWED = {
    ("cmaes._cma", "CMA"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise RunError(f"the study's journal: the state of CMA-ES names {module}.{name}; it is not ours")
        return super().find_class(module, name)


class CmaEsSampler(optuna.samplers.CmaEsSampler):
    """CMA-ES whose state is read from the study as data alone."""

    def _restore_optimizer(self, completed_trials: Sequence[FrozenTrial]) -> Any:
        for trial in reversed(completed_trials):
            parts = {key: value for key, value in trial.system_attrs.items() if key.startswith(STATE)}
            if parts:
                text = "".join(str(parts.get(f"{STATE}:{index}", "")) for index in range(len(parts)))
                return _read(text)
        return None


def _read(text: str) -> Any:
    try:
        return _Reader(io.BytesIO(bytes.fromhex(text))).load()
    except RunError:
        raise
    except Exception as error:
        # a damaged pickle may raise anything
        raise RunError(f"the study's journal: the state of CMA-ES is damaged: {error}") from None
