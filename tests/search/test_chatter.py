"""Where libraries' own messages go: to the run's log, to the user only where asked for, and never elsewhere."""

import importlib
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from d3tune.search import chatter, stores
from d3tune.search.executor import messages

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

DOWN = "http://127.0.0.1:9"


def test_messages_go_to_the_file_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log.txt"
    with chatter.kept(path):
        assert not path.exists()
        for name in ("mlflow.store", "alembic.runtime", "optuna.samplers", "urllib3.connectionpool"):
            logging.getLogger(name).warning("from %s", name)
    text = path.read_text(encoding="utf-8")
    assert text.splitlines()[0] == "WARNING mlflow.store: from mlflow.store"
    assert len(text.splitlines()) == 4
    logging.getLogger("urllib3").warning("after the end")
    assert capfd.readouterr() == ("", "")
    assert path.read_text(encoding="utf-8") == text


def test_verbose_shows_them_line_by_line_and_keeps_them_too(tmp_path: Path) -> None:
    shown: list[str] = []
    # it puts a handler of its own in place
    importlib.import_module("ray")
    with chatter.kept(tmp_path / "log.txt", shown.append):
        logging.getLogger("mlflow").error("one\ntwo")
        messages.send_to(tmp_path / "log.txt")
        logging.getLogger("ray.tune").warning("from Ray")
        logging.getLogger("ray.tune").warning("Failed to fetch metrics for 3 trial(s)")
    logging.getLogger("mlflow").error("after the end")
    assert shown == ["ERROR mlflow: one", "two", "WARNING ray.tune: from Ray"]
    assert "from Ray" in (tmp_path / "log.txt").read_text(encoding="utf-8")


def test_a_library_that_is_imported_meanwhile_is_sent_there_again(tmp_path: Path) -> None:
    path, own = tmp_path / "log.txt", logging.StreamHandler()
    logger = logging.getLogger("alembic")
    with chatter.kept(path):
        # as MLflow does when it is imported
        logger.handlers = [own]
        chatter.redirect()
        logger.warning("upgraded")
        logging.getLogger("ray.tune").warning("Failed to fetch metrics for 3 trial(s)")
    assert path.read_text(encoding="utf-8") == "WARNING alembic: upgraded\n"


def test_pythons_own_warnings_are_kept(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with chatter.kept(tmp_path / "log.txt"):
            warnings.warn("old form", UserWarning, stacklevel=1)
    assert "UserWarning: old form" in (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert capfd.readouterr().err == ""


def test_a_full_disk_prints_nothing(tmp_path: Path, no_file_larger: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with no_file_larger(10), chatter.kept(tmp_path / "log.txt"):
        logging.getLogger("mlflow").error("more than ten bytes")
    assert capfd.readouterr().err == ""


def test_a_log_that_cannot_be_made_costs_the_message_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with chatter.kept(tmp_path / "gone" / "log.txt"):
        logging.getLogger("ray").warning("said to nobody")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("verbose", [False, True])
def test_of_a_real_search_whose_store_is_down(
    verbose: bool,
    command: Callable[..., Any],
    toy_options: Callable[..., tuple[str, ...]],
    isolated: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # what is looked at is said with the first tries
    monkeypatch.setattr(stores, "PATIENCE", 3.0)
    options = (*toy_options(), "--trials", "1", "--confirm-seeds", "0", "--executor", "local", "--tracking-uri", DOWN)
    end = command("search", *options, *(["-v"] if verbose else []), "--json")
    assert end.code == 0, end.err
    (log,) = isolated.glob("runs/*/log.txt")
    kept = log.read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("WARNING urllib3.connectionpool: ") for line in kept)
    assert ("urllib3" in end.err) == verbose
    if verbose:
        assert set(kept) <= set(end.err.splitlines())
    assert end.out.startswith("{")
