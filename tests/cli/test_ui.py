"""``d3tune ui`` and the pages it leads to: a real search, the real server, and a real browser where there is one."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from d3tune.results.browser import can_open
from d3tune.results.pages import address_of
from d3tune.search.executor.processes import descendants, left_of, processes
from d3tune.search.invariants import find_faults
from d3tune.search.reports import best_report
from d3tune.search.run import RunDirectory, open_run
from d3tune.search.study import read_trials, reports_of

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

PROGRAM = (sys.executable, "-c", "from d3tune.cli import main; main()")
PATIENCE = 240.0
TRIALS = 4
VISIBLE_COLUMNS = """
return [...document.querySelectorAll('.ag-header-cell')]
  .sort((a, b) => a.getBoundingClientRect().x - b.getBoundingClientRect().x)
  .map(cell => cell.getAttribute('col-id'))
"""
CELLS = """
return [...document.querySelectorAll('.ag-row .ag-cell')].map(
  cell => [
    Number(cell.closest('.ag-row').getAttribute('row-index')), cell.getAttribute('col-id'), cell.innerText.trim()])
"""
TEXT = "return document.body.innerText"
NAME = "attributes.`Run Name`"


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for something that is bound to happen."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.2)
    raise AssertionError(f"waited in vain for {what}")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def environment(home: Path, **more: str) -> dict[str, str]:
    """Of a user without a browser, whatever the machine's settings."""
    unset = ("MLFLOW_TRACKING_URI", "DISPLAY", "WAYLAND_DISPLAY", "BROWSER", "CI")
    kept = {name: value for name, value in os.environ.items() if name not in unset and not name.startswith("SSH_")}
    return {**kept, "D3TUNE_HOME": str(home), **more}


