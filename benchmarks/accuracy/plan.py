"""Everything there is to do, in the order in which it is done: cells, dataset by dataset, then the questions."""

from dataclasses import dataclass

from benchmarks.accuracy import draws, terms
from benchmarks.accuracy.cells import GENERATIVE, Cell, cells
from benchmarks.accuracy.tasks import CellTask, QuestionTask, Task

QUESTIONS = ("terms", "diagnosis", "anchor", "optimism", "draws")


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Attributes:
        datasets: in order.
        backbones: in order.
        arms: of generative backbones.
        questions: of `QUESTIONS`.
        trials: of each cell.
        seeds: of each confirmation.
        further: ``key=value`` that rehearsals fix.
    """

    datasets: tuple[str, ...]
    backbones: tuple[str, ...]
    arms: tuple[str, ...]
    questions: tuple[str, ...]
    trials: int
    seeds: int
    further: tuple[str, ...] = ()

    @property
    def cells(self) -> list[Cell]:
        """Every cell, dataset by dataset."""
        return cells(self.datasets, self.backbones, self.arms)

    @property
    def tasks(self) -> list[Task]:
        """Every task; what one needs comes before it."""
        searches: list[Task] = [CellTask(cell, self.trials, self.seeds, self.further) for cell in self.cells]
        return [*searches, *(task for dataset in self.datasets for task in self._questions(dataset))]

    def _questions(self, dataset: str) -> list[Task]:
        found: list[Task] = []
        for kind in self.questions:
            for backbone in self.backbones:
                needed = self._needed(kind, Cell(dataset, backbone, ""))
                if needed is not None:
                    found.append(QuestionTask(kind, dataset, backbone, needed, self.seeds, self.further))
        return found

    def _needed(self, kind: str, about: Cell) -> tuple[str, ...] | None:
        """Names of the cells that a question goes on from; None where it is not asked of this backbone."""
        there = {
            cell.arm: cell.name
            for cell in self.cells
            if (cell.dataset, cell.backbone) == (about.dataset, about.backbone)
        }
        if kind == "draws":
            return () if about.backbone in draws.BACKBONES else None
        if kind == "optimism":
            return tuple(there.values())
        if kind == "anchor":
            return (there["none"],) if about.backbone in GENERATIVE and "none" in there else None
        return (there["d3"],) if about.backbone in terms.BACKBONES and "d3" in there else None
