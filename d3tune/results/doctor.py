"""A short examination of the installation: what is there, what is missing, how to get it."""

import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from d3tune.data.registry import DatasetInfo, list_datasets
from d3tune.errors import D3TuneError
from d3tune.files import home
from d3tune.results.store import store_fault
from d3tune.search.tracking import store_uri

STORE_VARIABLE, OPTION = "MLFLOW_TRACKING_URI", "--tracking-uri "
PACKAGES = ("d3tune", "torch", "ray", "optuna", "mlflow", "pandas", "numpy")


@dataclass(frozen=True)
class Finding:
    """One line of the examination.

    Attributes:
        what: the thing examined.
        state: what was found.
        problem: whether something must be mended before a search can run, or before it can use this.
        note: whether it is worth knowing although nothing is broken.
    """

    what: str
    state: str
    problem: bool = False
    note: bool = False


def examine(data_dir: Path | None) -> list[Finding]:
    """Examine packages, devices, folders, the MLflow store and the datasets; nothing is written but a probe.

    Raises:
        DatasetError: a folder to look for datasets in cannot be read.
    """
    datasets = [_dataset(info) for info in list_datasets(data_dir)]
    return [*_packages(), _devices(), *_places(), *datasets]


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
        place = Finding("D3TUNE_HOME", str(home()))
    except D3TuneError as error:
        place = Finding("D3TUNE_HOME", str(error), problem=True)
        if not os.environ.get(STORE_VARIABLE):
            return [place]
    return [place, _store()]


def _store() -> Finding:
    given = os.environ.get(STORE_VARIABLE)
    try:
        uri = store_uri(None)
    except D3TuneError as error:
        return Finding("MLflow store", f"{STORE_VARIABLE}: {str(error).removeprefix(OPTION)}", problem=True)
    fault = store_fault(uri)
    if fault is None:
        return Finding("MLflow store", uri)
    advice = (
        f"mend or start it, or set another {STORE_VARIABLE}"
        if given
        else "move it away; d3tune sync RUN writes it again"
    )
    return Finding("MLflow store", f"{uri}: {fault}; {advice}", problem=True)


def _dataset(info: DatasetInfo) -> Finding:
    what = f"dataset {info.name}"
    if info.problem is None:
        return Finding(what, str(info.place))
    if info.hidden:
        return Finding(what, f"{info.place}: {info.problem}; rename one to use both", note=True)
    return Finding(what, f"{info.problem}; mend or remove {info.place}", problem=True)
