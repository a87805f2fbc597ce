"""The file of an SQLite store for MLflow: its log, and what a store that was deleted left of one."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from d3tune.errors import UsageError
from d3tune.search import mlflow_file
from d3tune.search.mlflow_file import LOCAL, create_store, disk, fold_log

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


def asked(path: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """Let the machine have these mounts."""
    file = tmp_path / "mounts"
    file.write_text("".join(f"{line} rw 0 0\n" for line in lines), encoding="utf-8")
    monkeypatch.setattr(mlflow_file, "MOUNTS", file)


@pytest.mark.parametrize(("kind", "mode"), [("ext4", "wal"), ("nfs4", "delete")])
def test_a_store_has_a_log_where_no_other_machine_can_open_it(
    kind: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts(tmp_path, monkeypatch, f"any / {kind}")
    create_store(f"sqlite:///{tmp_path / 'store.db'}")
    assert asked(tmp_path / "store.db", "PRAGMA journal_mode") == [(mode,)]
    assert asked(tmp_path / "store.db", "SELECT COUNT(*) FROM experiments") == [(1,)]
    assert [file.name for file in tmp_path.glob("*store.db*")] == ["store.db"]


def test_a_new_store_takes_nothing_from_the_log_of_one_that_was_deleted(tmp_path: Path, mlflow_template: Path) -> None:
    path = tmp_path / "store.db"
    shutil.copy(mlflow_template, path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("UPDATE experiments SET name = 'of the old store'")
        connection.commit()
        # as a process that is killed leaves it
        kept = {end: path.with_name(f"store.db{end}").read_bytes() for end in ("-wal", "-shm")}
    path.unlink()
    for end, content in kept.items():
        path.with_name(f"store.db{end}").write_bytes(content)
    create_store(f"sqlite:///{path}")
    assert asked(path, "SELECT name FROM experiments") == [("Default",)]
    assert asked(path, "PRAGMA integrity_check") == [("ok",)]
    assert path.with_name("store.db-wal.left").read_bytes() == kept["-wal"]


def test_the_log_of_a_store_that_is_there_is_left_to_it(tmp_path: Path, mlflow_template: Path) -> None:
    path = tmp_path / "store.db"
    shutil.copy(mlflow_template, path)
    path.with_name("store.db-wal").write_bytes(b"anything")
    create_store(f"sqlite:///{path}")
    assert path.with_name("store.db-wal").read_bytes() == b"anything"


def test_a_store_with_a_log_goes_on_without_where_other_machines_may_open_it(
    tmp_path: Path, mlflow_template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.db"
    shutil.copy(mlflow_template, path)
    assert asked(path, "PRAGMA journal_mode = WAL") == [("wal",)]
    mounts(tmp_path, monkeypatch, "server:/ / nfs")
    with closing(sqlite3.connect(path)) as other:
        other.execute("SELECT * FROM experiments").fetchall()
        with pytest.raises(UsageError, match="is shared now, and is in use"):
            create_store(f"sqlite:///{path}")
    create_store(f"sqlite:///{path}")
    assert asked(path, "PRAGMA journal_mode") == [("delete",)]
    assert asked(path, "SELECT name FROM experiments") == [("Default",)]


def test_after_a_fold_the_file_alone_has_everything(tmp_path: Path, mlflow_template: Path) -> None:
    path, copy = tmp_path / "store.db", tmp_path / "copy.db"
    shutil.copy(mlflow_template, path)
    asked(path, "PRAGMA journal_mode = WAL")
    with closing(sqlite3.connect(path)) as user:
        user.execute("UPDATE experiments SET name = 'renamed'")
        user.commit()
        shutil.copy(path, copy)
        assert asked(copy, "SELECT name FROM experiments") == [("Default",)]
        fold_log(f"sqlite:///{path}")
        shutil.copy(path, copy)
        assert asked(copy, "SELECT name FROM experiments") == [("renamed",)]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/scratch/a", "xfs"),
        ("/home/me/a", "nfs4"),
        ("/home/me/my disk/a", "ext4"),
        ("/home/mean/a", "overlay"),
        ("/a", "overlay"),
    ],
)
def test_the_innermost_mount_says_what_a_file_is_on(
    path: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ("any / overlay", "server:/home /home/me nfs4", "any /home/me/my\\040disk ext4", "any /scratch xfs")
    mounts(tmp_path, monkeypatch, *lines)
    assert disk(Path(path)) == kind


def test_a_machine_that_does_not_tell_its_mounts_has_no_local_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_file, "MOUNTS", tmp_path / "absent")
    assert disk(tmp_path) not in LOCAL
