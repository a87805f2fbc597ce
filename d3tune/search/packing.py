"""How many trials share a GPU: one of the space's largest is trained for a moment, and its peak of memory says so."""

from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from math import prod
from typing import Any

import optuna
import torch
from pydantic import ValidationError

from d3tune.config import TrialConfig
from d3tune.errors import D3TuneError, RunError, UsageError
from d3tune.method.memory import ALLOWANCE, out_of_gpu_memory
from d3tune.search.executor import Executor, StopSignal
from d3tune.search.executor.temporary import TemporaryFolder
from d3tune.search.jobs import TrainingJob
from d3tune.search.probe import probe_here
from d3tune.search.sampling import enqueue_params, make_sampler, suggest
from d3tune.space import Space

AUTO = "auto"
NO_GPU = "--gpus-per-trial auto: no GPU here; leave it out, or give 0"
# how much more than the measured peak a trial is given: others of the space, and the test, may need more
MARGIN = 1.15
# Ray counts GPUs in ten-thousandths; from 100 trials on, a share rounded down would hold one more
RESOLUTION, MOST = 10_000, 99
# random configurations beside the warm starts; of all of them so many are tried until one can be measured
SAMPLES, TRIES = 8, 3
SECONDS = 0.5
# hyper-parameters that memory grows with, as far as a backbone has them
SIZES = (
    "batch_size",
    "hidden_dim",
    "noise_dim",
    "embed_dim",
    "decoder_dim",
    "contrast_dim",
    "projection_dim",
    "relation_dim",
    "prototype_hidden",
    "members",
    "n_synthetic_step",
    "n_synthetic_final",
)


@dataclass(frozen=True)
class Peak:
    """What a trial takes of a GPU's memory.

    Attributes:
        bytes_used: the most that it had, context and libraries included.
        bytes_total: of the GPU.
    """

    bytes_used: int
    bytes_total: int


Measure = Callable[[TrainingJob], Peak]


def trials_at_once(peak: Peak) -> int:
    """How many trials of such a peak fit on a GPU; at least one, which fails there with its reason if it must."""
    fitting = int(peak.bytes_total * ALLOWANCE / (max(peak.bytes_used, 1) * MARGIN))
    return min(max(fitting, 1), MOST)


def share_of(at_once: int) -> float:
    """What each of so many trials gets of a GPU, rounded down to what Ray counts in, so that all of them fit."""
    return RESOLUTION // at_once / RESOLUTION


def packing_line(peak: Peak) -> str:
    """What was measured, and what follows from it."""
    at_once = trials_at_once(peak)
    used, total = (f"{n_bytes / 1e9:.1f} GB" for n_bytes in (peak.bytes_used, peak.bytes_total))
    share = f"--gpus-per-trial {share_of(at_once):g}"
    return f"a trial's peak was {used} of {total} on the GPU: {at_once} at once, {share}"


def measured_share(
    jobs: Sequence[TrainingJob],
    executor: Executor,
    measure: Measure,
    stop: StopSignal,
    say: Callable[[str], None],
) -> float:
    """The share of a GPU that a trial needs, by the peak of one of them; a line says what was measured.

    On a cluster one node measures for all: its GPUs are taken to be alike.

    Args:
        jobs: of the space, the one that needs most memory first; the next is taken where one cannot be trained.
        executor: gives the measurement a whole GPU.
        measure: reads the peak of a job, in a worker.
        stop: ends it.
        say: takes the line.

    Raises:
        D3TuneError: there is no GPU, or no job could be measured.
        KeyboardInterrupt: a stop was requested.
    """
    reason = "the space gave no legal configuration"
    for job in jobs[:TRIES]:
        try:
            (peak,) = executor.map(measure, [(job,)], stop)
        except D3TuneError:
            raise
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            continue
        say(packing_line(peak))
        return share_of(trials_at_once(peak))
    raise RunError(f"--gpus-per-trial auto: no trial could be measured: {reason}; give a number")


def largest_first(space: Space, config: type[TrialConfig], seed: int) -> list[dict[str, Any]]:
    """Configurations of a space: its warm starts and a few random ones, the one that needs most memory first.

    Nothing is taken from the study: the search suggests its trials as if nobody had asked.

    Args:
        space: what is searched.
        config: the backbone's configuration class.
        seed: of the random ones.
    """
    study = optuna.create_study(sampler=make_sampler("random", seed, 0))
    for point in space.warm_start:
        study.enqueue_trial(enqueue_params(space, point.values))
    found: list[dict[str, Any]] = []
    for _ in range(len(space.warm_start) + SAMPLES):
        values = suggest(study.ask(), space, config)
        with suppress(ValidationError):
            found.append(config(**values).model_dump(mode="json"))
    return sorted(found, key=_size, reverse=True)


def measure(job: TrainingJob) -> Peak:
    """Train a job for a moment in this process, which has a whole GPU, and read what that took of its memory.

    What is not torch's is read as what the GPU lacks beyond torch's own: this process's context, and whatever another
    program has there.

    Args:
        job: the configuration.

    Raises:
        UsageError: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise UsageError(NO_GPU)
    try:
        with closing(TemporaryFolder()) as folder:
            place = folder.path / "probe"
            place.mkdir()
            probe_here(job, place, SECONDS)
    except Exception as error:
        if not out_of_gpu_memory(error):
            raise
        _, total = torch.cuda.mem_get_info()
        return Peak(total, total)
    free, total = torch.cuda.mem_get_info()
    beside = max(total - free - torch.cuda.memory_reserved(), 0)
    return Peak(torch.cuda.max_memory_reserved() + beside, total)


def _size(config: dict[str, Any]) -> int:
    """Grows with the memory that a configuration needs; a width of 0 or null is left out."""
    return prod(value for name in SIZES if isinstance(value := config.get(name), int) and value > 0)
