"""What a search would do and cost, without doing it: nothing is made or changed under ``$D3TUNE_HOME``."""

import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from d3tune.config import SearchConfig, TrialConfig
from d3tune.data.dataset import GZSLDataset
from d3tune.data.registry import prepared_path
from d3tune.errors import D3TuneError, RunError
from d3tune.files import HOME_ADVICE, check_writable, home_path
from d3tune.search.checkpoint import KEEP
from d3tune.search.choice import check_top, choice_rounds
from d3tune.search.convergence import check_convergence
from d3tune.search.executor.temporary import TemporaryFolder
from d3tune.search.going_on import refuse_lost_journal
from d3tune.search.jobs import TrainingJob
from d3tune.search.lock import refuse_owned, refuse_shared
from d3tune.search.planning import PlanOptions, make_plan
from d3tune.search.probe import Probe, probe
from d3tune.search.request import Request, resolved, run_to_extend
from d3tune.search.run import RunDirectory, find_run, refuse_incomparable
from d3tune.search.search import Plan
from d3tune.search.study import RETRY_ATTR, Ledger
from d3tune.space import Space

SAMPLES = 3
PROBE_SECONDS = 2.0


@dataclass(frozen=True)
class Sample:
    """A configuration that the search would begin with.

    Attributes:
        trial: its number.
        origin: ``sampled``, or which warm start it is, or why it comes again.
        values: its searched hyper-parameters; those whose condition does not hold are absent.
        config: every hyper-parameter.
    """

    trial: int
    origin: str
    values: dict[str, Any]
    config: dict[str, Any]


@dataclass(frozen=True)
class Machine:
    """What this machine has, and what fits.

    Attributes:
        cores: CPU cores.
        gpus: names of the GPUs.
        memory_bytes: that is free; None where the system does not tell.
        at_once: trials side by side by cores and GPUs; None on a cluster, which is not asked.
    """

    cores: int
    gpus: tuple[str, ...]
    memory_bytes: int | None
    at_once: int | None


@dataclass(frozen=True)
class Estimate:
    """What the search would take if no trial was pruned and each cost what the first one does.

    Attributes:
        trial_seconds: of one trial of the full budget.
        search_seconds: of all trials that are left.
        confirm_seconds: of the confirmation, and of the choice before it.
        disk_bytes: of the run directory in the end.
        most_disk_bytes: with the checkpoints of running trials.
    """

    trial_seconds: float
    search_seconds: float
    confirm_seconds: float
    disk_bytes: int
    most_disk_bytes: int


@dataclass(frozen=True)
class DryRun:
    """A search that was not made.

    Attributes:
        search: what it is.
        plan: how far it goes.
        space: what it searches.
        sizes: of the dataset: rows, features, seen and unseen classes.
        budget: updates and evaluations of a trial.
        run: where it would be kept.
        there: trials that a run there has already; None where there is none.
        left: trials that would be made.
        samples: the first of them.
        machine: this one.
        probe: the first of them measured; None where none is left.
        estimate: from that.
        default_store: whether MLflow's store would be the one of ``$D3TUNE_HOME``.
    """

    search: SearchConfig
    plan: Plan
    space: Space
    sizes: dict[str, int]
    budget: dict[str, int]
    run: Path
    there: int | None
    left: int
    samples: tuple[Sample, ...]
    machine: Machine
    probe: Probe | None
    estimate: Estimate | None
    default_store: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "search": self.search.model_dump(mode="json"),
            "dataset": self.sizes,
            "budget": {**self.budget, **_limits(self.plan)},
            "resources": self.plan.resources.model_dump(mode="json"),
            "space": self.space.to_dict(),
            "run": {"path": str(self.run), "trials_there": self.there, "trials_left": self.left},
            "samples": [asdict(sample) for sample in self.samples],
            "machine": asdict(self.machine),
            "probe": None if self.probe is None else asdict(self.probe),
            "estimate": None if self.estimate is None else asdict(self.estimate),
        }


