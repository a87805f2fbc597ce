"""From what a user asked for to a run and a plan; every wrong request is refused here, before anything is written."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import ValidationError

from d3tune.config import (
    Pruner,
    Sampler,
    SearchConfig,
    SelectionProtocol,
    TrialConfig,
    validated,
)
from d3tune.data.dataset import GZSLDataset
from d3tune.data.registry import find_dataset, prepared_path
from d3tune.errors import RunError, UsageError, nearest, one_of
from d3tune.files import home_path
from d3tune.method.generators import load_backbone
from d3tune.search.aims import check_readings, parse_constraints, parse_objective
from d3tune.search.extending import shortened
from d3tune.search.run import RunDirectory, create_run, extend_run, open_run
from d3tune.search.sampling import make_sampler
from d3tune.search.warm_starts import WarmStarts, depends_on_runs, remembered
from d3tune.space import Space, check_space, load_space
from d3tune.yamlfile import parse_yaml


@dataclass(frozen=True)
class Request:
    """A search as the command line names it; see ``d3tune search --help``."""

    dataset: str
    backbone: str
    data_dir: Path | None = None
    semantics: str | None = None
    space: Path | None = None
    settings: tuple[str, ...] = ()
    warm_start: tuple[str, ...] = ("shipped",)
    objective: str = "H"
    constraints: tuple[str, ...] = ()
    protocol: str = "validation"
    val_split: int = 0
    val_splits: int = 1
    seed: int = 0
    sampler: str = "auto"
    pruner: str = "auto"
    run_dir: Path | None = None
    extend: bool = False


def prepare_run(request: Request, say: Callable[[str], None] | None = None) -> tuple[RunDirectory, bool]:
    """Resolve a request and create its run directory, or open the one of the same search.

    Args:
        request: what the user asked for.
        say: takes one line on what the overrides of the user's own space replace, and on what an extension changes.

    Returns:
        The run and whether it is new.

    Raises:
        UsageError: the request is wrong.
        RunError: the run directory holds something else.
    """
    dataset, search, space, config = resolved(request, say, home_path())
    if request.extend:
        run, new = _extended(request, search, space, config, say), False
    else:
        run, new = create_run(request.run_dir, search, prepared_path(dataset), space)
    # of the same content; an earlier command may have found it elsewhere
    return replace(run, dataset_path=prepared_path(dataset)), new


def resolved(
    request: Request, say: Callable[[str], None] | None, root: Path
) -> tuple[GZSLDataset, SearchConfig, Space, type[TrialConfig]]:
    """What a request names: the prepared dataset, the search, its space, and its backbone's configuration class.

    Args:
        request: what the user asked for.
        say: see `prepare_run`.
        root: ``$D3TUNE_HOME``, whose runs warm starts may be taken from.

    Raises:
        UsageError: the request is wrong.
    """
    backbone = load_backbone(request.backbone)
    dataset = find_dataset(request.dataset, request.data_dir, request.semantics)
    search = _search_config(request, dataset)
    make_sampler(search.sampler, 0, 0)
    return dataset, search, _resolved_space(request, dataset, search, backbone.config, say, root), backbone.config


def run_to_extend(request: Request) -> RunDirectory:
    """The run that ``--extend`` names.

    Raises:
        UsageError: there is none.
        RunError: it is damaged.
    """
    if request.run_dir is None:
        raise UsageError("--extend: needs --run-dir, the run to extend")
    return open_run(str(request.run_dir))


def _extended(
    request: Request, search: SearchConfig, space: Space, config: type[TrialConfig], say: Callable[[str], None] | None
) -> RunDirectory:
    run = run_to_extend(request)
    with run.owned():
        extended = extend_run(run, search, space, config)
    if say is not None and extended.extensions == run.extensions:
        say(f"{run.path}: nothing to extend, it is this search already")
    elif say is not None:
        say(f"{run.path}: extended ({shortened(list(extended.extensions[-1].changes))})")
    return extended


def located(run: RunDirectory, data_dir: Path | None) -> RunDirectory:
    """The run with its dataset where this machine has it.

    Args:
        run: perhaps made on another machine.
        data_dir: where to look for the dataset; None for the usual places.

    Raises:
        D3TuneError: it is not here, or its content is another.
    """
    if data_dir is None and run.dataset_path.is_dir():
        return run
    search = run.search
    dataset = find_dataset(search.dataset, data_dir, search.semantics)
    if dataset.content_hash != search.dataset_hash:
        raise RunError(
            f"{search.dataset}: what is found here holds content {dataset.content_hash[:12]}, "
            f"{run.name} was made for {search.dataset_hash[:12]}; give its folder with --data-dir"
        )
    return replace(run, dataset_path=prepared_path(dataset))


def parse_settings(settings: Sequence[str], config: type[TrialConfig], fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Hyper-parameters given as ``key=value``, legal together with what the space fixes.

    Raises:
        UsageError: the form, a name or a value is wrong.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {setting}: write it as key=value")
        values[key.strip()] = parse_yaml(f"value: {value}", f"--set {setting}")["value"]
    for key in (key for key in values if key not in config.model_fields):
        raise UsageError(f"--set: unknown key '{key}'{nearest(key, config.model_fields)}; --set list shows all")
    validated(config, {**fixed, **values}, "--set")
    return values


def _search_config(request: Request, dataset: GZSLDataset) -> SearchConfig:
    objective, aims = parse_objective(request.objective)
    constraints = parse_constraints(request.constraints)
    one_of("--protocol", request.protocol, get_args(SelectionProtocol))
    one_of("--sampler", request.sampler, get_args(Sampler))
    one_of("--pruner", request.pruner, get_args(Pruner))
    check_readings(objective, aims, constraints)
    if aims or constraints:
        _check_helpers(request)
    try:
        return SearchConfig(
            dataset=dataset.name,
            dataset_hash=dataset.content_hash,
            semantics=dataset.semantics_id,
            features=dataset.feature_tag,
            backbone=request.backbone,
            objective=objective,
            protocol=cast(Any, request.protocol),
            val_split=request.val_split,
            val_splits=request.val_splits,
            seed=request.seed,
            sampler=cast(Any, request.sampler),
            pruner=cast(Any, request.pruner),
            aims=aims,
            constraints=constraints,
        )
    except ValidationError as error:
        fault = error.errors()[0]
        option = "--" + str(fault["loc"][0]).replace("_", "-")
        raise UsageError(f"{option} {fault['input']}: {fault['msg']}") from None


def _check_helpers(request: Request) -> None:
    """Refuse a sampler and a pruner that see nothing but one value.

    Raises:
        UsageError: one was asked for.
    """
    asked = f"--objective {request.objective}" if "," in request.objective else "--constraint"
    if request.sampler == "cmaes":
        raise UsageError(f"--sampler cmaes: knows one value a trial and no constraint; with {asked} use auto or gp")
    if request.pruner not in ("auto", "none"):
        raise UsageError(
            f"--pruner {request.pruner}: prunes by one value, which {asked} does not let it; leave it out: none is used"
        )


def _resolved_space(
    request: Request,
    dataset: GZSLDataset,
    search: SearchConfig,
    config: type[TrialConfig],
    say: Callable[[str], None] | None,
    root: Path,
) -> Space:
    told = say if request.space is not None else None
    base = load_space(request.backbone, config, dataset.name, dataset.features.shape[1], request.space, told)
    settings = parse_settings(request.settings, config, base.fixed)
    words = request.warm_start if any(map(depends_on_runs, request.warm_start)) else ()
    space = replace(base, warm_start=(), warm_start_of=words).with_fixed(settings)
    points = remembered(space, search, request.run_dir, root) if words else None
    if points is None:
        points = WarmStarts(base, space, config, search, root, say).points(request.warm_start)
    points = tuple(
        point.model_copy(update={"values": {k: v for k, v in point.values.items() if k not in settings}})
        for point in points
    )
    space = replace(space, warm_start=points)
    check_space(space, config, "--set")
    return space
