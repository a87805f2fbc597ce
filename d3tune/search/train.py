"""Retraining a configuration: select on validation where it does not say, then test once a seed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d3tune.errors import UsageError
from d3tune.files import writable_directory
from d3tune.search.configuration import Configuration, configuration_of, read_configuration
from d3tune.search.confirm import Selection, TestResult, configuration_document, evaluate, select
from d3tune.search.confirmed_model import ModelRequest
from d3tune.search.executor import Executor, StopSignal
from d3tune.search.executor.inprocess import InProcessExecutor
from d3tune.search.model import DOCUMENT
from d3tune.words import TEST_SELECTED, plural


@dataclass(frozen=True)
class Trained:
    """A retrained configuration.

    Attributes:
        document: as best.yaml holds it.
        selection: what validation fixed.
        test: the test result.
    """

    document: dict[str, Any]
    selection: Selection
    test: TestResult


def retrain(
    configuration: Mapping[str, Any] | str | Path,
    seeds: int = 5,
    data_dir: str | Path | None = None,
    say: Callable[[str], None] = lambda line: None,
    model: str | Path | None = None,
) -> Trained:
    """Retrain a configuration in this process, for scripts and notebooks: what `d3tune train` does.

    Args:
        configuration: a file that `d3tune export` wrote, or what it holds; ``dataset``, ``backbone`` and ``config``
            are enough.
        seeds: how many; those of the configuration's own confirmation come first.
        data_dir: where datasets are looked for; then ``$D3TUNE_DATA``, then ``./data``.
        say: takes one line an event.
        model: a new folder for the model of the first seed; None keeps none.

    Raises:
        UsageError: the configuration is wrong, its dataset is missing or has another content, or there can be no such
            folder.
    """
    folder = None if data_dir is None else Path(data_dir)
    _refuse_no_seeds(seeds)
    if isinstance(configuration, Mapping):
        where, found = "configuration", configuration_of(configuration, "configuration", folder)
    else:
        where, found = str(configuration), read_configuration(Path(configuration), folder)
    kept = None if model is None else Path(model)
    return _train(found, where, seeds, InProcessExecutor(), StopSignal(), say, kept)


def train(
    path: Path,
    n_seeds: int,
    data_dir: Path | None,
    executor: Executor,
    stop: StopSignal,
    say: Callable[[str], None],
    model: Path | None = None,
) -> Trained:
    """Retrain a configuration file.

    Args:
        path: see `read_configuration`.
        n_seeds: how many seeds; those of the file's selection come first.
        data_dir: where datasets are looked for.
        executor: where to train.
        stop: ends between seeds.
        say: takes one line an event.
        model: a new folder for the model of the first seed; None keeps none.

    Raises:
        UsageError: the file is wrong, its dataset is missing or has another content, or there can be no such folder.
    """
    _refuse_no_seeds(n_seeds)
    return _train(read_configuration(path, data_dir), str(path), n_seeds, executor, stop, say, model)


def _train(
    found: Configuration,
    where: str,
    n_seeds: int,
    executor: Executor,
    stop: StopSignal,
    say: Callable[[str], None],
    model: Path | None,
) -> Trained:
    if model is not None:
        _refuse_folder(model, found, where)
    job, selection, seeds = found.job, found.selection, found.seeds(n_seeds)
    if selection is None:
        by = f"by the test sets ({TEST_SELECTED})" if found.test_selected else "on validation"
        say(f"no selection in {where}: fixing updates, head and offset {by}")
        selection = select(job, seeds, executor, stop)
    if job.device != selection.device:
        say(f"{where} was made on {selection.device}; on {job.device} the last digits may differ")
    budget = f"for {selection.updates} updates" if selection.protocol == "validation" else "for the full budget"
    say(f"training on trainval {budget}, {plural(len(seeds), 'seed')} from {seeds[0]}")
    kept = None if model is None else ModelRequest(model.absolute(), {"file": Path(where).name, **found.source})
    result = evaluate(job, selection, seeds, executor, stop, model=kept)
    if model is not None:
        written = (model / DOCUMENT).is_file()
        say(f"wrote {model}" if written else f"head '{selection.head}' cannot be saved: there is no model")
    return Trained(configuration_document(job, found.identity, selection, result, found.source), selection, result)


def _refuse_no_seeds(n_seeds: int) -> None:
    if n_seeds < 1:
        raise UsageError(f"--seeds {n_seeds}: must be at least 1")


def _refuse_folder(folder: Path, found: Configuration, where: str) -> None:
    """Refuse a folder that is in use, before anything is trained.

    Raises:
        UsageError: it is, or the configuration is one that the test sets chose.
    """
    if found.test_selected:
        raise UsageError(f"{where}: {TEST_SELECTED}: nothing was fixed before the test, so there is no model to keep")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--model {folder}: is there already; give a new folder")
    writable_directory(folder.absolute().parent, "give another --model")