def dry_run(
    request: Request, options: PlanOptions, time_limit: str | None, say: Callable[[str], None] | None = None
) -> DryRun:
    """Resolve a search, sample its first trials and measure the first; what is made for that is removed again.

    Args:
        request: what is asked for.
        options: of the plan.
        time_limit: of the command, e.g. ``2h``.
        say: see `prepare_run`.

    Raises:
        D3TuneError: whatever the search would refuse before its first trial; or the first one cannot be trained.
    """
    check_top(options.confirm_top, request.protocol)
    own = home_path()
    check_writable(own, HOME_ADVICE)
    with closing(TemporaryFolder()) as folder, _home_at(folder.path / "home"):
        scratch = folder.path
        plan = make_plan(options, time_limit)
        dataset, search, space, config = resolved(request, say, own)
        check_convergence(options.stop_when_converged, len(search.aims))
        with _home_at(own):
            path, run = _place(request, search, space, config)
        ledger, there = _ledger(run, search, space, config, scratch)
        planned = max(plan.trials, there or 0)
        left = planned - ledger.standing.ended
        samples = _samples(ledger, space, planned)
        machine = _machine(plan)
        job = _job(dataset, search, plan)
        measured = None
        if samples:
            weights = scratch / "probe"
            weights.mkdir()
            measured = probe(replace(job, config=samples[0].config), weights, PROBE_SECONDS)
    full = config(**space.fixed)
    budget = {"updates": full.updates, "evaluations": full.evaluations}
    return DryRun(
        search,
        plan,
        space,
        _sizes(dataset),
        budget,
        path,
        there,
        left,
        samples,
        machine,
        measured,
        None if measured is None else estimate(measured, plan, budget, left, machine.at_once or 1, len(search.splits)),
        options.tracking_uri is None and not os.environ.get("MLFLOW_TRACKING_URI"),
    )


def estimate(
    measured: Probe, plan: Plan, budget: dict[str, int], left: int, at_once: int, n_splits: int = 1
) -> Estimate:
    """What trials and confirmation take, from one configuration's cost.

    Args:
        measured: that cost.
        plan: how far the search goes.
        budget: updates and evaluations of a trial.
        left: trials to make.
        at_once: trials side by side, taken not to slow each other.
        n_splits: validation draws of a trial.
    """
    training = measured.setup_seconds + budget["updates"] * measured.update_seconds
    trial = training + budget["evaluations"] * measured.evaluation_seconds
    search = math.ceil(left / min(at_once, max(left, 1))) * trial
    if plan.seconds is not None:
        # no trial begins after that, and those that run go on
        search = min(search, plan.seconds + trial)
    # each seed on the selecting protocol, then once on all of trainval with a single evaluation
    tested = (training + measured.evaluation_seconds) / n_splits
    rounds = choice_rounds(min(plan.confirm_top, plan.trials)) if plan.confirm_seeds else []
    chosen = sum(math.ceil(candidates / at_once) for candidates in rounds) * trial
    # the rounds' seeds are the first of the confirmation's
    validated = math.ceil(max(plan.confirm_seeds - len(rounds), 0) / at_once) * trial
    confirm = chosen + validated + math.ceil(plan.confirm_seeds / at_once) * tested
    # the study has each report, and the trial's record
    records = 2 * plan.trials * budget["evaluations"] * measured.report_bytes
    kept = min(plan.keep_weights, plan.trials) * measured.weights_bytes + records
    running = min(at_once, left) * (KEEP * measured.checkpoint_bytes + measured.weights_bytes * bool(plan.keep_weights))
    return Estimate(trial, search, confirm, kept, kept + running)


@contextmanager
def _home_at(path: Path) -> Iterator[None]:
    """Another ``$D3TUNE_HOME``, for this process and those it starts."""
    before = os.environ.get("D3TUNE_HOME")
    os.environ["D3TUNE_HOME"] = str(path)
    try:
        yield
    finally:
        os.environ.pop("D3TUNE_HOME")
        if before is not None:
            os.environ["D3TUNE_HOME"] = before


