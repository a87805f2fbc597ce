"""What a search says while it goes on, one line an event."""

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from d3tune.config import SearchConfig
from d3tune.errors import NoUsableTrialError
from d3tune.search.aims import Constraint, broken, reading
from d3tune.search.convergence import TOLERANCE, Converged
from d3tune.search.reports import best_report
from d3tune.search.standing import Standing, winner
from d3tune.search.study import reports_of
from d3tune.words import plural


def trial_line(trial: FrozenTrial, standing: Standing, planned: int, search: SearchConfig) -> str:
    """How a trial ended, how many have, and whether it is the best so far; most fit a terminal of 80 columns.

    Args:
        trial: the one that ended.
        standing: of the study.
        planned: trials of the run in all.
        search: what is searched for.
    """
    reports = reports_of(trial)
    text = f"trial {trial.number:>3}  {standing.ended:>3}/{planned}  {trial.state.name.lower():<8}"
    if trial.state == TrialState.FAIL:
        return f"{text}  {trial.user_attrs.get('failure', '')}"
    best = best_report(reports)
    leads = standing.best is not None and standing.best.number == trial.number
    text += f"  {search.searched_metric} {best.value:.3f} {'best' if leads else '':<4}  {reports[-1].seconds:6.1f} s"
    text += "".join(f"  {name} {reading(best, name, search):.3f}" for name in _further(search))
    unmet = "".join(f", not {text}" for text in broken(trial))
    return f"{text}  {best.head}, update {best.update}{unmet}"


def _further(search: SearchConfig) -> list[str]:
    """What counts beside the objective: the aims, and what constraints bound."""
    bounded = [Constraint.parse(text).name for text in search.constraints]
    return [name for name in dict.fromkeys([*search.aims, *bounded]) if name != search.objective]


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


def converged_line(found: Converged, planned: int, metric: str) -> str:
    """That a search ends before its trials are used up, and why."""
    return (
        f"converged: {found.left} of {plural(planned, 'trial')} are not begun: they are expected to raise {metric} by "
        f"{found.improvement:.4f}, less than {TOLERANCE:g}; d3tune resume --no-stop-when-converged begins them"
    )


def refuse_without_winner(trials: Sequence[FrozenTrial], left: int, resume_command: str, search: SearchConfig) -> None:
    """End a search of which no trial can be selected.

    Args:
        trials: of its study.
        left: trials that the time limit left over.
        resume_command: what goes on with it.
        search: has the constraints.

    Raises:
        NoUsableTrialError: no trial is COMPLETE, then it names the most frequent reason; or of none of them every
            constraint holds, then it names the nearest.
    """
    if winner(trials) is not None:
        return
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if complete and search.constraints:
        further = f"more trials: {resume_command} --trials +{len(trials)}"
        further = f"--time left {plural(left, 'trial')} over, go on with: {resume_command}" if left else further
        raise NoUsableTrialError(
            f"of {plural(len(complete), 'complete trial')} none meets --constraint {' and '.join(search.constraints)}; "
            f"{_nearest(complete, search)}; {further}; or search again with a looser one"
        )
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


def _nearest(complete: Sequence[FrozenTrial], search: SearchConfig) -> str:
    """Which trial breaks the fewest constraints, by the smallest share of a bound, and what it has."""

    def distance(trial: FrozenTrial) -> tuple[int, float]:
        shares = [max(0.0, share) for share in trial.constraints.values()]
        return sum(share > 0 for share in shares), sum(shares)

    trial = min(complete, key=distance)
    best = best_report(reports_of(trial))
    names = dict.fromkeys(Constraint.parse(text).name for text in broken(trial))
    has = ", ".join(f"{name} {reading(best, name, search):.3f}" for name in names)
    return f"the nearest, trial {trial.number}, has {has} at {search.searched_metric} {best.value:.3f}"
