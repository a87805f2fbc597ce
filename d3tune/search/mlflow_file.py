"""The file of an SQLite store for MLflow: made with all its tables, or not at all."""

from pathlib import Path

from d3tune.files import make_new

PREFIX = "sqlite:///"


def file_of(uri: str) -> Path | None:
    """The file of an SQLite store; None of any other."""
    path = uri.removeprefix(PREFIX).partition("?")[0]
    return Path(path) if uri.startswith(PREFIX) and path else None


def absolute(uri: str) -> str:
    """A URI that names the same store from every folder: the file of an SQLite store by its whole path."""
    file = file_of(uri)
    if file is None:
        return uri
    return uri.replace(f"{PREFIX}{file}", f"{PREFIX}{file.absolute()}", 1)


def create_store(uri: str) -> None:
    """Make the file of an SQLite store where there is none.

    MLflow makes and changes its tables in many steps, which take seconds. A process killed among them would leave a
    store that no MLflow opens again; here it leaves a file beside it.

    Args:
        uri: of any store; only an SQLite file is made.

    Raises:
        OSError: it cannot be written.
    """
    path = file_of(uri)
    if path is not None and "?" not in uri and not path.exists():
        make_new(path, _make_tables)


def _make_tables(path: Path) -> None:
    from mlflow import MlflowClient

    MlflowClient(f"{PREFIX}{path}").search_experiments(max_results=1)
