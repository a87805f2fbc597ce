"""Files that are written whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from d3tune.files import write_atomically, write_json, write_new


def half(path: Path) -> None:
    path.write_text("new, but no", encoding="utf-8")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("old", ["old", None])
def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(tmp_path: Path, old: str | None) -> None:
    path = tmp_path / "record.json"
    if old is not None:
        path.write_text(old, encoding="utf-8")
    with pytest.raises(OSError, match="No space left") as error:
        write_atomically(path, half)
    assert str(path) in str(error.value)
    assert {item.name: item.read_text(encoding="utf-8") for item in tmp_path.iterdir()} == (
        {} if old is None else {path.name: old}
    )


def test_a_reader_sees_the_old_content_until_the_new_is_whole(tmp_path: Path) -> None:
    path, seen = tmp_path / "record.json", []
    path.write_text("old", encoding="utf-8")

    def write(temporary: Path) -> None:
        temporary.write_text("new", encoding="utf-8")
        seen.append(path.read_text(encoding="utf-8"))

    write_atomically(path, write)
    assert [*seen, path.read_text(encoding="utf-8")] == ["old", "new"]
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_private_is_never_readable_by_others(tmp_path: Path) -> None:
    path, modes = tmp_path / "plan.json", []
    before = os.umask(0o022)
    try:
        write_json(path, {"a": 1}, private=True)
        modes.append(path.stat().st_mode & 0o777)
        write_json(path, {"a": 2})
        modes.append(path.stat().st_mode & 0o777)
    finally:
        os.umask(before)
    assert modes == [0o600, 0o644]


def test_a_new_file_is_whole_and_made_once_also_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(source: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    path = tmp_path / "new"
    assert write_new(path, "first")
    assert not write_new(path, "second")
    assert path.read_text(encoding="utf-8") == "first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["new"]
