"""A private folder for Ray's files, removed with its process, or by the next search where that process was killed."""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "d3tune-"
OWNER = "owner"


class TemporaryFolder:
    """A folder that is held by this process until it is closed.

    Attributes:
        path: the folder.
    """

    def __init__(self) -> None:
        """Remove what killed processes of this user left, and make a new folder."""
        _sweep()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        # locked before it has its name: who sweeps never finds it free
        unnamed = self.path / f".{OWNER}"
        self._file = unnamed.open("w", encoding="utf-8")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        unnamed.rename(self.path / OWNER)

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._file.close()


def _sweep() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            with (folder / OWNER).open(encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            # another's, in use, or gone meanwhile
            continue
