"""The confirmed winner as an MLflow model: found again by its key instead of logged twice, and registered by name."""

import os
import re
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d3tune import __version__
from d3tune.errors import RunError, UsageError
from d3tune.search.mlflow_columns import LABEL, columns_of
from d3tune.search.model import DOCUMENT, Model, load_model

if TYPE_CHECKING:
    from mlflow import MlflowClient

# else each file that is copied draws bars on the terminal
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

NAME = "model"
KEY_TAG, TRIAL_TAG = "d3tune.model", "d3tune.trial"
CODE = Path(__file__).with_name("mlflow_code.py")
READY = "READY"


def check_name(name: object) -> str | None:
    """The name of a registered model, where one is given.

    Raises:
        UsageError: MLflow takes no such name, or none everywhere.
    """
    if name is None:
        return None
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,198}", name):
        raise UsageError(f"--register {name}: letters, digits, blanks and . _ - name a model, a letter or digit first")
    return name


def model_writer(
    folder: Path, register: str | None, say: Callable[[str], None]
) -> Callable[["MlflowClient", str, str], None] | None:
    """What writes a run's model to MLflow, given client, experiment and parent run; None where there is no model.

    Args:
        folder: of the model.
        register: see `log_confirmed`.
        say: takes one line where a model was to be registered and there is none, or a damaged one.
    """
    if not (folder / DOCUMENT).exists():
        if register is not None:
            say(f"--register {register}: the run has no model yet: nothing is registered")
        return None
    try:
        model = load_model(folder)
    except RunError as error:
        say(f"{error}; MLflow gets no model")
        return None
    return lambda client, experiment, run_id: log_confirmed(client, experiment, run_id, model, register)


def log_confirmed(
    client: "MlflowClient", experiment: str, run_id: str, model: Model, register: str | None = None
) -> None:
    """Write a model to MLflow under a run, and register it; nothing that is there is written again.

    Args:
        client: of the store.
        experiment: its experiment's id.
        run_id: of the search's parent run.
        model: read from its folder, which is copied.
        register: the registered model's name; None registers nothing.
    """
    with warnings.catch_warnings():
        # MLflow warns of its own code where it is first used
        warnings.simplefilter("ignore")
        logged = _found(client, experiment, run_id, model) or _logged(client, experiment, run_id, model)
        if register is not None:
            _register(client, register, logged, run_id, model)


def _found(client: "MlflowClient", experiment: str, run_id: str, model: Model) -> Any:
    """The same model there, or None; what an interrupted process left unfinished is deleted."""
    ready = None
    for found in client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
        if found.tags.get(KEY_TAG) != model.document.key:
            continue
        if str(found.status) == READY and ready is None:
            ready = found
        else:
            client.delete_logged_model(found.model_id)
    return ready


def _logged(client: "MlflowClient", experiment: str, run_id: str, model: Model) -> Any:
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    created = client.create_logged_model(
        experiment, NAME, run_id, tags=_tags(model), params=_params(model), model_type="d3tune"
    )
    with tempfile.TemporaryDirectory(prefix="d3tune-") as place:
        _save(Path(place, NAME), created, run_id, model)
        client.log_model_artifacts(created.model_id, str(Path(place, NAME)))
    client.log_outputs(run_id, [LoggedModelOutput(created.model_id, step=0)])
    # last: a later process takes it for finished then
    return client.finalize_logged_model(created.model_id, LoggedModelStatus.READY)


def _save(place: Path, created: Any, run_id: str, model: Model) -> None:
    """MLflow's own folder of a model: this package's code, the weights, what goes in and comes out; no pickle."""
    from mlflow import pyfunc
    from mlflow.models import Model as Described

    described = Described(
        artifact_path=created.artifact_location, run_id=run_id, model_uuid=created.model_id, model_id=created.model_id
    )
    pyfunc.save_model(
        str(place),
        python_model=str(CODE),
        artifacts={"model": str(model.path)},
        signature=_signature(model),
        input_example=_example(model),
        # else MLflow imports the model in a process of its own to find out
        pip_requirements=[f"d3tune=={__version__}"],
        mlflow_model=described,
    )


def _example(model: Model) -> Any:
    """A row (1, X) in the middle of what the features ranged over."""
    predictor = model.predictor
    half = (predictor.divisor / 2).nan_to_num(posinf=0.0)
    return (predictor.shift + half)[None].numpy()


def _signature(model: Model) -> Any:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    columns: list[Any] = [
        ColSpec("string" if name == LABEL else "double", name) for name in columns_of(model.document.classes)
    ]
    features = TensorSpec(np.dtype(np.float32), (-1, model.document.features.width))
    return ModelSignature(inputs=Schema([features]), outputs=Schema(columns))


def _register(client: "MlflowClient", name: str, logged: Any, run_id: str, model: Model) -> None:
    if not client.search_registered_models(f"name = '{name}'", max_results=1):
        client.create_registered_model(name)
    versions = client.search_model_versions(f"name = '{name}'")
    if model.document.key not in [version.tags.get(KEY_TAG) for version in versions]:
        # not by models:/ and its id, which a store that is a database looks up in the process's own store
        source, model_id = logged.artifact_location, logged.model_id
        client.create_model_version(name, source, run_id, tags=_tags(model), model_id=model_id)


def _tags(model: Model) -> dict[str, str]:
    trial = model.document.source.get("trial")
    return {KEY_TAG: model.document.key, **({} if trial is None else {TRIAL_TAG: str(trial)})}


def _params(model: Model) -> dict[str, str]:
    document = model.document
    shown = {"backbone": document.backbone, "head": document.head, "updates": document.updates, "seed": document.seed}
    return {
        **{name: str(value) for name, value in shown.items()},
        "dataset": document.dataset.name,
        "configuration": document.configuration,
        "test_H": str(document.test["H"]),
    }
