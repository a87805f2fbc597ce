"""The halving pruner against its rule, written down slowly, over searches in which anything happens to a trial."""

import random

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from d3tune.search.pruning import make_pruner

UPDATES = 80
RUNGS = (20, 40, 80)


def by_the_rule(trials: list[FrozenTrial], trial: FrozenTrial) -> bool:
    """Below the best half of at least four, at the first report at or after a rung; failed trials do not count."""
    steps = sorted(trial.intermediate_values)
    passed = [rung for rung in RUNGS if steps[-1] >= rung]
    if not passed or (len(steps) > 1 and steps[-2] >= passed[-1]):
        return False
    values = []
    for other in trials:
        later = sorted(step for step in other.intermediate_values if step >= passed[-1])
        if later and other.state != TrialState.FAIL:
            values.append(other.intermediate_values[later[0]])
    if len(values) < 4:
        return False
    better = sum(value > trial.intermediate_values[steps[-1]] for value in values)
    return better >= max(1, len(values) // 2)


@pytest.mark.parametrize("seed", range(4))
def test_it_decides_by_the_rule_whatever_the_others_do(seed: int) -> None:
    draw = random.Random(seed)
    study = optuna.create_study(direction="maximize")
    pruner, running, decisions = make_pruner("asha", UPDATES), [study.ask() for _ in range(6)], []
    for _ in range(600):
        trial = draw.choice(running)
        frozen = study.trials[trial.number]
        step = (frozen.last_step or 0) + draw.choice([5, 10, 30])
        trial.report(draw.choice([0.1, 0.5, draw.random()]), step)
        if draw.random() < 0.03:
            # a resumed search: a new pruner for an old study
            pruner = make_pruner("asha", UPDATES)
        found = pruner.prune(study, study.trials[trial.number])
        decisions.append(found)
        assert found == by_the_rule(study.trials, study.trials[trial.number])
        ends = {TrialState.PRUNED: found, TrialState.FAIL: draw.random() < 0.05, TrialState.COMPLETE: step >= UPDATES}
        state = next((state for state, so in ends.items() if so), None)
        if state is not None:
            study.tell(trial, 0.5 if state == TrialState.COMPLETE else None, state)
            running[running.index(trial)] = study.ask()
    assert {True, False} == set(decisions)
