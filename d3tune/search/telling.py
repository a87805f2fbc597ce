"""What a search says while it goes on, one line an event."""

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from d3tune.errors import NoUsableTrialError
from d3tune.search.reports import best_report
from d3tune.search.standing import Standing, winner
from d3tune.search.study import reports_of
from d3tune.words import plural


def trial_line(trial: FrozenTrial, standing: Standing, planned: int, metric: str) -> str:
    """How a trial ended, how many have, and whether it is the best so far; most fit a terminal of 80 columns.

    Args:
        trial: the one that ended.
        standing: of the study.
        planned: trials of the run in all.
        metric: name of the searched quantity.
    """
    reports = reports_of(trial)
    text = f"trial {trial.number:>3}  {standing.ended:>3}/{planned}  {trial.state.name.lower():<8}"
    if trial.state == TrialState.FAIL:
        return f"{text}  {trial.user_attrs.get('failure', '')}"
    best = best_report(reports)
    leads = standing.best is not None and standing.best.number == trial.number
    text += f"  {metric} {best.value:.3f} {'best' if leads else '':<4}  {reports[-1].seconds:6.1f} s"
    return f"{text}  {best.head}, update {best.update}"


def confirming_line(earlier: Mapping[str, Any], number: int, value: str, n_seeds: int) -> str:
    """That a winner is confirmed now, or was before.

    Args:
        earlier: the summary that the command before left.
        number: of the winner.
        value: of the winner, with the quantity's name.
        n_seeds: that were asked for.
    """
    before = seeds_before(earlier, number)
    if before == 0:
        return f"confirming trial {number} ({value}) with {plural(n_seeds, 'fresh seed')}"
    if before >= n_seeds:
        kept = "" if before == n_seeds else f", which stay: --confirm-seeds {n_seeds} is fewer"
        return f"confirmed already: trial {number} ({value}) with {plural(before, 'seed')}{kept}"
    test = earlier["test"]
    figure = f"{test['protocol']} H {test['H']['mean']:.3f} over {plural(before, 'seed')}"
    return f"confirming trial {number} ({value}) with {plural(n_seeds, 'seed')}, in place of {figure}"


def seeds_before(earlier: Mapping[str, Any], number: int) -> int:
    """With how many seeds a trial is confirmed already; 0 for one that is not.

    Args:
        earlier: the summary that the command before left.
        number: of the trial.
    """
    test = earlier.get("test")
    return 0 if test is None or earlier.get("confirmed_trial") != number else len(test["H_per_seed"])


def left_line(left: int, planned: int, resume_command: str) -> str:
    """That the time limit left trials over."""
    return f"--time is over: {left} of {plural(planned, 'trial')} left; go on with: {resume_command}"


def refuse_without_winner(trials: Sequence[FrozenTrial], left: int, resume_command: str) -> None:
    """End a search of which no trial can be selected.

    Args:
        trials: of its study.
        left: trials that the time limit left over.
        resume_command: what goes on with it.

    Raises:
        NoUsableTrialError: no trial is COMPLETE; it names the most frequent reason.
    """
    if winner(trials) is not None:
        return
    reasons = [trial.user_attrs.get("failure", "unknown") for trial in trials if trial.state == TrialState.FAIL]
    if not reasons:
        raise NoUsableTrialError(
            f"no trial was completed ({len(trials)} begun); give the search more --trials or --time"
        )
    common = max(set(reasons), key=reasons.count)
    advice = f"; --time left {plural(left, 'trial')} over, go on with: {resume_command}" if left else ""
    raise NoUsableTrialError(
        f"no trial was completed: {len(reasons)} of {len(trials)} failed, most often with: {common}{advice}"
    )
