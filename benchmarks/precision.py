"""``precision: bf16`` beside fp32: ``python -m benchmarks.precision``.

- Accuracy: the first warm-start point of the shipped space is trained on hanzi/0 with five seeds in each precision;
  told are the best validation H of each and the mean of the paired differences with its 95 % interval (Student's t).
  "Within noise" is where that interval holds 0 or lies above it.
- Speed: updates at FLO's shape, the two precisions taking turns; medians of CPU seconds (on a GPU: of the clock).

It exits with 1 where bf16 is not to be the default: where H is not within noise, or where an update is
less than 1.05 times as fast.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import torch

from benchmarks.step import SHAPES, Case, configured, simulated
from d3tune.config import TrialConfig
from d3tune.data.embedded import load_embedded
from d3tune.data.tensors import load_tensors
from d3tune.method.generators import load_backbone
from d3tune.method.memory import keep_freed_memory
from d3tune.method.training import Training, start_training
from d3tune.space import load_space

BACKBONES = ("gan", "vae", "diffusion")
PRECISIONS = ("fp32", "bf16")
SEEDS = 5
DATASET = "hanzi"
# two-sided 95 % of Student's t with 4 degrees of freedom
T_95 = 2.776
CASES = [Case("flo", name, batch) for name in BACKBONES for batch in (64, 256)]
ROUNDS = 5
# less than this many times faster is as fast
FASTER = 1.05


def best_h(backbone: str, precision: str, seed: int) -> float:
    """The best validation H over the evaluations of one training."""
    entry, dataset = load_backbone(backbone), load_embedded(DATASET)
    space = load_space(backbone, entry.config, dataset.name, dataset.features.shape[1])
    values = {**space.fixed, **space.warm_start[0].values, "precision": precision}
    config: TrialConfig = entry.config(**values)
    tensors = load_tensors(
        dataset.view("validation", 0),
        scaling=config.feature_scaling,
        center_semantics=config.center_semantics,
        semantics_scale=config.semantics_scale,
    )
    found = start_training(entry, tensors, config, seed).evaluations()
    return max(max(accuracies.H for accuracies in evaluation.heads.values()) for evaluation in found)


def paired(backbone: str) -> dict[str, Any]:
    """Both precisions over the seeds."""
    values = {name: [best_h(backbone, name, seed) for seed in range(SEEDS)] for name in PRECISIONS}
    differences = [b - a for a, b in zip(values["fp32"], values["bf16"], strict=True)]
    half = T_95 * stdev(differences) / math.sqrt(SEEDS)
    mean = fmean(differences)
    return {**values, "difference": mean, "interval": [mean - half, mean + half], "within noise": mean + half >= 0}


def seconds(training: Training) -> float:
    """Of one update."""
    device = training.tensors.train_x.device
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = clock()
    training.advance(training.update + 1)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def ratio(case: Case) -> float:
    """How many times faster an update is in bf16."""
    data, config = simulated(SHAPES[case.shape]), configured(case)
    entry = load_backbone(case.backbone)
    both = [Training(data, entry, config.model_copy(update={"precision": name}), seed=0) for name in PRECISIONS]
    taken: list[list[float]] = [[seconds(training) for training in both] for _ in range(ROUNDS + 1)]
    # the first round warms up
    exact, rounded = (median(row[place] for row in taken[1:]) for place in range(2))
    return exact / rounded


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where bf16 is not to be the default."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.precision", description=(__doc__ or "").partition(":")[0]
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    keep_freed_memory()
    accuracy, speed = {}, {}
    for name in BACKBONES:
        accuracy[name] = paired(name)
        low, high = accuracy[name]["interval"]
        print(
            f"{name:<10} val/H fp32 {fmean(accuracy[name]['fp32']):.4f}  bf16 {fmean(accuracy[name]['bf16']):.4f}  "
            f"difference {accuracy[name]['difference']:+.4f} [{low:+.4f}, {high:+.4f}], {SEEDS} seeds, {DATASET}/0",
            flush=True,
        )
    for case in CASES:
        speed[case.name] = ratio(case)
        print(f"{case.name:<18} bf16 is {speed[case.name]:.2f} x as fast as fp32", flush=True)
    if given.json:
        text = json.dumps({"accuracy": accuracy, "speed": speed}, indent=1)
        given.json.write_text(text + "\n", encoding="utf-8")
    return int(not all(row["within noise"] for row in accuracy.values()) or min(speed.values()) < FASTER)


if __name__ == "__main__":
    sys.exit(main())
