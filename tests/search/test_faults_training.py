"""Faults within a training: what is not finite, and what raises, costs its trial alone and is named."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.trial import FrozenTrial, TrialState

from d3tune.errors import NoUsableTrialError
from d3tune.method import training
from d3tune.method.generators.gan import Gan
from d3tune.method.heads import HeadReader
from d3tune.method.training import Training
from d3tune.search.request import Request, prepare_run
from d3tune.search.run import RunDirectory
from d3tune.search.search import Outcome
from d3tune.search.study import read_trials

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

ToyRun = Callable[..., RunDirectory]
CarryOut = Callable[..., Outcome]
Sound = Callable[..., None]
NAN, INF = float("nan"), float("inf")


def first_of(run: RunDirectory) -> FrozenTrial:
    """The trial that was made to fail; the one after it must be complete."""
    failed, following = read_trials(run.journal)
    assert failed.state == TrialState.FAIL
    assert following.state == TrialState.COMPLETE
    return failed


@pytest.fixture
def searched(toy_run: ToyRun, carry_out: CarryOut, sound: Sound) -> Callable[[], FrozenTrial]:
    """``searched()``: a search of two trials, the first of which fails; returns that one."""

    def search() -> FrozenTrial:
        run = toy_run(pruner="none")
        carry_out(run, trials=2)
        sound(run, 2)
        return first_of(run)

    return search


Searched = Callable[[], FrozenTrial]


def spoil_call(monkeypatch: pytest.MonkeyPatch, of: Any, name: str, n: int, spoil: Callable[[Any], Any]) -> None:
    """Let the n-th call of a function return something else."""
    sound, calls = getattr(of, name), [0]

    def spoilt(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        result = sound(*arguments, **options)
        return spoil(result) if calls[0] == n else result

    monkeypatch.setattr(of, name, spoilt)


@pytest.mark.parametrize(("update", "value"), [(1, NAN), (6, INF), (20, -INF)])
def test_a_loss_that_is_not_finite_is_named_with_its_update(
    update: int, value: float, searched: Searched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first and the last update of an interval, and at the very last; no later than the next evaluation."""
    spoil_call(
        monkeypatch,
        Gan,
        "loss_and_rows",
        update,
        lambda loss: (loss[0], {**loss[1], "bad": torch.tensor(value)}, loss[2]),
    )
    # a loss of one update alone would be a table with holes
    spoil_all_parts(monkeypatch)
    failed = searched()
    assert failed.user_attrs["failure"] == f"diverged: loss bad is not finite at update {update}"
    assert sorted(failed.intermediate_values) == [step for step in (5, 10, 15, 20) if step < update]


def spoil_all_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    spoilt = Gan.loss_and_rows

    def with_part(*arguments: Any) -> Any:
        total, parts, rows = spoilt(*arguments)
        return total, {"bad": torch.tensor(0.0), **parts}, rows

    monkeypatch.setattr(Gan, "loss_and_rows", with_part)


@pytest.mark.parametrize(("update", "reported"), [(5, []), (6, [5])])
def test_a_gradient_that_is_not_finite_is_noticed_at_the_next_evaluation(
    update: int, reported: list[int], searched: Searched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are spoilt by it, and with them the next loss; or the scores, where none follows."""

    def steep(loss: Any) -> Any:
        total, *others = loss
        return total + INF * (total - total.detach()), *others

    spoil_call(monkeypatch, Gan, "loss_and_rows", update, steep)
    failed = searched()
    assert sorted(failed.intermediate_values) == reported
    reason = failed.user_attrs["failure"]
    if update % 5:
        assert reason.startswith("diverged: loss ")
        assert reason.endswith(f"is not finite at update {update + 1}")
    else:
        assert reason == f"diverged: a score of head softmax is not finite at update {update}"


@pytest.mark.parametrize(("call", "update"), [(1, 5), (8, 20)])
def test_a_score_that_is_not_finite_fails_the_trial(
    call: int, update: int, searched: Searched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(scores: Any) -> Any:
        scores.unseen[0, 0] = NAN
        return scores

    spoil_call(monkeypatch, HeadReader, "scores", call, spoil)
    head = ("softmax", "prototype")[(call - 1) % 2]
    expected = f"diverged: a score of head {head} is not finite at update {update}"
    assert searched().user_attrs["failure"] == expected


@pytest.mark.parametrize(("call", "update", "value"), [(1, 5, NAN), (4, 20, INF)])
def test_a_measure_that_is_not_finite_fails_the_trial(
    call: int, update: int, value: float, searched: Searched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the last evaluation too, where no checkpoint is written."""
    spoil_call(monkeypatch, training, "auroc", call, lambda _: value)
    assert searched().user_attrs["failure"] == f"diverged: val/AUROC is not finite at update {update}"


def test_an_exception_in_an_evaluation_is_the_reason_of_its_trial_alone(
    searched: Searched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Any) -> None:
        raise ValueError("no such\n  head")

    spoil_call(monkeypatch, Training, "evaluate", 3, fail)
    failed = searched()
    assert failed.user_attrs["failure"] == "ValueError: no such head"
    assert sorted(failed.intermediate_values) == [5, 10]


@pytest.mark.parametrize("text", ["\udcff.npy a\0b", "∞" * 3000])
def test_whatever_an_exception_says_it_is_recorded_everywhere(
    text: str, searched: Searched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file name that is no text, and a NUL; far too much."""

    def fail(_: Any) -> None:
        raise RuntimeError(text)

    spoil_call(monkeypatch, Training, "evaluate", 1, fail)
    reason = searched().user_attrs["failure"]
    assert reason.startswith("RuntimeError:")
    assert len(reason) <= 500
    assert reason.isprintable()


def test_the_most_frequent_reason_is_given_where_every_trial_fails(
    toy_run: ToyRun, carry_out: CarryOut, sound: Sound, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons = iter(["one", "two", "two", "three"])

    def fail(*_: Any) -> None:
        raise OSError(next(reasons))

    run = toy_run()
    with monkeypatch.context() as context:
        context.setattr(Training, "evaluate", fail)
        with pytest.raises(NoUsableTrialError, match="4 of 4 failed, most often with: OSError: two") as error:
            carry_out(run, trials=4)
    assert error.value.exit_code == 3
    # the next trials may do better
    carry_out(run, trials=6)
    sound(run, 6)


def test_semantics_without_a_scale_are_a_divergence_of_gaussian(
    isolated: Path, mlflow_template: Path, tmp_path: Path, write_toy: Callable[..., Path], carry_out: CarryOut
) -> None:
    """Most seen classes share theirs: their median distance, the width of the kernel, is 0."""
    isolated.mkdir()
    shutil.copy(mlflow_template, isolated / "mlflow.db")

    def share(content: dict[str, Any]) -> None:
        content["att"][:, :11] = content["att"][:, :1]

    where = write_toy(tmp_path / "toy", share)
    request = Request("toy", "gaussian", data_dir=where, settings=("kernel=rbf",), warm_start=("none",))
    run, _ = prepare_run(request)
    with pytest.raises(NoUsableTrialError, match="most often with: diverged: a score of head discriminant is not fin"):
        carry_out(run, trials=2)
    assert [trial.state for trial in read_trials(run.journal)] == [TrialState.FAIL] * 2