def _place(
    request: Request, search: SearchConfig, space: Space, config: type[TrialConfig]
) -> tuple[Path, RunDirectory | None]:
    """Where the search would be kept, and the run that it would go on with or extend."""
    if request.extend:
        extended = run_to_extend(request)
        # a space that is damaged cannot be compared
        extended.load_space(config)
        refuse_incomparable(extended, search, space, config)
        return extended.path, extended
    path, run = find_run(request.run_dir, search, space, home_path)
    if run is None:
        check_writable(path, "give another --run-dir")
        if path.exists():
            refuse_shared(path)
    return path, run


def _ledger(
    run: RunDirectory | None, search: SearchConfig, space: Space, config: type[TrialConfig], scratch: Path
) -> tuple[Ledger, int | None]:
    """The study as the search would open it, on a copy, and how many trials it has; None of a new one."""
    journal = scratch / "study.journal"
    if run is None:
        return Ledger(journal, "dry-run", search, space, config), None
    refuse_owned(run.path)
    refuse_lost_journal(run)
    if run.journal.exists():
        shutil.copyfile(run.journal, journal)
    try:
        ledger = Ledger(journal, run.name, search, space, config)
    except RunError as error:
        raise RunError(str(error).replace(str(journal), str(run.journal))) from None
    return ledger, ledger.standing.begun


def _samples(ledger: Ledger, space: Space, planned: int) -> tuple[Sample, ...]:
    samples: list[Sample] = []
    while len(samples) < SAMPLES:
        assignment = ledger.next_trial(planned)
        if assignment is None:
            break
        trial = ledger.trial(assignment.number)
        if trial.state == TrialState.RUNNING and assignment.known_update:
            origin = f"interrupted at update {assignment.known_update}"
        elif RETRY_ATTR in trial.user_attrs:
            origin = f"trial {trial.user_attrs[RETRY_ATTR]} again"
        else:
            name = trial.user_attrs.get("warm_start")
            origin = "sampled" if name is None else f"warm start '{name}'"
        config = assignment.config
        values = {name: config[name] for name, parameter in space.parameters.items() if parameter.active(config)}
        samples.append(Sample(assignment.number, origin, values, config))
    return tuple(samples)


def _job(dataset: GZSLDataset, search: SearchConfig, plan: Plan) -> TrainingJob:
    return TrainingJob(
        backbone=search.backbone,
        config={},
        dataset=str(prepared_path(dataset)),
        dataset_hash=search.dataset_hash,
        seed=search.seed,
        threads=plan.resources.threads,
        device=plan.resources.device,
        objective=search.objective,
        splits=search.splits,
        protocol=search.protocol,
    )


def _machine(plan: Plan) -> Machine:
    import torch

    resources = plan.resources
    cores, n_gpus = os.cpu_count() or 1, torch.cuda.device_count()
    gpus = tuple(torch.cuda.get_device_name(index) for index in range(n_gpus))
    fits = [int(cores / resources.cpus_per_trial + 1e-9)]
    fits += [int(n_gpus / resources.gpus_per_trial + 1e-9)] if resources.gpus_per_trial else []
    fits += [] if resources.concurrency is None else [resources.concurrency]
    at_once: int | None = min(fits)
    if resources.executor == "local":
        at_once = 1
    elif resources.address is not None:
        at_once = None
    elif at_once == 0:
        raise D3TuneError("no trial fits this machine")
    return Machine(cores, gpus, _free_memory(), at_once)


def _free_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _sizes(dataset: GZSLDataset) -> dict[str, int]:
    view = dataset.view("test", 0)
    return {
        "rows": len(dataset.labels),
        "features": int(dataset.features.shape[1]),
        "semantics": int(dataset.semantics.shape[1]),
        "seen_classes": len(view.seen_classes),
        "unseen_classes": len(view.unseen_classes),
    }


def _limits(plan: Plan) -> dict[str, Any]:
    return {
        "trials": plan.trials,
        "seconds": plan.seconds,
        "confirm_seeds": plan.confirm_seeds,
        "confirm_top": plan.confirm_top,
        "baselines": plan.baselines,
        "keep_weights": plan.keep_weights,
        "trial_timeout": plan.trial_timeout,
    }
