"""What runs in Ray's workers: trials, an evaluation a step, and the calls of `Executor.map`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from d3tune.errors import D3TuneError
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
            return {"failure": f"{type(error).__name__}: {error}", "done": True}
        return {"report": json.dumps(report.to_dict()), "done": self._trial.finished}

    def _begin(self) -> RunningTrial:
        assignment = self._assignment
        job = TrainingJob.from_dict(assignment["job"])
        return RunningTrial(job, self._directory, assignment["known_update"], assignment["keep_weights"])

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """The trial's own directory has its checkpoints; Ray keeps none."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """See `save_checkpoint`."""


def call(function: Callable[..., Any], *item: Any) -> Any:
    """What `RayExecutor.map` runs in a worker."""
    end_with_parent()
    return function(*item)
