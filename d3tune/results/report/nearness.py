"""How alike two trials are in their hyper-parameters."""

from collections.abc import Mapping
from typing import Any

from d3tune.results.report.material import Material, Tried
from d3tune.results.report.scales import Scale


def distance(material: Material, scales: Mapping[str, Scale], one: Tried, other: Tried, without: str = "") -> float:
    """Mean difference of two trials over the searched hyper-parameters that either has.

    Of a number it is the distance on its axis, from 0 to 1; of a choice, and of what only one of them has or has on,
    it is 0 or 1.

    Args:
        material: of the run.
        scales: of its hyper-parameters.
        one: a trial.
        other: another.
        without: a hyper-parameter that does not count.

    Returns:
        Between 0 and 1; 0 where there is nothing to differ in.
    """
    differences = []
    for name, scale in scales.items():
        if name != without:
            a, b = material.setting(one, name), material.setting(other, name)
            if a is not None or b is not None:
                differences.append(_difference(scale, a, b))
    return sum(differences) / len(differences) if differences else 0.0


def _difference(scale: Scale, a: Any, b: Any) -> float:
    if a == b:
        return 0.0
    if a is None or b is None or scale.choices or (scale.off and 0 in (a, b)):
        return 1.0
    return abs(scale.position(a) - scale.position(b))
