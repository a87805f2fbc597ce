"""What one update costs, beside the plain reference and the machine's rate: ``python -m benchmarks.step``.

For each case d3tune and `benchmarks.reference` make the same update: all critic steps, then generator and student with
all four D³ weights and the teacher's classification on. One thread, single precision. In each round one large matrix
product (2048³), one or more updates of d3tune and one of the reference follow each other; all figures are medians over
the rounds of one run, so that what else the machine does meets all of them. Seconds are CPU seconds of the process,
which for one thread are those of the clock on an idle machine::

    share = (needed operations / rate of the large product + cdist seconds) / seconds of d3tune's update

At embedded sizes Python rules, and `inside` is the share of an update's time that is spent inside torch's operators, by
its profiler over updates of their own (whose cost is in both).

`benchmarks.step_work` has the formulas of the operations. The cdist seconds are those of the L1 distances of cegan's
class comparator, measured alone in the same rounds; they are no matrix products. Shapes are those of the named sets,
the numbers in them are simulated: random.

It exits with 1 where a limit does not hold.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.reference import cegan, diffusion, gan, trial, vae
from benchmarks.reference.networks import EmbeddingClassifier
from benchmarks.step_work import NEEDED, Widths
from d3tune.data.scaling import Scaler
from d3tune.data.tensors import Tensors
from d3tune.method.generators import load_backbone
from d3tune.method.generators.base import GeneratorConfig
from d3tune.method.memory import keep_freed_memory
from d3tune.method.training import Training

LARGE = 2048
LEAST_SECONDS = 0.2
TRIALS: dict[str, tuple[type[trial.Trial[Any, Any]], type[trial.Settings]]] = {
    "gan": (gan.GanTrial, gan.GanSettings),
    "cegan": (cegan.CeganTrial, cegan.CeganSettings),
    "vae": (vae.VaeTrial, vae.VaeSettings),
    "diffusion": (diffusion.DiffusionTrial, diffusion.DiffusionSettings),
}


@dataclass(frozen=True)
class Shape:
    """A data set's sizes: training rows, X, A, N_s and N_u."""

    rows: int
    n_features: int
    n_semantics: int
    n_seen: int
    n_unseen: int


SHAPES = {
    "flo": Shape(5631, 2048, 1024, 82, 20),
    "cub": Shape(7057, 2048, 312, 150, 50),
    "embedded": Shape(4500, 256, 103, 150, 50),
}
EMBEDDED = {"hidden_dim": 256, "contrast_dim": 256, "projection_dim": 128, "relation_dim": 256}


@dataclass(frozen=True)
class Case:
    """A measurement; ``least_share`` and ``least_ratio`` are its limits, None where it has none."""

    shape: str
    backbone: str
    batch: int
    least_share: float | None = None
    least_ratio: float | None = None

    @property
    def name(self) -> str:
        """As it is printed."""
        return f"{self.backbone} {self.shape} {self.batch}"


CASES = [
    *(Case(shape, "gan", batch, share) for shape in ("flo", "cub") for batch, share in ((64, 0.5), (256, 0.65))),
    *(Case(shape, "cegan", 256, 0.68) for shape in ("flo", "cub")),
    *(Case(shape, name, 256, 0.6) for name in ("vae", "diffusion") for shape in ("flo", "cub")),
    *(Case("embedded", name, 64, None, 2.0) for name in TRIALS),
]


@dataclass(frozen=True)
class Result:
    """What a case took.

    Attributes:
        case: its name.
        seconds: of one update of d3tune.
        reference_seconds: of one update of the reference, None where it was left out.
        needed: floating-point operations of one update.
        rate: operations a second of the large product.
        cdist_seconds: of the L1 distances that one update needs.
        inside: share of the time inside torch's operators, None where it was not measured.
        least_share: limit.
        least_ratio: limit.
    """

    case: str
    seconds: float
    reference_seconds: float | None
    needed: int
    rate: float
    cdist_seconds: float
    inside: float | None
    least_share: float | None
    least_ratio: float | None

    @property
    def share(self) -> float:
        """Of the time, what the needed work takes at the large product's rate."""
        return (self.needed / self.rate + self.cdist_seconds) / self.seconds

    @property
    def ratio(self) -> float | None:
        """How many times longer the reference takes."""
        return None if self.reference_seconds is None else self.reference_seconds / self.seconds

    @property
    def holds(self) -> bool | None:
        """Whether the limits hold; None where there is none or it was not measured."""
        bounds = [(self.share, self.least_share), (self.ratio, self.least_ratio)]
        told = [value >= least for value, least in bounds if value is not None and least is not None]
        return all(told) if told else None


