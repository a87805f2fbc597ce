"""How a search ends: what its summary says, what is said where that cannot be written, what is tried again."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from optuna.trial import TrialState

from d3tune.errors import NoUsableTrialError, RunError
from d3tune.method.generators import load_backbone
from d3tune.search.executor import StopSignal
from d3tune.search.invariants import run_faults
from d3tune.search.reports import Report
from d3tune.search.run import RunDirectory
from d3tune.search.search import Outcome
from d3tune.search.study import Ledger, read_trials
from d3tune.search.tracking import default_uri
from d3tune.space import Space

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

ToyRun = Callable[..., RunDirectory]
CarryOut = Callable[..., Outcome]
OnReport = Callable[[Callable[[int, Report], None]], None]


@pytest.fixture
def unwritable(no_file_larger: Callable[[int], AbstractContextManager[None]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk has no room for a summary."""
    write = RunDirectory.write_summary

    def limited(*arguments: Any) -> None:
        with no_file_larger(10):
            write(*arguments)

    monkeypatch.setattr(RunDirectory, "write_summary", limited)


def unwritten(run: RunDirectory) -> str:
    return f"{run.path}: the summary cannot be written: File too large; the study is whole"


def test_a_search_that_fails_says_too_that_its_summary_is_not_written(
    unwritable: None, toy_run: ToyRun, carry_out: CarryOut
) -> None:
    run, said = toy_run(), list[str]()
    with pytest.raises(NoUsableTrialError):
        carry_out(run, trials=1, seconds=0.0, said=said)
    assert said == [unwritten(run)]
    # MLflow is not left behind for it
    assert run_faults(run, default_uri()) == []


@pytest.mark.parametrize("stopped", [False, True])
def test_a_summary_that_is_not_written_ends_the_search_with_what_to_do(
    stopped: bool, unwritable: None, toy_run: ToyRun, carry_out: CarryOut
) -> None:
    run, said = toy_run(pruner="none"), list[str]()
    with pytest.raises(RunError) as error:
        carry_out(run, trials=1, stop=StopSignal(requested=stopped), said=said)
    assert str(error.value) == f"{unwritten(run)}; mend that, then resume"
    assert unwritten(run) not in said
    assert run_faults(run, default_uri()) == []


@pytest.mark.parametrize("how", ["drained", "at once"])
def test_the_summary_of_a_search_that_was_stopped_says_so(
    how: str, toy_run: ToyRun, carry_out: CarryOut, on_report: OnReport
) -> None:
    """Also where all trials are there: whether its winner was confirmed is another matter."""
    run, stop = toy_run(pruner="none"), StopSignal()

    def interrupt(made: int, _: Report) -> None:
        stop.requested = made == 4 and how == "drained"
        if made == 4 and how == "at once":
            raise KeyboardInterrupt

    on_report(interrupt)
    outcome = carry_out(run, trials=1, confirm_seeds=1, stop=stop)
    assert outcome.interrupted
    state = TrialState.COMPLETE if how == "drained" else TrialState.RUNNING
    assert [trial.state for trial in read_trials(run.journal)] == [state]
    summary = run.read_summary() or {}
    assert (summary["state"], summary["test"]) == ("interrupted", None)
    on_report(lambda made, _: None)
    carry_out(run, trials=1, confirm_seeds=1)
    summary = run.read_summary() or {}
    assert summary["state"] == "done"
    assert summary["test"] is not None


def test_a_failed_trial_is_tried_again_also_where_nothing_is_searched(
    open_ledger: Callable[..., Ledger], space: Space
) -> None:
    """A space whose hyper-parameters are all fixed: the trial has no parameters, and is known all the same."""
    plain = load_backbone(space.backbone).config().model_dump()
    fixed = space.with_fixed({name: plain[name] for name in space.parameters})
    ledger = open_ledger(space=fixed)
    first = ledger.next_trial(10)
    assert first is not None
    ledger.fail(first.number, "MemoryError: no")
    assert [trial.params for trial in ledger.trials()] == [{}]
    assert (ledger.retry_failed(10), ledger.waiting_retries) == ([0], 1)
    second = ledger.next_trial(10)
    assert second is not None
    assert (second.number, second.config) == (1, first.config)
    assert ledger.retry_failed(10) == []
