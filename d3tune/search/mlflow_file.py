"""The file of an SQLite store for MLflow: made with all its tables, or not at all."""

from pathlib import Path

from d3tune.files import make_new

PREFIX = "sqlite:///"


def create_store(uri: str) -> None:
    """Make the file of an SQLite store where there is none.

    MLflow makes and changes its tables in many steps, which take seconds. A process killed among them would leave a
    store that no MLflow opens again; here it leaves a file beside it.

    Args:
        uri: of any store; only an SQLite file is made.

    Raises:
        OSError: it cannot be written.
    """
    path = Path(uri.removeprefix(PREFIX))
    if uri.startswith(PREFIX) and "?" not in uri and not path.exists():
        make_new(path, _make_tables)


def _make_tables(path: Path) -> None:
    from mlflow import MlflowClient

    MlflowClient(f"{PREFIX}{path}").search_experiments(max_results=1)
