"""How much each hyper-parameter mattered, as Optuna's default evaluator says."""

import warnings
from collections.abc import Sequence
from shlex import quote

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from d3tune.results.report.figure import Drawn
from d3tune.results.report.material import Material
from d3tune.results.report.style import BLUE, figure
from d3tune.search.aims import value_of
from d3tune.words import plural

# PED-ANOVA compares the best tenth with all: of fewer there is no tenth
FEWEST = 10
MOST_SHOWN = 25


def importance(material: Material) -> Drawn:
    """Bars of the importances, the largest above."""
    name, title = "importance", "Importance of hyper-parameters"
    complete = [trial for trial in material.frozen if trial.state == TrialState.COMPLETE]
    reason = _refused(complete, material.run.name)
    found = {} if reason else importances(complete)
    if not reason and not any(found.values()):
        reason = "The evaluator found no hyper-parameter to matter."
    if reason:
        return Drawn(name, title, "", "", None, reason)
    shown = dict(list(found.items())[:MOST_SHOWN])
    drawn = figure(0.9 + 0.22 * len(shown))
    axes = drawn.subplots()
    bars = axes.barh(range(len(shown)), list(shown.values()), color=BLUE, height=0.7)
    axes.bar_label(bars, [f"{value:.2f}" for value in shown.values()], padding=3, fontsize=8)
    axes.set_yticks(range(len(shown)), list(shown))
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.margins(x=0.1)
    axes.set_xlabel(f"share of the importance of all, for {material.run.search.searched_metric}")
    caption = (
        f"Share of each hyper-parameter in the importance of all (they sum to 1) for {material.metric}, by Optuna's "
        f"default evaluator, PED-ANOVA: how much the best tenth of the {len(complete)} complete trials differs from "
        "all of them in it. NAME.on is whether a weight is above 0. Rough where the tenth is a few trials."
    )
    if len(found) > len(shown):
        caption += f" The {plural(len(found) - len(shown), 'least important hyper-parameter')} left out."
    first = ", ".join(f"{key} {value:.2f}" for key, value in list(shown.items())[:3])
    return Drawn(name, title, caption, f"Bars of importance; the largest: {first}.", drawn)


def importances(complete: Sequence[FrozenTrial]) -> dict[str, float]:
    """Of every hyper-parameter that a trial had, conditional ones too, the largest first; they sum to 1.

    Args:
        complete: trials of one study.
    """
    verbosity = optuna.logging.get_verbosity()
    # a line of Optuna's on a study that nobody made
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        # the caption says that it is rough
        warnings.filterwarnings("ignore", "Some regimes for parameter")
        study = optuna.create_study(direction="maximize")
        optuna.logging.set_verbosity(verbosity)
        study.add_trials([_by_objective(trial) for trial in complete])
        # Optuna's default, by name, so that another default later says something else only where the caption does
        found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    # of equal ones Optuna's order differs from process to process
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _by_objective(trial: FrozenTrial) -> FrozenTrial:
    """The trial with its objective as its one value, whatever it had."""
    return optuna.trial.create_trial(value=value_of(trial), params=trial.params, distributions=trial.distributions)


def _refused(complete: Sequence[FrozenTrial], run: str) -> str:
    """Why importances of these trials would say nothing; empty where they would."""
    if len(complete) < FEWEST:
        return (
            f"Importances need at least {FEWEST} complete trials (pruned and failed ones do not count); the study has "
            f"{len(complete)}. More: d3tune resume {quote(run)} --trials +{FEWEST}"
        )
    if len({value_of(trial) for trial in complete}) == 1:
        return f"All {len(complete)} complete trials have the same value: nothing made a difference."
    if not any(trial.params for trial in complete):
        return "Nothing was searched."
    return ""
