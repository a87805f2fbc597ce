"""What tests of every part use: a home of their own, an empty MLflow store, the command line in this process."""

import importlib.util
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from d3tune.cli import main
from d3tune.search.mlflow_file import create_store


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def module_of() -> Callable[[Path], ModuleType]:
    """``module_of(path)``: a module beside the tests, which pytest's import mode lets none of them import."""

    def load(path: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"d3tune_test_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow store: creating its tables takes over a second."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    create_store(f"sqlite:///{path}")
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own, not yet made, and nothing of the machine's settings."""
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("D3TUNE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("D3TUNE_DATA", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """``command("resume", run)``: the command line in this process; anything but an exit is a traceback."""

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["d3tune", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capfd.readouterr()
        code = end.value.code
        return Ended(code if isinstance(code, int) else int(bool(code)), out, err)

    return run


@pytest.fixture
def no_file_larger() -> Callable[[int], AbstractContextManager[None]]:
    """A context: the kernel lets this process write no file beyond so many bytes, as on a disk that fills up."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited
