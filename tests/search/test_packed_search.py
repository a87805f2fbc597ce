"""Searches whose trials share a GPU: never more at once than fit, and one that finds too little memory ends alone.

Ray's GPUs are logical here; what needs a real one is marked ``gpu``.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.trial import TrialState

from d3tune.config import Resources
from d3tune.method.generators import load_backbone
from d3tune.search.packing import largest_first, measure
from d3tune.search.run import RunDirectory
from d3tune.search.search import training_job
from d3tune.search.study import read_trials, reports_of
from d3tune.yamlfile import dump_yaml

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

UPDATES, INTERVAL, TRIALS = 40, 5, 5
LIST = {
    "packed-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: packed\nVersion: 1\n",
    "packed-1.dist-info/entry_points.txt": "[d3tune.backbones]\npacked = packed_backbone:BACKBONE\n",
}
SEARCH = f"""
import sys
from pathlib import Path
import packed_backbone
from d3tune.config import Resources
from d3tune.search.executor import StopSignal
from d3tune.search.request import Request, prepare_run
from d3tune.search.search import Plan, run_search
from d3tune.search.tracking import default_uri

run, _ = prepare_run(Request("hanzi", "packed", space=Path(sys.argv[1]), pruner="none"))
whole = Resources(cpus_per_trial=0.1, gpus_per_trial=1.0)
plan = Plan({TRIALS}, None, whole, 0, False, default_uri(), num_gpus=1, auto_gpus=True)
with run.owned():
    run_search(run, plan, StopSignal(), lambda line: print(line, flush=True), measure=packed_backbone.three_fit)
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder from which this process and its children import the backbone."""
    folder = tmp_path / "site"
    for name, content in LIST.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    for module in ("brittle_backbone.py", "packed_backbone.py"):
        shutil.copy(Path(__file__).with_name(module), folder)
    monkeypatch.syspath_prepend(str(folder))
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    for name, value in {"PYTHONPATH": path, "PACKED_LOG": "notes", "BRITTLE_LOG": "updates"}.items():
        monkeypatch.setenv(name, value if name == "PYTHONPATH" else str(tmp_path / value))
    return folder


def space_file(path: Path) -> Path:
    """A space whose first trial is crowded."""
    points = [
        {"name": str(n), "source": "test", "values": {"rate": 0.9 - 0.1 * n, "crowded": n == 0}} for n in range(TRIALS)
    ]
    space = {
        "backbone": "packed",
        "fixed": {"updates": UPDATES, "evaluations": UPDATES // INTERVAL},
        "parameters": {
            "rate": {"low": 0.01, "high": 1.0, "log": True, "about": "step size"},
            "crowded": {"choices": [False, True], "about": "whether it needs more than its share"},
        },
        "warm_start": points,
    }
    path.write_text(dump_yaml(space), encoding="utf-8")
    return path


def most_at_once(notes: list[str]) -> int:
    """The largest number of trials that ran side by side."""
    change = {"begin": 1, "end": -1, "crowded": -1, "measured": 0}
    running, most = 0, 0
    for line in notes:
        running += change[line.split()[0]]
        most = max(most, running)
    return most


def test_a_search_runs_as_many_at_once_as_fit_and_the_one_that_lacks_memory_alone_in_the_end(
    site: Path, tmp_path: Path, isolated: Path, mlflow_template: Path, commands: Any, sound: Callable[..., None]
) -> None:
    isolated.mkdir()
    shutil.copy(mlflow_template, isolated / "mlflow.db")
    search = [sys.executable, "-c", SEARCH, str(space_file(tmp_path / "packed.yaml"))]
    end = subprocess.run(search, capture_output=True, text=True, timeout=500, check=False)
    assert end.returncode == 0, end.stderr
    said = end.stdout.splitlines()
    assert said[0] == "a trial's peak was 4.0 GB of 16.0 GB on the GPU: 3 at once, --gpus-per-trial 0.3333"
    assert said.count("trial   0  out of GPU memory at a share of 0.33; it goes on alone") == 1
    run = commands.only_run(isolated)
    sound(run, TRIALS)
    trials = read_trials(run.journal)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * TRIALS
    for trial in trials:
        assert [report.update for report in reports_of(trial)] == list(range(INTERVAL, UPDATES + 1, INTERVAL))
    notes = (tmp_path / "notes").read_text(encoding="utf-8").splitlines()
    assert notes[0] == "measured 1.0"
    assert most_at_once(notes) == 3
    # with nobody beside it, after all others
    assert notes[-2:] == ["begin 0.9", "end 0.9"]
    assert [notes.count(f"{kind} 0.9") for kind in ("begin", "crowded", "end")] == [2, 1, 1]
    lines = [line.split() for line in (tmp_path / "updates").read_text(encoding="utf-8").splitlines()]
    crowded = [int(update) for _, rate, update in lines if rate == "0.9"]
    assert crowded == [*range(1, 2 * INTERVAL + 1), *range(INTERVAL + 1, UPDATES + 1)]
    stored = run.read_plan()
    assert (stored["gpus_per_trial"], stored["measured_gpus"]) == ("auto", 0.3333)


CALLS = """
import json
from pathlib import Path
import torch
from d3tune.config import Resources
from d3tune.search.executor import StopSignal
from d3tune.search.executor.environment import ray
from d3tune.search.executor.ray import RayExecutor

