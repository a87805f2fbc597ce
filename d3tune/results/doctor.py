"""A short examination of the installation: what is there, what is missing, how to get it."""

import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from d3tune.data.registry import list_datasets
from d3tune.errors import D3TuneError
from d3tune.files import home
from d3tune.search.tracking import store_uri

PACKAGES = ("d3tune", "torch", "ray", "optuna", "mlflow", "pandas", "numpy")


@dataclass(frozen=True)
class Finding:
    """One line of the examination.

    Attributes:
        what: the thing examined.
        state: what was found.
        problem: whether something must be mended before a search can run.
    """

    what: str
    state: str
    problem: bool = False


def examine(data_dir: Path | None) -> list[Finding]:
    """Examine packages, devices, folders, the MLflow store and the datasets."""
    return [*_packages(), _devices(), *_places(), *_datasets(data_dir)]


def _packages() -> list[Finding]:
    findings = []
    for name in PACKAGES:
        try:
            findings.append(Finding(name, version(name)))
        except PackageNotFoundError:
            findings.append(Finding(name, f"missing: pip install {name}", problem=True))
    return findings


def _devices() -> Finding:
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Finding("devices", f"{os.cpu_count()} CPU cores, " + (", ".join(gpus) or "no GPU"))


def _places() -> list[Finding]:
    try:
        return [Finding("D3TUNE_HOME", str(home())), Finding("MLflow store", store_uri(None))]
    except D3TuneError as error:
        return [Finding("folders", str(error), problem=True)]


def _datasets(data_dir: Path | None) -> list[Finding]:
    return [
        Finding(f"dataset {info.name}", info.problem or str(info.place), problem=False)
        for info in list_datasets(data_dir)
    ]
