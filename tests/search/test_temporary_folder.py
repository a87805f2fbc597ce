"""Ray's private folder: gone with its owner, also where that was killed; a live one's is left alone."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from d3tune.search.executor.temporary import TemporaryFolder

HOLD = "from d3tune.search.executor.temporary import TemporaryFolder; f = TemporaryFolder(); print(f.path); input()"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary folder, for this process and those it starts."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return place


def test_a_folder_is_removed_when_closed(place: Path) -> None:
    folder = TemporaryFolder()
    (folder.path / "results").mkdir()
    assert folder.path.parent == place
    folder.close()
    assert list(place.iterdir()) == []


def test_a_killed_owners_folder_is_removed_by_the_next_and_a_live_ones_is_not(place: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdin is not None
    left = Path(owner.stdout.readline().strip())
    (left / "session").mkdir()
    beside = TemporaryFolder()
    assert left.is_dir(), "its owner lives"
    owner.kill()
    owner.wait()
    owner.stdout.close()
    owner.stdin.close()
    after = TemporaryFolder()
    assert not left.exists()
    assert beside.path.is_dir()
    beside.close()
    after.close()


def test_what_is_not_ours_is_left_alone(place: Path) -> None:
    foreign, file, link = place / "d3tune-foreign", place / "d3tune-file", place / "d3tune-link"
    foreign.mkdir()
    (foreign / "data").touch()
    file.touch()
    target = place / "elsewhere"
    target.mkdir()
    (target / "owner").touch()
    link.symlink_to(target)
    TemporaryFolder().close()
    assert sorted(path.name for path in place.iterdir()) == [
        "d3tune-file",
        "d3tune-foreign",
        "d3tune-link",
        "elsewhere",
    ]
    assert (foreign / "data").exists()
    assert (target / "owner").exists()
