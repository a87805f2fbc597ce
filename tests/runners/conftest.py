"""What launches a search, run for real where no cluster is: stand-ins for the scheduler, the rest as it is."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
# a training that takes a fraction of a second
TINY = {
    "updates": 40,
    "evaluations": 4,
    "hidden_dim": 32,
    "embed_dim": 32,
    "teacher_epochs": 2,
    "head_epochs": 2,
    "n_synthetic_final": 5,
}
NOTED = '#!/usr/bin/env bash\nprintf "%s\\n" "$(printf "%q " "$@")" >>"$NOTES/{name}"\n'
# each takes its options and runs the command here, or answers; nothing of a scheduler is behind them
SRUN = NOTED + 'while [[ $1 == --* ]]; do shift; done\nexec "$@"\n'
SCONTROL = NOTED + 'if [ "$1" = show ]; then printf "%s\\n" $HOSTS; fi\n'
PROGRAM = NOTED + 'exec "$PYTHON" -c "from {module} import main; main()" "$@"\n'
MODE_NOTED = 'stat -c %a "$RAY_AUTH_TOKEN_PATH" >>"$NOTES/token"\n'
# a node of Ray as the script sees it, where no search comes to it
SLEEPER = NOTED + 'echo "$SAID"; echo "  ray start --address=\'127.0.0.2:$PORT\'"\nexec sleep 600\n'
STARTED = "Ray runtime started."


@pytest.fixture
def isolated(home: Path, mlflow_template: Path) -> Path:
    """A home of the test's own, with an empty MLflow store in it."""
    home.mkdir()
    shutil.copy(mlflow_template, home / "mlflow.db")
    return home


@pytest.fixture(scope="session")
def root() -> Path:
    """The clone."""
    return ROOT


@pytest.fixture(scope="session")
def commands(module_of: Callable[[Path], ModuleType]) -> ModuleType:
    """The module ``commands.py`` of the tests of searches."""
    return module_of(ROOT / "tests" / "search" / "commands.py")


@pytest.fixture
def tiny() -> Callable[..., list[str]]:
    """``tiny(updates=200)``: options of a search whose trials take a fraction of a second, but for what is given."""

    def options(**hyper: Any) -> list[str]:
        return [word for key, value in {**TINY, **hyper}.items() for word in ("--set", f"{key}={value}")]

    return options


@dataclass
class Slurm:
    """``runners/slurm.sbatch`` on a machine without SLURM: ``srun`` runs commands here, ``scontrol`` only notes them.

    Attributes:
        folder: of the stand-ins and of what they were called with.
        short: a folder for temporary files with a short path, as Ray's sockets need it.
        commands: the module ``commands.py``.
        environment: of the script, as SLURM and the user set it.
    """

    folder: Path
    short: Path
    commands: Any
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.program("srun", SRUN)
        self.program("scontrol", SCONTROL)
        self.program("python", 'exec "$PYTHON" "$@"\n')
        self.program("d3tune", PROGRAM.replace("exec", MODE_NOTED + "exec", 1), "d3tune.cli")
        self.program("ray", PROGRAM, "ray.scripts.scripts")
        self.environment = {
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "NOTES": str(self.folder),
            "PYTHON": sys.executable,
            "HOSTS": "alpha",
            "TMPDIR": str(self.short),
            "SLURM_JOB_ID": str(free_job()),
            "SLURM_JOB_NODELIST": "alpha",
            "SLURM_CPUS_PER_TASK": "2",
            # an address of this machine alone that Ray does not take for a mistake, as it does 127.0.0.1
            "HEAD_IP": "127.0.0.2",
        }

    def program(self, name: str, text: str, module: str = "") -> None:
        """Put a program on the script's PATH."""
        path = self.folder / name
        text = text if text.startswith("#!") else "#!/usr/bin/env bash\n" + text
        path.write_text(text.replace("{name}", name + ".txt").replace("{module}", module), encoding="utf-8")
        path.chmod(0o755)

    def asleep(self, said: str = STARTED) -> None:
        """Let nodes of Ray be processes that say something and sleep."""
        self.program("ray", SLEEPER)
        self.environment |= {"SAID": said, "PORT": "6379"}

    def calls(self, name: str) -> list[list[str]]:
        """What a program was called with, a list a call, in their order."""
        path = self.folder / f"{name}.txt"
        return [shlex.split(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    @property
    def requeued(self) -> list[list[str]]:
        """Calls that put a job into the queue again."""
        return [call for call in self.calls("scontrol") if call[0] == "requeue"]

    @property
    def token_modes(self) -> list[str]:
        """Who could read the token when a search began, once for each search."""
        path = self.folder / "token"
        return path.read_text(encoding="utf-8").split() if path.exists() else []

    @property
    def left(self) -> list[Path]:
        """Files that a job left outside of its home: of Ray, and the token."""
        home = Path(os.environ["D3TUNE_HOME"])
        return [*self.short.glob("d3-*"), *home.glob("slurm/*/token")]

    @contextmanager
    def running(self, *arguments: str, **environment: str) -> Iterator[Any]:
        """The script as the batch shell of a job; as there, a signal to it reaches nothing else."""
        outside = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "RAY_"))}
        # what is ignored here is ignored by a child, which then cannot trap it
        interrupt = signal.signal(signal.SIGINT, signal.SIG_DFL)
        process = subprocess.Popen(
            ["bash", str(ROOT / "runners" / "slurm.sbatch"), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**outside, **self.environment, **environment},
            start_new_session=True,
        )
        signal.signal(signal.SIGINT, interrupt)
        command = self.commands.Command(process)
        try:
            yield command
        finally:
            if process.poll() is None:
                command.look()
                process.kill()
                process.wait()
            for pid in command.alive():
                os.kill(pid, signal.SIGKILL)
            command.close()


@pytest.fixture
def slurm(tmp_path: Path, isolated: Path, commands: ModuleType) -> Iterator[Slurm]:
    """See `Slurm`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    # Ray's sockets have long names
    with tempfile.TemporaryDirectory(prefix="d", dir="/tmp", ignore_cleanup_errors=True) as short:
        yield Slurm(folder, Path(short), commands)


def free_job() -> int:
    """The id of a job whose ports nobody has here."""
    for job in range(os.getpid(), os.getpid() + 1000):
        first = 20000 + job % 3000 * 4
        if all(map(free, range(first, first + 3))):
            return job
    raise AssertionError("no free ports")


def free(port: int) -> bool:
    """Whether nobody listens at a port of this machine."""
    with socket.socket() as tried:
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