def simulated(shape: Shape) -> Tensors:
    """Random rows of a shape; the evaluation sets are not read here."""
    rng = torch.Generator().manual_seed(0)
    n_classes = shape.n_seen + shape.n_unseen
    few = torch.zeros(shape.n_unseen, shape.n_features)
    return Tensors(
        train_x=torch.rand(shape.rows, shape.n_features, generator=rng),
        train_y=torch.arange(shape.rows) % shape.n_seen,
        eval_seen_x=few,
        eval_seen_y=torch.arange(shape.n_unseen) % shape.n_seen,
        eval_unseen_x=few,
        eval_unseen_y=shape.n_seen + torch.arange(shape.n_unseen),
        semantics=torch.nn.functional.normalize(torch.randn(n_classes, shape.n_semantics, generator=rng), dim=1),
        n_seen=shape.n_seen,
        n_unseen=shape.n_unseen,
        class_ids=torch.arange(n_classes),
        scaler=Scaler(np.zeros(shape.n_features, np.float32), np.ones(shape.n_features, np.float32)),
    )


def configured(case: Case) -> GeneratorConfig:
    """The backbone's defaults, with every loss weight on and a short training of the teacher."""
    model = load_backbone(case.backbone).config
    wanted: dict[str, Any] = {"batch_size": case.batch, "teacher_epochs": 1, "gcls_weight": 0.01}
    wanted |= EMBEDDED if case.shape == "embedded" else {}
    config = model.model_validate({name: value for name, value in wanted.items() if name in model.model_fields})
    assert isinstance(config, GeneratorConfig)
    return config


def widths(case: Case, config: GeneratorConfig) -> Widths:
    """The numbers of a case's formula."""
    shape = SHAPES[case.shape]
    own = {"critic_steps", "contrast_dim", "projection_dim", "relation_dim"} & type(config).model_fields.keys()
    return Widths(
        batch=case.batch,
        n_features=shape.n_features,
        n_semantics=shape.n_semantics,
        n_seen=shape.n_seen,
        n_unseen=shape.n_unseen,
        n_synthetic_step=config.n_synthetic_step,
        noise=config.noise_dim or shape.n_semantics,
        hidden=config.hidden_dim,
        embed=config.embed_dim,
        ood_embed=config.ood_embed_dim,
        levels=getattr(config, "diffusion_steps", 0),
        **{name.removesuffix("_dim"): getattr(config, name) for name in own},
    )


def reference_of(case: Case, config: GeneratorConfig, data: Tensors) -> trial.Trial[Any, Any]:
    """The reference of the same configuration."""
    trial_class, settings_class = TRIALS[case.backbone]
    values = {field.name: getattr(config, field.name) for field in fields(settings_class)}
    values |= {
        "noise_dim": config.noise_dim or data.semantics.shape[1],
        "output_activation": config.resolved_activation,
    }
    torch.manual_seed(0)
    teacher = EmbeddingClassifier(data.train_x.shape[1], config.embed_dim, data.n_seen, config.embed_activation)
    rows = trial.Data(data.train_x, data.train_y, data.semantics, data.n_seen, data.n_unseen)
    return trial_class(rows, settings_class(**values), teacher)


def cdist_of(w: Widths) -> Callable[[], None] | None:
    """The L1 distances of one update of cegan: gradients to both sides in critic steps, to the rows in the last."""
    if w.relation == 0:
        return None
    rows, classes = torch.randn(w.batch, w.relation), torch.randn(w.n_seen, w.relation)
    weight = torch.randn(w.batch, w.n_seen)

    def distances(*needed: Tensor) -> None:
        for _ in range(2):
            torch.autograd.grad(torch.cdist(rows, classes, p=1), needed, weight)

    def update() -> None:
        for _ in range(w.critic_steps):
            distances(rows.requires_grad_(), classes.requires_grad_())
        classes.requires_grad_(False)
        distances(rows)

    return update