NOTES = Path("notes")
LACKING = "CUDA out of memory. Tried to allocate 20.00 GiB"

def note(line):
    with NOTES.open("a") as file:
        file.write(line + "\\n")

def ten_times(index):
    share = ray.get_runtime_context().get_assigned_resources()["GPU"]
    note(f"begin {index} {share}")
    if index == 1 and share < 1:
        raise torch.OutOfMemoryError(LACKING)
    note(f"end {index}")
    return 10 * index

def hopeless():
    note("hopeless")
    raise RuntimeError(LACKING)

executor = RayExecutor(Resources(cpus_per_trial=0.1, gpus_per_trial=0.5), Path("log.txt"), num_gpus=1)
kept, failure = [], ""
results = executor.map(ten_times, [(n,) for n in range(4)], StopSignal(), lambda *pair: kept.append(pair))
try:
    executor.map(hopeless, [()], StopSignal())
except RuntimeError as error:
    failure = str(error)
executor.close()
print(json.dumps([results, sorted(kept), failure, NOTES.read_text().splitlines()]))
"""


@pytest.mark.fault
def test_a_call_that_lacks_memory_beside_others_is_called_again_alone(tmp_path: Path) -> None:
    """As a confirmation's trainings are; one that lacks it on a whole GPU fails."""
    (tmp_path / "calls").mkdir()
    program = [sys.executable, "-c", CALLS]
    end = subprocess.run(program, capture_output=True, text=True, timeout=500, check=False, cwd=tmp_path / "calls")
    assert end.returncode == 0, end.stderr
    results, kept, failure, notes = json.loads(end.stdout.splitlines()[-1])
    assert results == [0, 10, 20, 30]
    assert kept == [[n, 10 * n] for n in range(4)]
    assert notes.count("begin 1 0.5") == 1
    *_, begin, ended, once, twice = notes
    assert (begin, ended, once, twice) == ("begin 1 1.0", "end 1", "hopeless", "hopeless")
    assert failure == "CUDA out of memory. Tried to allocate 20.00 GiB"


LIMITED = """
import torch
from d3tune.method.memory import limit_gpu_memory, out_of_gpu_memory

_, total = torch.cuda.mem_get_info()
limit_gpu_memory(0.1)
try:
    torch.empty(total // 5, dtype=torch.uint8, device="cuda")
except RuntimeError as error:
    print(out_of_gpu_memory(error))
limit_gpu_memory(1.0)
print(torch.empty(total // 5, dtype=torch.uint8, device="cuda").numel() == total // 5)
"""


@pytest.mark.gpu
@needs_gpu
def test_a_process_has_its_share_of_a_gpu_until_it_is_lifted() -> None:
    end = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, timeout=300, check=False)
    assert end.returncode == 0, end.stderr
    assert end.stdout.split() == ["True", "True"]


@pytest.mark.gpu
@needs_gpu
def test_a_trial_is_measured_with_what_is_not_torchs(toy_run: Callable[..., RunDirectory]) -> None:
    run, config = toy_run(), load_backbone("gan").config
    (values, *_) = largest_first(run.load_space(config), config, 0)
    peak = measure(training_job(run, values, Resources(gpus_per_trial=1.0)))
    assert 0 < torch.cuda.max_memory_reserved() < peak.bytes_used < peak.bytes_total
    assert peak.bytes_total == torch.cuda.mem_get_info()[1]


@pytest.mark.gpu
@needs_gpu
def test_a_search_measures_a_real_gpu(
    isolated: Path, mlflow_template: Path, tiny: dict[str, Any], commands: Any, sound: Callable[..., None]
) -> None:
    isolated.mkdir()
    shutil.copy(mlflow_template, isolated / "mlflow.db")
    options = ("--trials", "4", "--gpus-per-trial", "auto", "--confirm-seeds", "1")
    with commands.running(isolated, *commands.options(tiny), *options) as command:
        assert command.end() == 0, command.err
    expected = r"a trial's peak was [\d.]+ GB of [\d.]+ GB on the GPU: \d+ at once, --gpus-per-trial [\d.]+\n"
    assert sum(re.fullmatch(expected, line) is not None for line in command.err) == 1, command.err
    run = commands.only_run(isolated)
    sound(run, 4)
    assert 0 < run.read_plan()["measured_gpus"] <= 1


@pytest.mark.gpu
@needs_gpu
def test_trials_and_tests_that_lack_memory_on_a_real_gpu_go_on_alone(
    isolated: Path, mlflow_template: Path, tiny: dict[str, Any], commands: Any, sound: Callable[..., None]
) -> None:
    """The share is less than the smallest piece that torch takes of a GPU for large tensors."""
    isolated.mkdir()
    shutil.copy(mlflow_template, isolated / "mlflow.db")
    options = ("--trials", "2", "--gpus-per-trial", "0.0001", "--concurrency", "2", "--confirm-seeds", "2")
    with commands.running(isolated, *commands.options(tiny), *options, "--pruner", "none") as command:
        assert command.end() == 0, command.err
    alone = [line for line in command.err if line.endswith("a share of 0.0001; it goes on alone\n")]
    assert len(alone) == 2, command.err
    run = commands.only_run(isolated)
    sound(run, 2)
    assert [trial.state for trial in read_trials(run.journal)] == [TrialState.COMPLETE] * 2
    assert (run.read_summary() or {})["test"]["protocol"] == "test"
