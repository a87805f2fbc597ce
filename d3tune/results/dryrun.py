"""A dry run as text: what would be searched, where, and what that would cost."""

from typing import TYPE_CHECKING, Any

from d3tune.results.text import table_text
from d3tune.search.aims import aims_words
from d3tune.words import TEST_SELECTED, plural

if TYPE_CHECKING:
    from d3tune.search.dryrun import DryRun
    from d3tune.space import Parameter

WIDTH = 120


def dry_run_text(dry: "DryRun") -> str:
    """All of it, one part after another."""
    parts = [_configuration(dry), _space(dry), _samples(dry), _machine(dry)]
    parts += [_cost(dry)] if dry.estimate is not None else []
    return "\n\n".join([*parts, "nothing was searched, and nothing kept"])


def _configuration(dry: "DryRun") -> str:
    search, plan, sizes = dry.search, dry.plan, dry.sizes
    label = f" ({TEST_SELECTED})" if search.protocol == "published" else ""
    shape = f"{sizes['rows']} rows of {sizes['features']}, {sizes['seen_classes']} seen and "
    limit = "" if plan.seconds is None else f", none begun after {_time(plan.seconds)}"
    there = "new" if dry.there is None else f"goes on: {plural(dry.there, 'trial')} there, {dry.left} left"
    automatic = "asha" if search.compares_by_value else "none"
    rows = {
        "dataset": f"{search.dataset} ({shape}{sizes['unseen_classes']} unseen classes; {search.features})",
        "semantics": f"{search.semantics} ({sizes['semantics']} numbers a class)",
        "content": search.dataset_hash[:12],
        "backbone": search.backbone,
        "protocol": search.protocol + label,
        "validation splits": ", ".join(map(str, search.splits)),
        "objective": aims_words(search),
        "sampler": "auto: tpe" if search.sampler == "auto" else search.sampler,
        "pruner": f"auto: {automatic}" if search.pruner == "auto" else search.pruner,
        "seed": str(search.seed),
        "trials": f"{plan.trials}{limit}",
        "budget of a trial": f"{dry.budget['updates']} updates, {dry.budget['evaluations']} evaluations",
        "confirmation": _confirmation(dry),
        "baselines": "gaussian, ESZSL" if plan.baselines else "none",
        "executor": plan.resources.executor,
        "MLflow": "in $D3TUNE_HOME" if dry.default_store else plan.tracking_uri,
        "run": f"{dry.run} ({there})",
    }
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def _confirmation(dry: "DryRun") -> str:
    plan = dry.plan
    if not plan.confirm_seeds:
        return "none"
    among = f", of one chosen with fresh seeds among the best {plan.confirm_top}" if plan.confirm_top > 1 else ""
    return plural(plan.confirm_seeds, "fresh seed") + among


def _space(dry: "DryRun") -> str:
    if not dry.space.parameters:
        return "space: nothing is searched, all hyper-parameters are fixed"
    cells = [
        [name, *_range(parameter), _condition(parameter), parameter.about]
        for name, parameter in dry.space.parameters.items()
    ]
    fixed = ", ".join(f"{name} {_value(value)}" for name, value in dry.space.fixed.items())
    table = table_text(["searched", "range", "scale", "only if", "what it does"], cells, WIDTH, tight=True)
    return f"{table}\nfixed: {fixed or 'all others at their defaults'}"


def _range(parameter: "Parameter") -> tuple[str, str]:
    if parameter.choices is not None:
        return ", ".join(map(_value, parameter.choices)), "choices"
    off = "0, or " if parameter.off else ""
    return f"{off}{_value(parameter.low)} to {_value(parameter.high)}", "log" if parameter.log else "linear"


def _condition(parameter: "Parameter") -> str:
    every = [_holds(name, allowed) for name, allowed in (parameter.when or {}).items()]
    some = [_holds(name, allowed) for name, allowed in (parameter.when_any or {}).items()]
    return " and ".join([*every, *([" or ".join(some)] if some else [])])


def _holds(name: str, allowed: Any) -> str:
    return f"{name} > 0" if allowed == "positive" else f"{name} is {' or '.join(map(_value, allowed))}"


def _samples(dry: "DryRun") -> str:
    if not dry.samples:
        return "samples: no trial is left"
    header = ["sample", *(f"trial {sample.trial}" for sample in dry.samples)]
    origins = ["", *(sample.origin for sample in dry.samples)]
    names = [name for name in dry.space.parameters if any(name in sample.values for sample in dry.samples)]
    cells = [[name, *(_value(sample.values.get(name, "–")) for sample in dry.samples)] for name in names]
    return table_text(header, [origins, *cells], WIDTH)


def _machine(dry: "DryRun") -> str:
    machine, resources = dry.machine, dry.plan.resources
    memory = "" if machine.memory_bytes is None else f", {_size(machine.memory_bytes)} of memory free"
    gpus = ", ".join(machine.gpus) or "no GPU"
    needs = f"{resources.cpus_per_trial:g} CPUs and {resources.gpus_per_trial:g} GPUs"
    lines = [f"this machine: {plural(machine.cores, 'core')}, {gpus}{memory}"]
    if machine.at_once is None:
        return "\n".join([*lines, f"trials at once: as many as fit the cluster at {resources.address}, not asked"])
    lines.append(f"trials at once: {machine.at_once} ({needs} each)")
    if dry.plan.auto_gpus:
        lines.append("  with --gpus-per-trial auto as many share a GPU as a search measures; here each has a whole one")
    if dry.probe is not None and machine.memory_bytes is not None:
        needed = min(machine.at_once, dry.left) * dry.probe.memory_bytes
        if needed > machine.memory_bytes:
            lines.append(f"  they need {_size(needed)} of memory, which is more than is free; give a --concurrency")
    return "\n".join(lines)


def _cost(dry: "DryRun") -> str:
    measured, cost = dry.probe, dry.estimate
    assert measured is not None
    assert cost is not None
    gpu = f", {_size(measured.gpu_bytes)} of GPU memory" if measured.gpu_bytes else ""
    at_once = dry.machine.at_once or 1
    total = cost.search_seconds + cost.confirm_seconds
    confirmed = f" + {_time(cost.confirm_seconds)} for the confirmation" if cost.confirm_seconds else ""
    lines = [
        f"measured on trial {dry.samples[0].trial}: set-up {_time(measured.setup_seconds)}, "
        f"an update {_time(measured.update_seconds)} (mean of {measured.updates}), "
        f"an evaluation {_time(measured.evaluation_seconds)}",
        f"memory of a trial: {_size(measured.memory_bytes)}{gpu}",
        f"a trial of the full budget: {_time(cost.trial_seconds)}",
        f"time: {_time(total)} = {_time(cost.search_seconds)} for {plural(dry.left, 'trial')}, {at_once} at once"
        f"{confirmed}",
        f"disk: {_size(cost.disk_bytes)} in the run's folder, {_size(cost.most_disk_bytes)} while trials run",
        "  if no trial is pruned, every trial costs what this one does and none slows another; without Ray's own start "
        "and end, compilation, the baselines and MLflow's store",
    ]
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _time(seconds: float) -> str:
    """``12 ms``, ``3.4 s``, ``5 min``, ``2.5 h``."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds / 86_400:.3g} days"


def _size(n_bytes: int) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:.3g} {name}"
    return f"{n_bytes} bytes"
