"""What a command may use and how far it goes: options from the command line, else from the command before."""

import math
import os
import re
from collections.abc import Mapping
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from d3tune.config import Resources, first_fault
from d3tune.errors import RunError, UsageError, one_of
from d3tune.search.address import check_address, named
from d3tune.search.mlflow_model import check_name
from d3tune.search.packing import AUTO, NO_GPU
from d3tune.search.run import PLAN_FILE, RunDirectory
from d3tune.search.search import Plan
from d3tune.search.study import read_trials
from d3tune.search.study_copy import study_url
from d3tune.search.tracking import store_uri
from d3tune.words import plural

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

GpusPerTrial = float | Literal["auto"]


class PlanOptions(BaseModel):
    """The options of `make_plan` as plan.json keeps them; a resume takes from there what it is not given."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    trials: int = 50
    cpus_per_trial: float = 1.0
    gpus_per_trial: GpusPerTrial | None = None
    measured_gpus: float | None = None
    concurrency: int | None = None
    executor: str = "ray"
    address: str | None = None
    confirm_seeds: int = 5
    confirm_top: int = 1
    stop_when_converged: bool = False
    baselines: bool = False
    tracking_uri: str | None = None
    trial_timeout: str | float | None = None
    keep_weights: int = 3
    compile: bool = False
    register_as: str | None = None
    study_url: str | None = None


def make_plan(options: PlanOptions, time_limit: str | None = None, retry_failed: int = 0) -> Plan:
    """Check what a command may use and how far it goes.

    Args:
        options: as given.
        time_limit: of this command, e.g. ``2h``.
        retry_failed: failed trials to try again.

    Raises:
        UsageError: a number is out of range, more is asked for than this machine has, no cluster answers at the
            address, or a URI is wrong.
    """
    for option, least in (("trials", 1), ("confirm_seeds", 0), ("confirm_top", 1), ("keep_weights", 0)):
        if getattr(options, option) < least:
            raise UsageError(f"{_option(option)} {getattr(options, option)}: must be {least} or more")
    if retry_failed < 0:
        raise UsageError(f"--retry-failed {retry_failed}: must be 0 or more")
    tracking_uri = store_uri(options.tracking_uri)
    return Plan(
        trials=options.trials,
        seconds=None if time_limit is None else parse_time(time_limit),
        resources=resources_of(options),
        confirm_seeds=options.confirm_seeds,
        baselines=options.baselines,
        tracking_uri=tracking_uri,
        trial_timeout=_trial_timeout(options),
        keep_weights=options.keep_weights,
        retry_failed=retry_failed,
        register_as=check_name(options.register_as),
        study_url=study_url(options.study_url, tracking_uri),
        auto_gpus=options.gpus_per_trial == AUTO,
        measured_gpus=options.measured_gpus if options.gpus_per_trial == AUTO else None,
        confirm_top=options.confirm_top,
        stop_when_converged=options.stop_when_converged,
    )


def resources_of(options: PlanOptions) -> Resources:
    """What trainings may use, checked against this machine.

    Raises:
        UsageError: a number is out of range, more is asked for than this machine has, or no cluster answers.
    """
    cpus, gpus = options.cpus_per_trial, _known_gpus(options)
    for option, value in (("cpus_per_trial", cpus), ("gpus_per_trial", gpus or 0.0)):
        if not math.isfinite(value) or value < 0 or (option == "cpus_per_trial" and value == 0):
            raise UsageError(f"{_option(option)} {value:g}: must be a positive number")
    if options.concurrency is not None and options.concurrency < 1:
        raise UsageError(f"--concurrency {options.concurrency}: must be 1 or more")
    one_of("--executor", options.executor, ("ray", "local"))
    address = named(options.address)
    check_address(address)
    here = _gpus_here() if address is None else None
    if options.gpus_per_trial == AUTO:
        _check_auto(options.executor, here)
    wanted = gpus if gpus is not None else float(bool(here))
    if here is not None and wanted > here:
        raise UsageError(f"--gpus-per-trial {wanted:g}: this machine has {plural(here, 'GPU')}")
    cores = os.cpu_count() or 1
    if address is None and cpus > cores:
        raise UsageError(f"--cpus-per-trial {cpus:g}: this machine has {plural(cores, 'core')}")
    return Resources(
        cpus_per_trial=cpus,
        gpus_per_trial=wanted,
        concurrency=options.concurrency,
        executor=cast(Any, options.executor),
        address=address,
        compile=options.compile,
    )


def _known_gpus(options: PlanOptions) -> float | None:
    """GPUs a trial; before they are measured the whole one that they are measured on."""
    given = options.gpus_per_trial
    return (options.measured_gpus or 1.0) if isinstance(given, str) else given


def _check_auto(executor: str, here: int | None) -> None:
    if executor == "local":
        raise UsageError(
            "--gpus-per-trial auto, given or the run's own, needs --executor ray: one trial at a time shares no GPU; "
            "or: --gpus-per-trial 1"
        )
    if here == 0:
        raise UsageError(NO_GPU)


def _trial_timeout(options: PlanOptions) -> float | None:
    given = options.trial_timeout
    if given is None or given == "none":
        return None
    if options.executor == "local":
        raise UsageError(
            "--trial-timeout, given or the run's own, needs --executor ray: a trial in this process cannot be ended; "
            "or: --trial-timeout none"
        )
    seconds = parse_time(given, "--trial-timeout") if isinstance(given, str) else given
    if seconds <= 0:
        raise UsageError(f"--trial-timeout {given}: must be more than 0, or none")
    return seconds


def resumed_plan(
    run: RunDirectory,
    given: Mapping[str, Any],
    trials: str | None = None,
    time_limit: str | None = None,
    retry_failed: int = 0,
) -> Plan:
    """The plan of a resume: an option that is not given is what the run's last command had.

    Args:
        run: the run.
        given: options of `PlanOptions`; None where not given.
        trials: a number, ``+N`` more than were planned and than there are, or None for what was planned.
        time_limit: of this command.
        retry_failed: failed trials to try again.

    Raises:
        UsageError: see `make_plan`; or ``trials`` is neither.
        RunError: plan.json is damaged.
    """
    stored = run.read_plan()
    if given.get("gpus_per_trial") is not None:
        # told anew, it is measured anew
        stored = {**stored, "measured_gpus": None}
    try:
        options = PlanOptions.model_validate({**stored, **{k: v for k, v in given.items() if v is not None}})
    except ValidationError as error:
        fault = first_fault(error)
        raise RunError(f"{run.path / PLAN_FILE}: {fault}; remove the file and give the options again") from None
    if trials is not None:
        number = trials.removeprefix("+")
        if not number.isdecimal():
            raise UsageError(f"--trials {trials}: write a number, or +N for N more")
        before = max(options.trials, _trials_there(run)) if trials.startswith("+") else 0
        options = options.model_copy(update={"trials": before + int(number)})
    return make_plan(options, time_limit, retry_failed)


def parse_gpus(text: str | None) -> GpusPerTrial | None:
    """GPUs a trial as the command line has them: a number, or ``auto``; None where not given.

    Raises:
        UsageError: it is neither.
    """
    if text is None:
        return None
    if text == AUTO:
        return "auto"
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--gpus-per-trial {text}: write a number, or auto") from None


def parse_time(text: str, option: str = "--time") -> float:
    """Seconds of ``90s``, ``45m``, ``2h``, ``1d`` or ``1h30m``.

    Args:
        text: what was given.
        option: to name in the message.

    Raises:
        UsageError: it is none of these.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise UsageError(f"{option} {text}: write it like 90s, 45m, 2h or 1h30m")
    return sum(float(number) * UNITS[unit] for number, unit in parts)


def _trials_there(run: RunDirectory) -> int:
    return len(read_trials(run.journal)) if run.journal.exists() else 0


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _gpus_here() -> int:
    import torch

    return torch.cuda.device_count()
