"""What an evaluation costs: ``python -m benchmarks.evaluation``.

`gan` at its default widths on simulated features of FLO's and CUB's shapes: synthetic rows of every unseen class, the
heads fitted on real and synthetic rows, both test sets scored. Once with the ``softmax`` head alone, beside the plain
reference which does the same class by class, and once with all heads of the default. Embeddings are computed once a
head and not in each epoch; the time is also told per row of a head's training and epoch. One thread; CPU seconds,
medians over rounds.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import torch

from benchmarks.reference import head
from benchmarks.step import SHAPES, Case, configured, reference_of, seconds_of, simulated
from d3tune.data.tensors import Tensors
from d3tune.method.generators import load_backbone
from d3tune.method.memory import keep_freed_memory
from d3tune.method.training import Training

# test rows of seen and of unseen classes in the proposed splits
TESTS = {"flo": (1403, 1155), "cub": (1764, 2967)}
ROUNDS = 2


@dataclass(frozen=True)
class Result:
    """Seconds of an evaluation.

    Attributes:
        shape: of which set.
        rows: that a head is trained on.
        epochs: of a head.
        all_heads: with every head of the default.
        softmax: with that head alone.
        reference: the reference's, with that head.
    """

    shape: str
    rows: int
    epochs: int
    all_heads: float
    softmax: float
    reference: float

    @property
    def line(self) -> str:
        """As it is printed."""
        per_row = 1e6 * self.softmax / (self.rows * self.epochs)
        return (
            f"gan {self.shape}: all heads {self.all_heads:.2f} s; softmax alone {self.softmax:.2f} s, "
            f"{per_row:.2f} us a row and epoch ({self.rows} rows, {self.epochs} epochs); "
            f"reference {self.reference:.2f} s, {self.reference / self.softmax:.1f} x"
        )


def with_tests(shape: str) -> Tensors:
    """Simulated rows with test sets of the real sizes."""
    data, (seen, unseen) = simulated(SHAPES[shape]), TESTS[shape]
    rng = torch.Generator().manual_seed(1)
    return replace(
        data,
        eval_seen_x=torch.rand(seen, data.n_features, generator=rng),
        eval_seen_y=torch.arange(seen) % data.n_seen,
        eval_unseen_x=torch.rand(unseen, data.n_features, generator=rng),
        eval_unseen_y=data.n_seen + torch.arange(unseen) % data.n_unseen,
    )


def measure(shape: str) -> Result:
    """Evaluate again and again, d3tune and the reference in turn."""
    case = Case(shape, "gan", 64)
    config, data = configured(case), with_tests(shape)
    ours, plain = Training(data, load_backbone("gan"), config, seed=0), reference_of(case, config, data)
    per_class, n_classes = config.n_synthetic_final, data.n_classes
    tests = head.TestSets(data.eval_seen_x, data.eval_seen_y, data.eval_unseen_x, data.eval_unseen_y)

    def reference() -> None:
        noise = torch.randn(data.n_unseen * per_class, config.noise_dim or data.semantics.shape[1])
        x, y = head.final_rows(plain, noise, per_class)
        orders = [torch.randperm(len(x)) for _ in range(config.head_epochs)]
        layer = head.train_softmax(x, y, n_classes, orders, config.head_batch_size, config.head_lr)
        head.evaluate(layer, tests, data.n_seen, offset=0.0)

    works: dict[str, Callable[[], object]] = {
        "all": lambda: ours.evaluate(seen_offset=0.0),
        "softmax": lambda: ours.evaluate(["softmax"], seen_offset=0.0),
        "reference": reference,
    }
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            taken[name].append(seconds_of(work, 1))
    middle = {name: median(values) for name, values in taken.items()}
    rows = len(data.train_x) + data.n_unseen * per_class
    return Result(shape, rows, config.head_epochs, middle["all"], middle["softmax"], middle["reference"])


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description="What an evaluation costs.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    keep_freed_memory()
    results = []
    for shape in TESTS:
        results.append(measure(shape))
        print(results[-1].line, flush=True)
    if given.json:
        given.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