def measure(case: Case, rounds: int, reference_rounds: int) -> Result:
    """Interleave the large product, d3tune, the distances and the reference."""
    config, data = configured(case), simulated(SHAPES[case.shape])
    ours = Training(data, load_backbone(case.backbone), config, seed=0)
    plain = reference_of(case, config, data)
    w = widths(case, config)
    left, right = torch.randn(LARGE, LARGE), torch.randn(LARGE, LARGE)
    works: dict[str, Callable[[], object]] = {
        "product": lambda: left @ right,
        "ours": lambda: ours.advance(ours.update + 1),
    }
    distances = cdist_of(w)
    if distances is not None:
        works["cdist"] = distances
    repetitions = {name: repetitions_of(work) for name, work in works.items()}
    taken: dict[str, list[float]] = {name: [] for name in (*works, "reference")}
    for number in range(rounds):
        for name, work in works.items():
            taken[name].append(seconds_of(work, repetitions[name]))
        if number < reference_rounds:
            taken["reference"].append(seconds_of(plain.step, 1 if config.hidden_dim > 256 else repetitions["ours"]))
    return Result(
        case=case.name,
        seconds=median(taken["ours"]),
        reference_seconds=median(taken["reference"]) if taken["reference"] else None,
        needed=NEEDED[case.backbone](w),
        rate=2 * LARGE**3 / median(taken["product"]),
        cdist_seconds=median(taken["cdist"]) if distances else 0.0,
        inside=inside_operators(works["ours"], repetitions["ours"]) if case.shape == "embedded" else None,
        least_share=case.least_share,
        least_ratio=case.least_ratio,
    )


def inside_operators(work: Callable[[], object], repetitions: int) -> float:
    """Share of the time of calls that torch's profiler, which counts by the clock, finds inside its operators."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        start = time.perf_counter()
        for _ in range(repetitions):
            work()
        seconds = time.perf_counter() - start
    inside: float = sum(event.self_cpu_time_total for event in profile.key_averages())
    return 1e-6 * inside / seconds


def seconds_of(work: Callable[[], object], repetitions: int) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    for _ in range(repetitions):
        work()
    return (time.process_time() - start) / repetitions


def repetitions_of(work: Callable[[], object]) -> int:
    """How many calls take long enough to be timed together; warms up."""
    work()
    return max(1, round(LEAST_SECONDS / seconds_of(work, 1)))


def table(results: list[Result]) -> str:
    """One line a case."""
    measured = ("case", "ms", "a second", "GFLOP", "GFLOP/s", "cdist ms", "inside", "share", "limit")
    heads = (*measured, "reference", "limit", "holds")
    rows = [heads, *(cells(result) for result in results)]
    spaces = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    lines = ["  ".join(cell.rjust(space) for cell, space in zip(row, spaces, strict=True)) for row in rows]
    return "\n".join(line.replace(heads[0].rjust(spaces[0]), heads[0].ljust(spaces[0]), 1) for line in lines)


def cells(result: Result) -> tuple[str, ...]:
    """A result's line of the table."""

    def number(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    return (
        result.case,
        f"{1e3 * result.seconds:.4g}",
        f"{1 / result.seconds:.4g}",
        f"{result.needed / 1e9:.4g}",
        f"{result.rate / 1e9:.1f}",
        f"{1e3 * result.cdist_seconds:.4g}" if result.cdist_seconds else "–",
        number(result.inside, ".2f"),
        f"{result.share:.2f}",
        number(result.least_share, ".2f"),
        "–" if result.ratio is None else f"{result.ratio:.1f} x",
        number(result.least_ratio, ".1f"),
        {True: "yes", False: "NO", None: "–"}[result.holds],
    )


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description="What one update costs.")
    parser.add_argument("--quick", action="store_true", help="three rounds, and no reference where it is slow")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each case (default 7)")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure and print; 1 where a limit does not hold."""
    given = arguments(argv)
    torch.set_num_threads(1)
    # as in a trial's process
    keep_freed_memory()
    rounds = 3 if given.quick else given.rounds
    print(f"simulated features, one thread, float32, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    results = []
    for case in CASES:
        if given.only not in case.name:
            continue
        slow, small = case.backbone == "cegan", case.shape == "embedded"
        reference_rounds = rounds if small else 0 if given.quick and slow else 1 if given.quick or slow else 3
        results.append(measure(case, rounds, reference_rounds))
        print(f"{case.name}: {1e3 * results[-1].seconds:.4g} ms", file=sys.stderr)
    print(table(results))
    if given.json:
        about = {"torch": torch.__version__, "machine": platform.machine(), "threads": 1, "rounds": rounds}
        found = [asdict(row) | {"share": row.share, "ratio": row.ratio, "holds": row.holds} for row in results]
        given.json.write_text(json.dumps({"environment": about, "results": found}, indent=1) + "\n", encoding="utf-8")
    return int(any(result.holds is False for result in results))


if __name__ == "__main__":
    sys.exit(main())
