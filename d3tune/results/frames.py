"""Runs as pandas data frames, for notebooks."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from d3tune.search.run import RunDirectory, open_run

if TYPE_CHECKING:
    import pandas as pd


COLUMNS = ["number", "state", "metric", "value", "update", "head", "seconds", "failure"]


class Run:
    """A finished or running search, to read.

    Attributes:
        directory: its paths and frozen search.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory

    def trials(self) -> "pd.DataFrame":
        """One row a trial: number, state, best value, its update and head, seconds, failure, hyper-parameters.

        Hyper-parameters are columns ``config.<name>``. A value is in [0, 1], and of the quantity that ``metric`` names:
        ``val/H`` of the validation protocol; of a search under the published protocol it is test-selected.

        Raises:
            RunError: the study has not begun, or its journal is damaged.
        """
        import pandas as pd

        from d3tune.search.study import read_trials, reports_of

        rows: list[dict[str, Any]] = []
        for trial in read_trials(self.directory.journal):
            reports = reports_of(trial)
            best = max(reports, key=lambda report: report.value, default=None)
            rows.append(
                {
                    "number": trial.number,
                    "state": trial.state.name,
                    "metric": self.directory.search.searched_metric,
                    "value": None if best is None else best.value,
                    "update": None if best is None else best.update,
                    "head": None if best is None else best.head,
                    "seconds": reports[-1].seconds if reports else 0.0,
                    "failure": trial.user_attrs.get("failure"),
                    **{f"config.{key}": value for key, value in trial.user_attrs.get("config", {}).items()},
                }
            )
        return pd.DataFrame(rows, columns=None if rows else COLUMNS)

    def summary(self) -> dict[str, Any] | None:
        """What the last command found: counts, winner, selection, test; None before one has ended."""
        return self.directory.read_summary()


def load_run(path: str | Path) -> Run:
    """Open a run by its directory, or by its name under ``$D3TUNE_HOME/runs``.

    Raises:
        UsageError: there is none.
    """
    return Run(open_run(str(path)))
