"""What a ledger keeps of how far it is equals what its trials, all read again, say."""

from collections.abc import Callable

from d3tune.search.reports import Report
from d3tune.search.standing import Standing
from d3tune.search.study import Ledger
from d3tune.space import Space

Open = Callable[..., Ledger]
MakeReport = Callable[[int, float], Report]
STEPS = (10, 20, 30, 40)


def end(ledger: Ledger, number: int, how: str, value: float, report: MakeReport) -> None:
    """Carry a trial on as far as its kind of end needs; only a first few are never pruned."""
    if how == "failed":
        ledger.report(number, report(10, value))
        ledger.fail(number, "no luck")
        ledger.fail(number, "told twice")
    elif how != "left":
        for step in STEPS:
            if ledger.report(number, report(step, value)):
                return
        ledger.complete(number)


def same(ledger: Ledger) -> tuple[int, int, int | None]:
    kept, counted = ledger.standing, Standing(ledger.trials())
    found = [(of.begun, of.ended, None if of.best is None else of.best.number) for of in (kept, counted)]
    assert found[0] == found[1]
    return found[0]


def test_it_is_right_after_every_kind_of_end_and_after_opening_again(
    open_ledger: Open, space: Space, report: MakeReport
) -> None:
    # with the student's own head alone, a draw with all weights off is refused: a trial that ends as it begins
    narrow = space.with_fixed({"heads": ["student"]})
    plan = ["complete", "failed", "complete", "complete", "complete", "left", "complete", "failed", "complete"]
    values = [0.5, 0.99, 0.8, 0.7, 0.8, 0.6, 0.1, 0.3, 0.9]
    ledger = open_ledger(space=narrow, sampler="random")
    assert same(ledger) == (0, 0, None)
    for how, value in zip(plan * 3, values * 3, strict=True):
        assignment = ledger.next_trial(1000)
        assert assignment is not None
        end(ledger, assignment.number, how, value, report)
        same(ledger)
    begun, ended, best = same(ledger)
    assert begun == ended + 3 > 27, "no draw was refused: they begin and end at once"
    again = open_ledger(space=narrow, sampler="random")
    assert same(again) == (begun, ended, best)
    for _ in range(3):
        (assignment,) = [again.next_trial(0)]
        assert assignment is not None
        end(again, assignment.number, "complete", 0.95, report)
    assert same(again)[:2] == (begun, begun)
    states = {trial.state.name for trial in again.trials()}
    assert states == {"COMPLETE", "PRUNED", "FAIL"}
