"""The columns of what a model in MLflow answers."""

from collections.abc import Sequence

LABEL = "label"


def columns_of(classes: Sequence[str]) -> list[str]:
    """``label``, then one of scores for each class, by its name.

    Names that would be columns twice get their class's number.
    """
    names = [LABEL, *classes]
    doubled = len(set(names)) < len(names)
    return [LABEL, *(f"{number} {name}" if doubled else name for number, name in enumerate(classes))]