@contextmanager
def showing(home: Path, cwd: Path, *arguments: object, **more: str) -> Iterator["subprocess.Popen[str]"]:
    """A running ``d3tune ui``."""
    process = subprocess.Popen(
        [*PROGRAM, "ui", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environment(home, **more),
    )
    try:
        yield process
    finally:
        seen = descendants(process.pid)
        if process.poll() is None:
            process.kill()
        process.communicate()
        for pid in left_of(seen):
            os.kill(pid, signal.SIGKILL)


def read_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    return line.rstrip("\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ui")


def search(place: Path, folder: str, dataset: str, **more: str) -> RunDirectory:
    """A small search, in a process of its own."""
    fixed = {"updates": 40, "evaluations": 4, "hidden_dim": 32, "embed_dim": 32, "teacher_epochs": 2, "head_epochs": 2}
    pairs = [("--set", f"{key}={value}") for key, value in {**fixed, "n_synthetic_final": 5}.items()]
    settings = [word for pair in pairs for word in pair]
    command = ["search", "--dataset", dataset, "--executor", "local", "--trials", str(TRIALS), "--confirm-seeds", "1"]
    end = subprocess.run(
        [*PROGRAM, *command, "--run-dir", str(place / folder), *settings],
        capture_output=True,
        text=True,
        cwd=place,
        env=environment(place / "home", **more),
    )
    assert end.returncode == 0, end.stderr
    return open_run(str(place / folder))


@pytest.fixture(scope="module")
def run(place: Path) -> RunDirectory:
    """A small search in a home of the module's own."""
    return search(place, "run", "hanzi")


@dataclass
class Served:
    """A ``d3tune ui`` that serves the search.

    Attributes:
        process: of the command.
        address: of the server.
        lines: what it printed.
        folder: where it was started.
    """

    process: "subprocess.Popen[str]"
    address: str
    lines: list[str]
    folder: Path


@pytest.fixture(scope="module")
def served(run: RunDirectory, place: Path) -> Iterator[Served]:
    port, folder = free_port(), place / "empty"
    folder.mkdir()
    # a proxy that is not there: what runs on this machine is reached without one
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY"), "http://127.0.0.1:9")
    with showing(place / "home", folder, "--port", port, **proxies) as process:
        yield Served(process, f"http://127.0.0.1:{port}", [read_line(process) for _ in range(3)], folder)


def test_it_answers_once_the_addresses_are_printed(served: Served, run: RunDirectory) -> None:
    urllib.request.urlopen(f"{served.address}/health", timeout=30).close()  # noqa: S310
    trials, searches, everything = served.lines
    assert trials.startswith(f"trials of gan-s0 on hanzi-0: {served.address}/#/experiments/1/runs?")
    assert f"viewStateShareKey=d3tune-{run.uid}&" in trials
    assert searches.startswith(f"searches on hanzi-0: {served.address}/#/experiments/1/runs?")
    assert everything == f"all datasets: {served.address}/#/experiments"


def test_its_processes_are_few_and_tell_nobody_the_store(served: Served, run: RunDirectory) -> None:
    below = descendants(served.process.pid)
    assert 1 <= len(below) <= 3
    commands = [*below.values(), processes()[served.process.pid][1]]
    assert not any("sqlite" in command or "mlflow.db" in command for command in commands)
    assert list(served.folder.iterdir()) == []


def test_a_server_that_is_there_is_led_to(served: Served, run: RunDirectory, place: Path) -> None:
    end = subprocess.run(
        [*PROGRAM, "ui", run.path, "--tracking-uri", served.address.replace("//", "//me:secret@") + "/"],
        capture_output=True,
        text=True,
        env=environment(place / "home"),
    )
    assert end.returncode == 0, end.stderr
    assert end.stdout.splitlines() == served.lines
    assert "secret" not in end.stdout + end.stderr


def test_a_server_that_does_not_answer_is_one_line(place: Path) -> None:
    end = subprocess.run(
        [*PROGRAM, "ui", "--tracking-uri", f"http://me:secret@127.0.0.1:{free_port()}"],
        capture_output=True,
        text=True,
        env=environment(place / "home", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0"),
    )
    assert (end.returncode, end.stdout, end.stderr.count("\n")) == (1, "", 1)
    assert end.stderr.startswith("d3tune: MLflow at http://me:***@127.0.0.1:")


def test_a_page_is_opened_where_one_can_be_seen(served: Served, place: Path) -> None:
    browser, opened = place / "browser", place / "opened"
    browser.write_text(f'#!/bin/sh\necho "$1" >> {opened}\n', encoding="utf-8")
    browser.chmod(0o755)
    where = {"BROWSER": f"{browser} %s", "DISPLAY": ":7"}
    for arguments, more in ((("--no-browser",), where), ((), {**where, "CI": "true"}), ((), where)):
        assert not opened.exists()
        subprocess.run(
            [*PROGRAM, "ui", "--tracking-uri", served.address, *arguments],
            capture_output=True,
            check=True,
            env=environment(place / "home", **more),
        )
    assert opened.read_text(encoding="utf-8").rstrip("\n") == served.lines[0].partition(": ")[2]


@pytest.mark.parametrize(
    ("variables", "seen"),
    [
        ({"DISPLAY": ":0"}, True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, True),
        ({"DISPLAY": ":0", "CI": "1"}, False),
        ({"DISPLAY": ":10", "SSH_CONNECTION": "a 1 b 2"}, False),
        pytest.param({}, False, marks=pytest.mark.skipif(sys.platform != "linux", reason="others need no DISPLAY")),
    ],
)
def test_a_browser_is_seen_on_a_display_of_this_machine(variables: dict[str, str], seen: bool) -> None:
    assert can_open(variables) == seen


def test_an_address_for_a_browser_has_no_password() -> None:
    assert address_of("https://me:secret@host:5000/mlflow/") == "https://host:5000/mlflow"


class Browser:
    """Chromium without a window, driven through chromedriver's own protocol; it finds no host but this one."""

    def __init__(self, program: str, driver: str) -> None:
        port = free_port()
        self._driver = subprocess.Popen(
            [driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self._base = f"http://127.0.0.1:{port}"
        try:
            until(self._ready, "chromedriver")
            arguments = [
                *("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=3200,1200"),
                *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                *(["--no-sandbox"] if os.geteuid() == 0 else []),
            ]
            chrome = {"binary": program, "args": arguments}
            wanted = {"goog:chromeOptions": chrome, "goog:loggingPrefs": {"performance": "ALL"}}
            session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            self._base += f"/session/{session['sessionId']}"
        except BaseException:
            self.close()
            raise

    def _ready(self) -> bool:
        try:
            return bool(self._call("GET", "/status")["ready"])
        except OSError:
            return False

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._base + path, data, headers, method=method)  # noqa: S310
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310
            return json.load(answer)["value"]

    def open(self, address: str) -> None:
        self._call("POST", "/url", {"url": address})

    def run(self, script: str) -> Any:
        return self._call("POST", "/execute/sync", {"script": script, "args": []})

    def requested(self) -> list[str]:
        """Every address that was asked for since the last call, but those that hold their content themselves."""
        events = [
            json.loads(entry["message"])["message"] for entry in self._call("POST", "/se/log", {"type": "performance"})
        ]
        sent = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [address for address in sent if not address.startswith(("data:", "blob:", "chrome:"))]

    def close(self) -> None:
        try:
            if "/session/" in self._base:
                self._call("DELETE", "")
        finally:
            os.killpg(self._driver.pid, signal.SIGKILL)
            self._driver.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs Chromium and chromedriver")
    opened = Browser(program, driver)
    try:
        yield opened
    finally:
        opened.close()


def table(browser: Browser, rows: int) -> list[dict[str, str]]:
    """The cells of MLflow's table by column, row by row, once it has so many."""

    def shown() -> list[dict[str, str]]:
        found: dict[int, dict[str, str]] = {}
        for index, column, text in browser.run(CELLS):
            found.setdefault(index, {})[column] = text
        full = [found[index] for index in sorted(found)]
        return full if len(full) == rows and all(row.get(NAME) for row in full) else []

    return list(until(shown, f"a table of {rows} rows"))


def name_in(row: dict[str, str]) -> str:
    """The run's name, behind the colour and the pin of its row."""
    return row[NAME].splitlines()[-1]


def test_the_first_page_is_the_table_of_trials_best_first(browser: Browser, served: Served, run: RunDirectory) -> None:
    browser.open(served.lines[0].partition(": ")[2])
    rows = table(browser, TRIALS)
    trials = read_trials(run.journal)
    best = {f"gan-t{trial.number:03d}": best_report(reports_of(trial)) for trial in trials}
    names = [name_in(row) for row in rows]
    assert names == sorted(best, key=lambda name: -best[name].value)
    metrics = [f"metrics.`val/best_{name}`" for name in "HUS"]
    tuned = [f"params.`{name}`" for name in run.space["parameters"]]
    columns = [
        column for column in browser.run(VISIBLE_COLUMNS) if "`" in column and not column.startswith("attributes")
    ]
    assert columns[:4] == [*metrics, "tags.`d3tune.state`"]
    # the window shows so many at once, in the space's order
    assert len(columns) > 8
    assert columns[4:] == tuned[: len(columns) - 4]
    for row, name in zip(rows, names, strict=True):
        for column, accuracy in zip(metrics, "HUS", strict=True):
            assert float(row[column]) == pytest.approx(best[name].metrics[f"val/{accuracy}"], rel=1e-5)
    assert not [address for address in browser.requested() if not address.startswith(served.address)]


def test_the_second_page_is_the_table_of_searches(browser: Browser, served: Served, run: RunDirectory) -> None:
    browser.open(served.lines[1].partition(": ")[2])
    (row,) = table(browser, 1)
    assert name_in(row) == "gan-s0"
    summary = run.read_summary()
    assert summary is not None
    assert float(row["metrics.`test/H`"]) == pytest.approx(summary["test"]["H"]["mean"])
    assert float(row["metrics.`val/H_confirmed`"]) == pytest.approx(summary["selection"]["val_H"])
    assert row["tags.`backbone`"] == "gan"


def test_the_list_of_experiments_says_the_best_of_each_backbone(browser: Browser, served: Served) -> None:
    browser.open(served.lines[2].partition(": ")[2])
    until(lambda: "test H\n: gan 0." in browser.run(TEXT), "the result of gan")
    assert "d3tune/hanzi-0" in browser.run(TEXT)


def test_a_search_that_writes_to_a_server_is_shown_there_too(browser: Browser, served: Served, place: Path) -> None:
    other = search(place, "other", "hanzi/1", MLFLOW_TRACKING_URI=served.address)
    assert find_faults(other, served.address) == []
    end = subprocess.run(
        [*PROGRAM, "ui", "--tracking-uri", served.address],
        capture_output=True,
        text=True,
        env=environment(place / "home"),
    )
    names = ["trials of gan-s0 on hanzi-1", "searches on hanzi-1", "searches on all datasets", "all datasets"]
    assert [line.partition(": ")[0] for line in end.stdout.splitlines()] == names
    browser.open(end.stdout.splitlines()[2].partition(": ")[2])
    assert [name_in(row) for row in table(browser, 2)] == ["gan-s0", "gan-s0"]
    browser.open(end.stdout.splitlines()[0].partition(": ")[2])
    assert len(table(browser, TRIALS)) == TRIALS


def test_ctrl_c_ends_every_process(run: RunDirectory, place: Path) -> None:
    port = free_port()
    with showing(place / "home", place, "--port", port) as process:
        read_line(process)
        seen = descendants(process.pid)
        assert seen
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert left_of(seen) == {}
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)


def test_a_store_that_is_none_is_one_line(place: Path, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"no database at all " * 500)
    end = subprocess.run(
        [*PROGRAM, "ui", "--tracking-uri", f"sqlite:///{garbage}", "--port", str(free_port())],
        capture_output=True,
        text=True,
        env=environment(place / "home"),
    )
    assert (end.returncode, end.stdout, end.stderr.count("\n")) == (1, "", 1)
    assert end.stderr.startswith(f"d3tune: sqlite:///{garbage}: ")
