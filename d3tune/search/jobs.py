"""What a worker is told to train, as plain values that travel to any process."""

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch

from d3tune import __version__
from d3tune.config import Device, Objective, SelectionProtocol, TrialConfig
from d3tune.data.dataset import Protocol, ProtocolView
from d3tune.data.prepared import open_prepared
from d3tune.data.tensors import Tensors, class_semantics, load_tensors
from d3tune.errors import RunError
from d3tune.files import home
from d3tune.method.compiling import begin_anew
from d3tune.method.generators import load_backbone
from d3tune.method.memory import keep_freed_memory
from d3tune.method.trainer import Trainer
from d3tune.method.training import start_training


@dataclass(frozen=True)
class TrainingJob:
    """One configuration to train on one protocol.

    Attributes:
        backbone: its name.
        config: hyper-parameters, all of them.
        dataset: path of the prepared dataset.
        dataset_hash: what its content must be.
        seed: of weights, batches and noise.
        threads: torch threads; a result is exactly repeatable with the same number.
        device: where to train; a worker without a GPU falls back to its CPU.
        objective: what is maximised on validation.
        splits: validation draws.
        protocol: what selects: validation, or published, which looks at the test sets at every evaluation.
        compile: whether losses are compiled.
    """

    backbone: str
    config: dict[str, Any]
    dataset: str
    dataset_hash: str
    seed: int
    threads: int = 1
    device: Device = "cpu"
    objective: Objective = "H"
    splits: tuple[int, ...] = (0,)
    protocol: SelectionProtocol = "validation"
    compile: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "TrainingJob":
        """Read back `to_dict`."""
        return cls(**{**value, "splits": tuple(value["splits"])})

    def selecting_trainings(self) -> list[Trainer]:
        """`trainings` of the protocol that selects."""
        return self.trainings("validation" if self.protocol == "validation" else "test")

    def trainings(self, protocol: Protocol) -> list[Trainer]:
        """Models ready to train: one a validation split, or the one of the test protocol.

        Raises:
            RunError: the dataset at the path is not the one of the search.
        """
        torch.set_num_threads(self.threads)
        keep_freed_memory()
        backbone = load_backbone(self.backbone)
        config = backbone.config.model_validate(self.config)
        splits = self.splits if protocol == "validation" else (0,)
        device = self.device if torch.cuda.is_available() else "cpu"
        tensors = [
            _with_semantics(
                _features(self.dataset, self.dataset_hash, protocol, split, config.feature_scaling, device), config
            )
            for split in splits
        ]
        if self.compile:
            # of the user's own: torch's default is a folder of all users
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(home() / "kernels"))
            begin_anew()
        return [start_training(backbone, view, config, self.seed, self.compile) for view in tensors]


def describe_worker(job: TrainingJob) -> dict[str, str]:
    """Where a job is trained: what decides whether its numbers repeat to the last bit."""
    return {
        "d3tune": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": str(job.threads),
        "device": torch.cuda.get_device_name() if job.device == "cuda" and torch.cuda.is_available() else "cpu",
        **({"compiled": "yes"} if job.compile else {}),
    }


@lru_cache(maxsize=4)
def _features(
    path: str, content_hash: str, protocol: Protocol, split: int, scaling: str, device: str
) -> tuple[ProtocolView, Tensors]:
    """A view and its scaled features, shared by the trials of one process; semantics differ from trial to trial."""
    dataset = open_prepared(Path(path))
    if dataset.content_hash != content_hash:
        raise RunError(
            f"{path}: holds content {dataset.content_hash[:12]}, the search was made for {content_hash[:12]}"
        )
    view = dataset.view(protocol, split)
    return view, load_tensors(view, scaling=cast(Any, scaling), device=device, shared=True)


def _with_semantics(shared: tuple[ProtocolView, Tensors], config: TrialConfig) -> Tensors:
    view, tensors = shared
    semantics = class_semantics(view, center=config.center_semantics, scale=config.semantics_scale)
    return replace(tensors, semantics=torch.from_numpy(semantics).to(tensors.train_x.device))
