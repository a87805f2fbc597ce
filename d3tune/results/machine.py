"""What this machine has for a search: versions, devices, room, a Ray that starts; and how to get what is missing."""

import importlib.util
import os
import platform
import shlex
import shutil
import socket
import sys
import tempfile
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from d3tune.config import Resources
from d3tune.errors import D3TuneError
from d3tune.files import home, writable_directory
from d3tune.search.executor import StopSignal
from d3tune.search.executor.choice import open_executor
from d3tune.words import plural

PACKAGES = ("d3tune", "torch", "ray", "optuna", "mlflow", "pandas", "numpy")
# what each is for
EXTRAS = {
    "h5py": "datasets in MATLAB 7.3 files",
    "cmaes": "--sampler cmaes",
    "optuna-dashboard": "Optuna's pages of a study.journal",
}
# bytes: a prepared dataset takes up to 0.3 GB, a run some 10 MB
LITTLE_ROOM, NO_ROOM = 2e9, 1e8
# of an address of a Unix socket (man 7 unix), and the longest that a search's Ray has below the temporary folder
SOCKET_PATH = 107
RAY_SOCKET = "d3tune-01234567/ray/session_2026-01-01_00-00-00_000000_{pid}/sockets/plasma_store"
RAY_PROGRAMS = ("core/src/ray/raylet/raylet", "core/src/ray/gcs/gcs_server")
NO_RAY = "d3tune search --executor local needs none"


@dataclass(frozen=True)
class Finding:
    """One line of an examination.

    Attributes:
        what: the thing examined.
        state: what was found.
        problem: whether something must be mended before a search can run, or before it can use this.
        note: whether it is worth knowing although nothing is broken.
    """

    what: str
    state: str
    problem: bool = False
    note: bool = False


def examine_machine(deep: bool) -> list[Finding]:
    """Examine versions, devices, room on the disk and Ray; nothing is written but a probe.

    Args:
        deep: whether to start a private Ray, run one task in it and end it: half a minute, and its log in the home.
    """
    packages = [Finding("python", f"{platform.python_version()}, {sys.executable}"), *_packages(), *_extras()]
    return [*packages, _devices(), *_folders(), *_ray(deep)]


def _packages() -> list[Finding]:
    found = {name: _version(name) for name in PACKAGES}
    return [
        Finding(name, number or f"missing: {_install(name)}", problem=number is None) for name, number in found.items()
    ]


def _extras() -> list[Finding]:
    found = {name: _version(name) for name in EXTRAS}
    return [
        Finding(name, number or f"not installed; for {EXTRAS[name]}: {_install(name)}", note=number is None)
        for name, number in found.items()
    ]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _install(package: str) -> str:
    """The command that installs a package for this interpreter, in the version that d3tune asks for."""
    try:
        asked = [line.partition(";")[0].strip() for line in requires("d3tune") or []]
    except PackageNotFoundError:
        asked = []
    wanted = next((line for line in asked if line.startswith(package) and line[len(package)] in "[<>="), package)
    return shlex.join([sys.executable, "-m", "pip", "install", wanted])


def _devices() -> Finding:
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Finding("devices", f"{os.cpu_count()} CPU cores, " + (", ".join(gpus) or "no GPU"))


def _folders() -> list[Finding]:
    """Room in the home, and whether the temporary and the current folder can be written."""
    findings = []
    with suppress(D3TuneError):
        # a line of its own says why there is no home
        findings.append(_room(home()))
    try:
        findings.append(Finding("temporary folder", tempfile.gettempdir()))
    except FileNotFoundError:
        findings.append(Finding("temporary folder", "none can be written; set TMPDIR to one", problem=True))
    try:
        findings.append(
            Finding("current folder", str(writable_directory(Path.cwd(), "give commands that write an -o")))
        )
    except D3TuneError as error:
        findings.append(Finding("current folder", str(error), note=True))
    return findings


def _room(place: Path) -> Finding:
    usage = shutil.disk_usage(place)
    state = f"{usage.free / 1e9:.1f} of {usage.total / 1e9:.1f} GB free for {place}"
    if usage.free >= LITTLE_ROOM:
        return Finding("disk", state)
    advice = "make room, or set D3TUNE_HOME to a folder on another disk"
    return Finding("disk", f"{state}; {advice}", problem=usage.free < NO_ROOM, note=usage.free >= NO_ROOM)


def _ray(deep: bool) -> list[Finding]:
    spec = importlib.util.find_spec("ray")
    if spec is None or spec.origin is None:
        # which the packages' line says
        return []
    fault = _ray_fault(Path(spec.origin).parent)
    if fault:
        return [Finding("Ray", f"cannot start: {fault}; {NO_RAY}", problem=True)]
    if not deep:
        return [Finding("Ray", "nothing speaks against a start; d3tune doctor --deep starts one")]
    return [_started_ray()]


def _ray_fault(package: Path) -> str:
    """Why a private Ray cannot start, as far as that shows without starting it."""
    for program in RAY_PROGRAMS:
        if not os.access(package / program, os.X_OK):
            return f"{package / program} is missing or cannot be executed; install again: {_install('ray')}"
    try:
        longest = Path(tempfile.gettempdir(), RAY_SOCKET.format(pid=os.getpid()))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
    except FileNotFoundError:
        return "there is no temporary folder"
    except OSError as error:
        return f"127.0.0.1 cannot be used: {error.strerror or error}"
    excess = len(os.fsencode(longest)) - SOCKET_PATH
    if excess > 0:
        return (
            f"{longest.parents[4]} is {plural(excess, 'byte')} too long for its sockets; set TMPDIR to a shorter path"
        )
    return ""


def _started_ray() -> Finding:
    begin, where = time.monotonic(), ""
    try:
        log = home() / "doctor.log"
        where = f" (see {log})"
        with closing(open_executor(Resources(), log, StopSignal())) as executor:
            (there,) = executor.map(platform.python_version, [()], StopSignal())
    except D3TuneError as error:
        return Finding("Ray", f"{error}{where}", problem=True)
    seconds = time.monotonic() - begin
    return Finding("Ray", f"started, ran a task on python {there} and ended, in {seconds:.0f} s")
