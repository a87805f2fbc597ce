"""The code of a confirmed model in MLflow, which copies this file into it; its weights are the artifact ``model``."""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc.model import PythonModel

from d3tune.search.mlflow_columns import columns_of
from d3tune.search.model import load_model
from d3tune.search.scoring import score_rows


class ConfirmedModel(PythonModel):
    """Features (n, X) as they were measured to a table: each row's class, and its calibrated score of every class."""

    def load_context(self, context: Any) -> None:
        """Read the weights."""
        self._model = load_model(Path(context.artifacts["model"]))

    # MLflow warns of a hint that it can neither take for a schema nor knows as an array's
    def predict(
        self,
        context: Any,
        model_input: np.ndarray,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Classify an array or a table of features."""
        found = score_rows(self._model, np.asarray(model_input, dtype=np.float32))
        label, *columns = columns_of(found.classes)
        labels = [found.classes[number] for number in found.best(1)[:, 0]]
        return pd.DataFrame(found.scores, columns=columns).assign(**{label: labels})[[label, *columns]]


mlflow.models.set_model(ConfirmedModel())
