"""What the anchor adds to each generator, and ReMSE to vaegan's decoder, at the winner of arm ``none``."""

from typing import Any

from benchmarks.accuracy.spaces import EXPONENTS
from benchmarks.accuracy.variants import Given, variant_rows, winner_of

ANCHORS = ("none", "ridge")


def answer(given: Given) -> dict[str, Any]:
    """Rows of the winner, of it with the other anchor, and of vaegan's decoder with plain MSE."""
    winner = winner_of(given.only_cell())
    own = winner.job.config["anchor"]
    variants: dict[str, dict[str, Any]] = {f"anchor {name}": _anchored(name) for name in ANCHORS if name != own}
    if given.backbone == "vaegan":
        variants["decoder by MSE (p = p2 = 0)"] = dict.fromkeys(EXPONENTS, 0.0)
    rows = variant_rows(winner, variants, given.place)
    rows[0]["name"] = f"winner (anchor {own})"
    return {"own": own, "rows": rows}


def _anchored(name: str) -> dict[str, Any]:
    # a residual has no range: the output is linear whatever the winner had
    return {"anchor": name}
