"""What `d3tune ensemble` prints: the members with their weights, and the ensemble."""

from typing import TYPE_CHECKING

from d3tune.results.text import table_text, test_line
from d3tune.words import plural

if TYPE_CHECKING:
    from d3tune.search.ensemble import Ensemble, Weighed

HEADS = ["member", "run", "trial", "head", "updates", "weight", "val H", "confirmed val H"]


def ensemble_text(ensemble: "Ensemble") -> str:
    """A row a member, by weight, and one of the ensemble; its test; where it is kept."""
    ranked = sorted(ensemble.members, key=lambda item: (-item.weight, -item.member.val_H))
    whole = ["ensemble", "", "", "", "", "", f"{ensemble.val_H:.3f}", f"{ensemble.confirmed_H:.3f}"]
    return "\n".join(
        [
            table_text(HEADS, [*map(_row, ranked), whole], tight=True),
            "val H: of the trials, which chose the weights; confirmed: means over "
            f"{plural(len(ensemble.seeds), 'fresh seed')}. Both calibrated.",
            test_line(ensemble.test),
            f"run: {ensemble.place.path}",
        ]
    )


def _row(item: "Weighed") -> list[str]:
    member, selection = item.member, item.selection
    head, updates = (member.head, member.update) if selection is None else (selection.head, selection.updates)
    confirmed = "–" if selection is None or selection.val_H is None else f"{selection.val_H:.3f}"
    where = [member.job.backbone, member.run, str(member.number), head, str(updates)]
    return [*where, f"{item.weight:.2f}", f"{member.val_H:.3f}", confirmed]
