"""What the machines of a cluster must have of a search before they train for it."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Site:
    """One search, as another machine looks for it.

    Attributes:
        folder: its run directory, which all machines share; empty for work that writes none.
        uid: of the run, which its run.yaml says.
        dataset: the prepared dataset, where the machine that began the search has it.
        dataset_hash: its content; a machine without it gets it, one with another is refused.
    """

    folder: str
    uid: str
    dataset: str
    dataset_hash: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)
