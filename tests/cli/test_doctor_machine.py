"""What `d3tune doctor` says of the machine: versions, what is missing and how to get it, room, and Ray."""

import json
import math
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from d3tune.results import machine

Command = Callable[..., Any]
Examined = Callable[..., tuple[int, dict[str, dict[str, Any]]]]


@pytest.fixture
def examined(d3tune: Command) -> Examined:
    """``examined(*options)``: the exit code, and the findings by what they are about."""

    def run(*options: object) -> tuple[int, dict[str, dict[str, Any]]]:
        end = d3tune("doctor", "--json", *options)
        return end.code, {finding["what"]: finding for finding in json.loads(end.out)}

    return run


def test_a_sound_machine_has_no_problem(examined: Examined, isolated: Path) -> None:
    code, findings = examined()
    assert code == 0
    assert findings["ray"]["state"] == version("ray")
    assert findings["python"]["state"].endswith(sys.executable)
    assert f"GB free for {isolated}" in findings["disk"]["state"]
    assert findings["current folder"]["state"] == str(Path.cwd())
    assert "d3tune doctor --deep" in findings["Ray"]["state"]
    assert not any(finding["problem"] for finding in findings.values())
    for name in ("h5py", "cmaes", "optuna-dashboard"):
        try:
            assert findings[name]["state"] == version(name)
        except PackageNotFoundError:
            assert findings[name]["note"]
            assert f"pip install '{name}>=" in findings[name]["state"]


def test_what_is_missing_is_said_with_the_command_that_installs_it(
    examined: Examined, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "PACKAGES", ("torch", "no-such-package"))
    monkeypatch.setattr(machine, "EXTRAS", {"nor-this": "nothing"})
    monkeypatch.setattr(
        machine, "requires", lambda name: ["no-such-package[all]>=3; extra == 'x'", "no-such-package-2"]
    )
    code, findings = examined()
    assert code == 1
    pip = f"{sys.executable} -m pip install"
    assert findings["no-such-package"]["state"] == f"missing: {pip} {shlex.quote('no-such-package[all]>=3')}"
    assert findings["nor-this"]["state"] == f"not installed; for nothing: {pip} nor-this"
    assert (findings["no-such-package"]["problem"], findings["nor-this"]["problem"]) == (True, False)
    assert findings["nor-this"]["note"]


@pytest.mark.parametrize("arguments", [("doctor",), ("leaderboard",), ("search", "--dataset", "hanzi")])
def test_a_package_that_cannot_be_imported_is_one_line(arguments: tuple[str, ...], isolated: Path) -> None:
    blocked = "torch, numpy, yaml" if arguments == ("search", "--dataset", "hanzi") else "pydantic, rich"
    names = blocked.split(", ")
    code = f"import sys; sys.modules.update(dict.fromkeys({names!r})); from d3tune.cli import main; main()"
    end = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300)
    assert (end.returncode, end.stdout, end.stderr.count("\n")) == (1, "", 1), end.stderr
    assert any(f"the Python package {name} is missing: " in end.stderr for name in names)
    assert " -m pip install " in end.stderr


def test_little_room_is_a_note_and_none_a_problem(examined: Examined, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LITTLE_ROOM", math.inf)
    code, findings = examined()
    assert (code, findings["disk"]["note"], findings["disk"]["problem"]) == (0, True, False)
    assert "D3TUNE_HOME" in findings["disk"]["state"]
    monkeypatch.setattr(machine, "NO_ROOM", math.inf)
    code, findings = examined()
    assert (code, findings["disk"]["note"], findings["disk"]["problem"]) == (1, False, True)


def test_a_temporary_folder_that_is_too_long_for_ray(program: Command, isolated: Path, tmp_path: Path) -> None:
    place = tmp_path / ("x" * 107)
    place.mkdir()
    end = program("doctor", "--json", TMPDIR=str(place))
    assert end.code == 1
    (finding,) = [finding for finding in json.loads(end.out) if finding["problem"]]
    assert finding["what"] == "Ray"
    for words in (f"cannot start: {place} is ", " bytes too long", "set TMPDIR", "--executor local"):
        assert words in finding["state"]


def test_a_socket_of_the_longest_path_is_not_too_long(examined: Examined, monkeypatch: pytest.MonkeyPatch) -> None:
    longest = Path(tempfile.gettempdir(), machine.RAY_SOCKET.format(pid=os.getpid()))
    for room, code, words in ((0, 0, "nothing speaks against a start"), (-1, 1, " is 1 byte too long")):
        monkeypatch.setattr(machine, "SOCKET_PATH", len(str(longest)) + room)
        found = examined()
        assert (found[0], words in found[1]["Ray"]["state"]) == (code, True)


def test_a_ray_without_its_programs(examined: Examined, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "RAY_PROGRAMS", ("core/absent",))
    code, findings = examined()
    assert (code, findings["Ray"]["problem"]) == (1, True)
    for words in ("core/absent is missing", "pip install 'ray[tune]>="):
        assert words in findings["Ray"]["state"]


def test_a_deep_examination_starts_a_ray(examined: Examined) -> None:
    code, findings = examined("--deep")
    assert code == 0
    assert findings["Ray"]["state"].startswith("started, ran a task on python 3.")


def test_a_ray_that_does_not_start(examined: Examined, monkeypatch: pytest.MonkeyPatch) -> None:
    from d3tune.search.executor import ray as executor

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("no raylet came up")

    monkeypatch.setattr(executor.ray, "init", refuse)
    code, findings = examined("--deep")
    assert (code, findings["Ray"]["problem"]) == (1, True)
    for words in ("Ray did not start: no raylet came up", "doctor.log", "--executor local"):
        assert words in findings["Ray"]["state"]


def test_a_deep_examination_without_a_home_says_the_rest(
    d3tune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("D3TUNE_HOME", str(tmp_path / "file"))
    end = d3tune("doctor", "--deep")
    assert end.code == 1
    lines = end.out.splitlines()
    assert any("torch" in line for line in lines), end
    assert any("Ray" in line and str(tmp_path / "file") in line for line in lines), end


def test_deep_is_of_the_installation(d3tune: Command) -> None:
    end = d3tune("doctor", "mine", "--deep")
    assert (end.code, end.out) == (2, "")
    assert "leave RUN out" in end.err
