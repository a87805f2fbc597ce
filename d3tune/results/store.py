"""Whether an MLflow store can be used: asked of the store itself, for seconds at most, without writing to it."""

import threading
from collections.abc import Callable
from pathlib import Path

from d3tune.errors import root_cause

SECONDS = 3.0


def store_fault(uri: str) -> str | None:
    """Why an MLflow store cannot be used, or None.

    An SQLite file that does not exist is no fault: the first search creates it.

    Args:
        uri: of a legal form, see `d3tune.search.tracking.check_uri`.

    Returns:
        One short line, also where the store does not answer within `SECONDS`.
    """
    ask = _question(uri)
    answers: list[str | None] = []
    # a thread, since no timeout of a client covers the look-up of a host's name
    thread = threading.Thread(target=lambda: answers.append(_outcome(ask)), daemon=True)
    thread.start()
    thread.join(SECONDS)
    return answers[0] if answers else f"no answer within {SECONDS:g} s"


def _question(uri: str) -> Callable[[], object]:
    if uri.startswith(("http", "databricks")):
        from mlflow import MlflowClient

        return lambda: MlflowClient(uri).search_experiments(max_results=1)
    return lambda: _list_tables(uri)


def _list_tables(uri: str) -> None:
    from sqlalchemy import create_engine, inspect

    engine = create_engine(uri)
    file = engine.url.database or ""
    if engine.dialect.name == "sqlite" and not Path(file).exists():
        return
    try:
        inspect(engine).get_table_names()
    finally:
        engine.dispose()


def _outcome(ask: Callable[[], object]) -> str | None:
    try:
        ask()
    except Exception as error:
        return root_cause(error)
    return None
