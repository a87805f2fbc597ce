"""Trials that share a GPU: how many fit by a measured peak, what is remembered of it, and what is set aside."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from d3tune.config import Resources
from d3tune.errors import RunError, UsageError
from d3tune.method.generators import load_backbone
from d3tune.search.executor import StopSignal
from d3tune.search.executor.inprocess import InProcessExecutor
from d3tune.search.jobs import TrainingJob
from d3tune.search.packing import Peak, largest_first, measure, measured_share, packing_line, share_of, trials_at_once
from d3tune.search.planning import parse_gpus, resumed_plan
from d3tune.search.reports import Report
from d3tune.search.run import RunDirectory
from d3tune.search.search import Plan, run_search, training_job
from d3tune.search.study import Ledger, read_trials
from d3tune.search.tracking import default_uri
from d3tune.search.trial import RunningTrial
from d3tune.space import Parameter, Space, WarmStart

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

GB = 10**9
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
ToyRun = Callable[..., RunDirectory]
Open = Callable[..., Ledger]
MakeReport = Callable[[int, float], Report]


@pytest.mark.parametrize(
    ("used", "total", "fitting"),
    [(2.1, 16.0, 6), (6.6, 16.0, 2), (6.7, 16.0, 1), (16.0, 16.0, 1), (40.0, 16.0, 1), (0.0, 16.0, 99)],
)
def test_as_many_fit_as_the_peak_with_a_margin_goes_into_the_gpu(used: float, total: float, fitting: int) -> None:
    """At least one: it may fail there, with its reason."""
    assert trials_at_once(Peak(int(used * GB), int(total * GB))) == fitting


def test_never_more_are_placed_than_fit() -> None:
    for megabytes in range(20, 20_000, 7):
        peak = Peak(megabytes * 10**6, 16 * GB)
        fitting = trials_at_once(peak)
        share = share_of(fitting)
        assert fitting == 1 or fitting * peak.bytes_used * 1.15 <= 0.95 * peak.bytes_total
        # in the ten-thousandths that Ray counts in
        parts = round(share * 10_000)
        assert share == parts / 10_000
        assert fitting * parts <= 10_000 < (fitting + 1) * parts


def test_a_line_says_what_was_measured_and_what_follows() -> None:
    line = packing_line(Peak(int(2.1 * GB), 16 * GB))
    assert line == "a trial's peak was 2.1 GB of 16.0 GB on the GPU: 6 at once, --gpus-per-trial 0.1666"
    whole = packing_line(Peak(15 * GB, 16 * GB))
    assert whole.endswith("15.0 GB of 16.0 GB on the GPU: 1 at once, --gpus-per-trial 1")


def test_the_largest_of_the_warm_starts_and_some_samples_is_measured() -> None:
    widths = Parameter(low=16, high=4096, log=True)
    points = tuple(
        WarmStart(name=str(width), source="a test", values={"hidden_dim": width}) for width in (16, 4096, 64)
    )
    space = Space("gan", {"updates": 40, "evaluations": 4}, {"hidden_dim": widths}, points)
    config = load_backbone("gan").config
    found = [values["hidden_dim"] for values in largest_first(space, config, seed=3)]
    assert found == sorted(found, reverse=True)
    assert found[0] == 4096
    assert {16, 64} < set(found)
    assert len(set(found)) > 3
    assert found == [values["hidden_dim"] for values in largest_first(space, config, seed=3)]


def jobs(n: int) -> list[TrainingJob]:
    return [TrainingJob("gan", {}, "nowhere", "0", seed=seed) for seed in range(n)]


def test_where_a_trial_cannot_be_trained_the_next_is_measured() -> None:
    said: list[str] = []

    def fails_at_first(job: TrainingJob) -> Peak:
        if job.seed == 0:
            raise ValueError("no such\nwidth")
        return Peak(4 * GB, 16 * GB)

    assert measured_share(jobs(4), InProcessExecutor(), fails_at_first, StopSignal(), said.append) == 0.3333
    assert said == ["a trial's peak was 4.0 GB of 16.0 GB on the GPU: 3 at once, --gpus-per-trial 0.3333"]


def test_a_search_none_of_whose_trials_can_be_measured_ends_in_one_line() -> None:
    def fails(job: TrainingJob) -> Peak:
        raise ValueError("no such\nwidth")

    expected = "^--gpus-per-trial auto: no trial could be measured: ValueError: no such width; give a number$"
    with pytest.raises(RunError, match=expected):
        measured_share(jobs(4), InProcessExecutor(), fails, StopSignal(), print)


@without_gpu
def test_where_there_is_no_gpu_nothing_is_measured() -> None:
    with pytest.raises(UsageError, match=r"^--gpus-per-trial auto: no GPU here; leave it out, or give 0$"):
        measured_share(jobs(1), InProcessExecutor(), measure, StopSignal(), print)


@without_gpu
def test_the_command_is_refused_where_there_is_no_gpu(command: Callable[..., Any], isolated: Path) -> None:
    end = command("search", "--dataset", "hanzi", "--gpus-per-trial", "auto")
    assert (end.code, end.out) == (2, "")
    assert end.err == "d3tune: --gpus-per-trial auto: no GPU here; leave it out, or give 0\n"
    assert not (isolated / "runs").exists()


def test_an_option_is_a_number_or_auto() -> None:
    assert [parse_gpus(text) for text in (None, "auto", "0.5", "2")] == [None, "auto", 0.5, 2.0]
    with pytest.raises(UsageError, match=r"^--gpus-per-trial half: write a number, or auto$"):
        parse_gpus("half")


def test_what_was_measured_is_remembered_and_measured_anew_where_that_is_asked_for(toy_run: ToyRun) -> None:
    run, said, measured = toy_run(pruner="none"), list[str](), list[TrainingJob]()

    def three_fit(job: TrainingJob) -> Peak:
        measured.append(job)
        return Peak(4 * GB, 16 * GB)

    def search(plan: Plan) -> None:
        local = plan.resources.model_copy(update={"executor": "local", "address": None})
        with run.owned():
            run_search(run, replace(plan, resources=local), StopSignal(), said.append, measure=three_fit)

    whole = Resources(executor="local", gpus_per_trial=1.0)
    plan = Plan(1, None, whole, 0, False, default_uri(), auto_gpus=True)
    search(plan)
    assert said[0] == packing_line(Peak(4 * GB, 16 * GB))
    assert len(measured) == 1
    stored = run.read_plan()
    assert (stored["gpus_per_trial"], stored["measured_gpus"]) == ("auto", 0.3333)
    # a cluster's GPUs are not this machine's, which may have none
    cluster = {"executor": "ray", "address": "auto"}
    resumed = resumed_plan(run, cluster, "+1")
    assert (resumed.resources.gpus_per_trial, resumed.auto_gpus) == (0.3333, True)
    search(resumed)
    assert len(read_trials(run.journal)) == 2
    assert len(measured) == 1
    assert run.read_plan()["measured_gpus"] == 0.3333
    anew = resumed_plan(run, {**cluster, "gpus_per_trial": "auto"}, "+1")
    assert (anew.resources.gpus_per_trial, anew.measured_gpus) == (1.0, None)
    search(anew)
    assert len(measured) == 2
    number = resumed_plan(run, {**cluster, "gpus_per_trial": 0.5})
    assert (number.resources.gpus_per_trial, number.auto_gpus, number.measured_gpus) == (0.5, False, None)
    # nothing is left to train
    search(replace(anew, trials=3))
    assert len(measured) == 2


def test_a_trial_that_is_set_aside_comes_after_the_others_with_what_it_reported(
    open_ledger: Open, report: MakeReport
) -> None:
    ledger = open_ledger(pruner="none")
    first = ledger.next_trial(2)
    assert first is not None
    ledger.report(0, report(10, 0.5))
    ledger.set_aside(0)
    assert (ledger.running, ledger.n_left) == ([], 1)
    second = ledger.next_trial(2)
    assert second is not None
    assert second.number == 1
    assert ledger.next_trial(2) is None
    # as after a kill: the next process goes on with both
    killed = open_ledger(pruner="none").next_trial(2)
    assert ledger.recall()
    assert not ledger.recall()
    again = ledger.next_trial(2)
    for gone_on in (killed, again):
        assert gone_on is not None
        assert (gone_on.number, gone_on.known_update, gone_on.config) == (0, 10, first.config)


def test_a_checkpoint_that_finds_no_memory_is_not_taken_for_one_of_another_device(
    toy_run: ToyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial would be trained again from its begin."""
    run, config = toy_run(), load_backbone("gan").config
    (values, *_) = largest_first(run.load_space(config), config, 0)
    job = training_job(run, values, Resources(executor="local"))
    first = RunningTrial(job, tmp_path / "trial").next_report()

    def no_room(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    with monkeypatch.context() as patch:
        patch.setattr("d3tune.search.trial.load_trainings", no_room)
        with pytest.raises(torch.OutOfMemoryError):
            RunningTrial(job, tmp_path / "trial", first.update)
    assert RunningTrial(job, tmp_path / "trial", first.update).next_report().update > first.update
