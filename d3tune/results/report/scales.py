"""Where a hyper-parameter's value lies on an axis, whatever kind it is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.ticker import MaxNLocator

from d3tune.space import Parameter

# the place of a value that is exactly 0 where the others are on a logarithmic axis or have an interval above 0
OFF = -0.15
# relative distance of two ticks that would overlap
CLOSE = 0.12


@dataclass(frozen=True)
class Scale:
    """Of one searched hyper-parameter: its interval, or its choices, on an axis from 0 to 1.

    Attributes:
        name: of the hyper-parameter.
        low: the smallest value, of the interval and of the trials.
        high: the largest.
        log: whether the axis is logarithmic.
        off: whether the value may also be exactly 0, which is then at `OFF`.
        choices: instead of an interval; in their order.
    """

    name: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    off: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def integer(self) -> bool:
        """Whether the interval is one of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def label(self) -> str:
        """The name, and that the axis is logarithmic."""
        return f"{self.name} (log)" if self.log else self.name

    def position(self, value: Any) -> float:
        """Where a value lies: 0 is the low end, 1 the high end."""
        if self.choices:
            return self.choices.index(value) / max(1, len(self.choices) - 1)
        if self.off and value == 0:
            return OFF
        low, high, at = (math.log(x) if self.log else float(x) for x in (self.low, self.high, value))
        return (at - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        """Places and labels, no two of them close."""
        if self.choices:
            return [(self.position(value), _short(value)) for value in self.choices]
        zero = [(OFF, "0")] if self.off else []
        return [*zero, *((self.position(value), f"{value:g}") for value in self._marked())]

    def _marked(self) -> list[float]:
        if not self.log:
            within = MaxNLocator(4, steps=[1, 2, 5, 10], integer=self.integer).tick_values(self.low, self.high)
            return [float(value) for value in within if self.low <= value <= self.high]
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        powers = [10.0**exponent for exponent in range(first, last + 1)]
        ends = [end for end in (self.low, self.high) if all(self._apart(end, other) for other in powers)]
        return sorted([*powers, *ends])

    def _apart(self, one: float, other: float) -> bool:
        return abs(self.position(one) - self.position(other)) > CLOSE


def scale_of(name: str, parameter: Parameter, values: Sequence[Any]) -> Scale:
    """The scale of a hyper-parameter that covers its interval and what trials had, perhaps before it was extended.

    Args:
        name: of the hyper-parameter.
        parameter: how it is searched.
        values: of the trials that it was searched for.
    """
    if parameter.choices is not None:
        return Scale(name, choices=tuple(dict.fromkeys([*parameter.choices, *values])))
    on = [value for value in values if not (parameter.off and value == 0)]
    low, high = min([parameter.low, *on]), max([parameter.high, *on])
    return Scale(name, low, high, parameter.log and low > 0, parameter.off)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
