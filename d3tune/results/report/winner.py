"""Where the confirmed winner is right and wrong: figures of what was recorded when the test was made."""

from d3tune.results.report.class_accuracy import class_accuracy
from d3tune.results.report.confused import confused
from d3tune.results.report.figure import Drawn
from d3tune.results.report.ood import ood_scores
from d3tune.results.report.style import styled
from d3tune.results.report.tradeoff import tradeoff
from d3tune.search.analysis import Recorded, read_analysis
from d3tune.search.run import RunDirectory
from d3tune.words import plural

# names and titles, in the order of the page
FIGURES = {
    "winner-classes": "Test accuracy of every class",
    "winner-confusions": "Seen and unseen classes taken for each other",
    "winner-curve": "Seen–unseen curve of the winner",
    "winner-ood": "OOD score of seen and unseen test rows",
}
DRAWING = (class_accuracy, confused, tradeoff, ood_scores)


def winner_figures(run: RunDirectory) -> list[Drawn]:
    """Accuracy of every class, confusions, the seen–unseen curve and the OOD score of a run's confirmed winner.

    Args:
        run: any; where nothing was recorded, each figure says why.
    """
    recorded = read_analysis(run)
    missing = recorded if isinstance(recorded, str) else recorded.missing
    if isinstance(recorded, str) or recorded.analysis is None:
        missing = missing[:1].upper() + missing[1:]
        return [Drawn(name, title, "", "", None, f"{missing}.") for name, title in FIGURES.items()]
    with styled():
        return [
            draw(name, title, recorded.analysis, tested(recorded))
            for draw, (name, title) in zip(DRAWING, FIGURES.items(), strict=True)
        ]


def tested(recorded: Recorded) -> str:
    """Protocol and model of what is shown, for captions."""
    unit = "sd of the training rows' margins" if recorded.offset_unit == "margin_sd" else "units of the head's scores"
    return (
        f"Test protocol, seed {recorded.seed}: trained on all of trainval for {plural(recorded.updates, 'update')}, "
        f"read by the head {recorded.head} at the offset {recorded.seen_offset:.3g} ({unit}), all fixed by validation."
    )
