"""What runs in Ray's workers: trials, an evaluation a step, and the calls of `Executor.map`."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d3tune.config import Device
from d3tune.errors import D3TuneError
from d3tune.method.memory import give_back_gpu_memory, gpu_context_lost, limit_gpu_memory, out_of_gpu_memory
from d3tune.method.trainer import DivergedError
from d3tune.search.executor import watchdog
from d3tune.search.executor.environment import tune
from d3tune.search.executor.processes import end_with_parent
from d3tune.search.jobs import TrainingJob
from d3tune.search.trial import RunningTrial


class TrialActor(tune.Trainable):
    """A worker process: one trial after another, an evaluation a step."""

    def setup(self, config: dict[str, Any]) -> None:
        """Take a trial; the training is built in the first step, where an error becomes a result."""
        # one that outlived a killed search would write its checkpoints beside its successor's
        end_with_parent()
        self._assignment = json.loads(config["assignment"])
        self._directory = Path(self._assignment["directory"])
        self._trial: RunningTrial | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial in the same process: imports are paid once."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train to the next evaluation; a failure ends the trial, not the process."""
        timeout = self._assignment["timeout"]
        try:
            hung = watchdog.found(self._directory, timeout)
            if hung is not None:
                return {"failure": hung, "done": True}
            with watchdog.watched(self._directory, timeout):
                if self._trial is None:
                    self._trial = self._begin()
                report = self._trial.next_report()
        except D3TuneError as error:
            return {"fatal": str(error), "done": True}
        except DivergedError as error:
            return {"failure": f"diverged: {error}", "done": True}
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
            _end_if_useless(failure)
            if not _crowded(error, self._assignment["gpu_share"]):
                return {"failure": failure, "done": True}
        else:
            return {"report": json.dumps(report.to_dict()), "done": self._trial.finished}
        # the error is gone here, and with it the frames that held tensors
        self._trial = None
        give_back_gpu_memory()
        return {"crowded": failure, "done": True}

    def _begin(self) -> RunningTrial:
        assignment = self._assignment
        job = TrainingJob.from_dict(assignment["job"])
        _arrive(assignment["order"], job.device)
        if job.device == "cuda":
            limit_gpu_memory(assignment["gpu_share"])
        return RunningTrial(job, self._directory, assignment["known_update"], assignment["keep_weights"])

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """The trial's own directory has its checkpoints; Ray keeps none."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """See `save_checkpoint`."""


@dataclass(frozen=True)
class Crowded:
    """In place of a result: the call ran out of memory on a GPU that it shared; a whole one may be enough.

    Attributes:
        reason: the error, in words.
    """

    reason: str


def call(order: str, gpu_share: float, function: Callable[..., Any], *item: Any) -> Any:
    """What `RayExecutor.map` runs in a worker.

    Args:
        order: of `d3tune.search.executor.nodes.Nodes`; empty in a private Ray.
        gpu_share: what the call was given of a GPU.
        function: of the item.
        item: its arguments.

    Returns:
        The result, or `Crowded`.
    """
    end_with_parent()
    on_gpu = any(isinstance(part, TrainingJob) and part.device == "cuda" for part in item)
    _arrive(order, "cuda" if on_gpu else "cpu")
    if on_gpu:
        limit_gpu_memory(gpu_share)
    try:
        return function(*item)
    except Exception as error:
        _end_if_useless(f"{type(error).__name__}: {error}")
        if not _crowded(error, gpu_share):
            raise
        return Crowded(f"{type(error).__name__}: {error}")


def _crowded(error: Exception, gpu_share: float) -> bool:
    """Whether a training ran out of memory on a GPU that it shared: then it is no failure of its own."""
    return 0 < gpu_share < 1 and out_of_gpu_memory(error)


def _end_if_useless(failure: str) -> None:
    """End a process whose GPU takes nothing any more: Ray starts another, where the trial goes on."""
    if gpu_context_lost():
        print(f"d3tune: this process ends, its GPU takes nothing any more: {failure}", file=sys.stderr, flush=True)  # noqa: T201
        os._exit(1)


def _arrive(order: str, device: Device) -> None:
    """On a cluster, make sure that this machine has what its search needs: it may have joined later."""
    if order:
        from d3tune.search.executor.nodes import arrived

        arrived(order, device)
