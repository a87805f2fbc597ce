"""What each term and each decision is worth at the winner of arm ``d3``, without tuning anything again."""

from typing import Any

from benchmarks.accuracy.spaces import WEIGHTS
from benchmarks.accuracy.variants import Given, variant_rows, winner_of
from d3tune.search.ablate import TERMS

BACKBONES = ("gan", "vae")
OOD_DIMENSIONS, GENERATOR_WEIGHTS = (2, 4, 8, 16), (0.0, 0.01, 1.0)


def answer(given: Given) -> dict[str, Any]:
    """Rows of the winner and its variants."""
    return {"rows": variant_rows(winner_of(given.only_cell()), variants(), given.place)}


def variants() -> dict[str, dict[str, Any]]:
    """Names, and what each changes."""
    found: dict[str, dict[str, Any]] = {}
    found |= {f"without {TERMS[weight]}": {weight: 0.0} for weight in WEIGHTS}
    for kept in WEIGHTS:
        found[f"{TERMS[kept]} alone"] = {weight: 0.0 for weight in WEIGHTS if weight != kept}
    found["no D³ term"] = dict.fromkeys(WEIGHTS, 0.0)
    found["official fidelity"] = {"fidelity": "official"}
    found |= {f"d = {dimension}": {"ood_embed_dim": dimension} for dimension in OOD_DIMENSIONS}
    found |= {f"D³ gradient into the generator × {weight:g}": _weighted(weight) for weight in GENERATOR_WEIGHTS}
    found |= {f"pair balance {word}": {"pair_balance": word == "on"} for word in ("on", "off")}
    return found


def _weighted(weight: float) -> dict[str, Any]:
    return {"generator_d3_weight": weight}
