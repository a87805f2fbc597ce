"""Tables of the report."""

from collections.abc import Mapping, Sequence

from benchmarks.accuracy.evidence import SHOWN
from benchmarks.accuracy.statistics import Difference, closed_row
from benchmarks.accuracy.variants import difference_cells

MODEL_HEAD = ["model", *SHOWN, "note"]
DIFFERENCE_HEAD = ["backbone", "arm", "minus", "ΔH [95 %]", "p", "pairs", "by dataset"]
GAUSSIAN, BELOW = "gaussian", "below gaussian"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def model_rows(means: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """A row a model, marked where it does not reach gaussian's H."""
    closed = [name for name in means if name in (GAUSSIAN, closed_row("gaussian"), closed_row("ESZSL"))]
    reference = means.get(GAUSSIAN) or means.get(closed_row("gaussian"))
    rows = []
    for name, values in means.items():
        below = reference is not None and name not in closed and values["H"] < reference["H"]
        rows.append([name, *(f"{values[key]:.3f}" for key in SHOWN), BELOW if below else ""])
    return rows


def difference_row(item: Difference) -> list[str]:
    """Cells of `DIFFERENCE_HEAD`."""
    interval, p = difference_cells(vars(item.paired))
    return [item.backbone, item.arm, item.other, interval, p, str(item.pairs), by_dataset(item.by_dataset)]


def by_dataset(values: Mapping[str, float]) -> str:
    """Each dataset's mean difference."""
    return ", ".join(f"{name} {value:+.3f}" for name, value in values.items())


def number(value: float | None, digits: int = 3) -> str:
    """A number, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}"
