"""What a search tries first: the space's own points, exported configurations, and what earlier runs found."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d3tune.config import SearchConfig, TrialConfig, validated
from d3tune.documents import read_document
from d3tune.errors import D3TuneError, UsageError, nearest
from d3tune.method.generators import load_backbone
from d3tune.search.exported import confirmed_document
from d3tune.search.journal import CONFIG_ATTR
from d3tune.search.places import default_path
from d3tune.search.run import RUN_FILE, RunDirectory, open_run
from d3tune.search.sampling import enqueue_params
from d3tune.search.standing import ranked_trials
from d3tune.search.study import read_trials
from d3tune.search.summaries import summaries
from d3tune.space import Parameter, Space, WarmStart, contains, is_integer
from d3tune.words import TEST_SELECTED, WARM_STARTS

LEADERBOARD = "leaderboard"
# at most so many points of one run, and of all runs
OF_A_RUN, OF_ALL_RUNS = 3, 5


@dataclass(frozen=True)
class Found:
    """A configuration that an earlier run found.

    Attributes:
        run: that run.
        trial: its number there.
        values: its hyper-parameters; without those whose condition does not hold, whose values nobody chose.
    """

    run: RunDirectory
    trial: int
    values: dict[str, Any]

    @property
    def name(self) -> str:
        """Of its point, in signs that YAML and terminals take."""
        return "".join(sign if sign.isprintable() else "?" for sign in f"{self.run.name} trial {self.trial}")


def depends_on_runs(choice: str) -> bool:
    """Whether what ``--warm-start`` names is found in other runs, so that it may be another tomorrow."""
    if choice in WARM_STARTS:
        return choice == LEADERBOARD
    path = Path(choice)
    return path.is_dir() or not path.exists()


def remembered(space: Space, search: SearchConfig, path: Path | None, root: Path) -> tuple[WarmStart, ...] | None:
    """The warm starts of the run that the same command made before, so that it is the same search again.

    Args:
        space: what is asked for now, its warm starts not yet looked for.
        search: what is searched.
        path: where the run is kept; None for its place below ``root``.
        root: ``$D3TUNE_HOME``.

    Returns:
        None where there is no such run, or it was asked for in other words.

    Raises:
        RunError: it is damaged.
    """
    place = default_path(search, space, root) if path is None else path
    if not (place / RUN_FILE).is_file():
        return None
    run = open_run(str(place))
    if run.search.backbone != space.backbone:
        return None
    held = run.load_space(load_backbone(space.backbone).config)
    return held.warm_start if held.asked_hash == space.asked_hash else None


@dataclass(frozen=True)
class WarmStarts:
    """Finds the points that ``--warm-start`` names.

    Attributes:
        base: the space as its file has it, with its own points.
        space: with what ``--set`` fixes.
        config: the backbone's configuration class.
        search: what is searched.
        root: ``$D3TUNE_HOME``.
        say: takes one line for each point of an earlier run.
    """

    base: Space
    space: Space
    config: type[TrialConfig]
    search: SearchConfig
    root: Path
    say: Callable[[str], None] | None

    def points(self, choices: Sequence[str]) -> tuple[WarmStart, ...]:
        """The points in order; where earlier runs have a part in them, of equal ones the first.

        Args:
            choices: ``shipped``, ``none``, ``leaderboard``, runs, and files of exported configurations.

        Raises:
            UsageError: there is no such file or run, or it has nothing that can be taken.
            RunError: a run is damaged.
        """
        points: list[WarmStart] = []
        for choice in choices:
            if depends_on_runs(choice):
                self._add_found(points, choice)
            elif choice == "shipped":
                points += self.base.warm_start
            elif choice != "none":
                points.append(_of_file(Path(choice), self.base, self.config))
        return tuple(self._distinct(points) if any(map(depends_on_runs, choices)) else points)

    def _add_found(self, points: list[WarmStart], choice: str) -> None:
        """Add what runs have: of one its best, of all as many that are not there yet."""
        everywhere = choice == LEADERBOARD
        before = len(points)
        for found in self._confirmed() if everywhere else self._best(choice):
            point = self._point(found, points)
            points += [] if point is None else [point]
            if len(points) - before == OF_ALL_RUNS:
                break
        if everywhere and len(points) == before:
            self._tell("--warm-start leaderboard: nothing to take from runs on other datasets or of other backbones")

    def _best(self, choice: str) -> list[Found]:
        """The best complete trials of a run, the best first."""
        run = _run_of(choice, self.root)
        if run.search.protocol != "validation":
            raise UsageError(
                f"--warm-start {choice}: a {TEST_SELECTED} run (protocol {run.search.protocol}), whose trials the test "
                "sets chose; give one of protocol validation"
            )
        # a point need not meet what that search wanted of a winner
        best = ranked_trials(read_trials(run.journal))[:OF_A_RUN]
        if not best:
            raise UsageError(f"--warm-start {choice}: no complete trial yet; go on with: {run.resume_command}")
        return [_found(run, trial.number, trial.user_attrs[CONFIG_ATTR]) for trial in best]

    def _confirmed(self) -> Iterator[Found]:
        """What other searches confirmed, on other data or of other backbones, the best validation H first."""
        places = [
            (-value, str(summary["path"]))
            for summary in summaries(self.say, self.root / "runs")
            if self._is_another(summary) and (value := _validated(summary)) is not None
        ]
        for _, place in sorted(places):
            try:
                run = open_run(place)
                document = confirmed_document(run)
                found = _found(run, int(document["source"]["trial"]), document["config"])
            except (KeyError, TypeError, ValueError):
                self._tell(f"--warm-start leaderboard: left out: {run.best}: does not say which trial it is of")
            except D3TuneError as error:
                self._tell(f"--warm-start leaderboard: left out: {error}")
            else:
                if run.search.protocol == "validation":
                    yield found

    def _is_another(self, summary: Mapping[str, Any]) -> bool:
        """Whether a run is on another dataset, whatever its semantics, or of another backbone."""
        data = summary["dataset"]
        if not isinstance(data, dict) or summary.get("kind") == "ensemble":
            return False
        name, own = str(data.get("name")), self.search.dataset
        if name != own and name.partition("/")[0] == own.partition("/")[0]:
            # another class split of the same rows: what was chosen there may have seen what is tested here
            return False
        same = data.get("name") == self.search.dataset or data.get("content_hash") == self.search.dataset_hash
        return not same or summary["backbone"] != self.search.backbone

    def _point(self, found: Found, points: Iterable[WarmStart]) -> WarmStart | None:
        """The point that a configuration is in this space; None of one that is none, or is there already."""
        values, taken = self.transferred(found.values)
        line = f"warm start from {found.name}: {taken} of {len(values)} hyper-parameters"
        if not taken:
            self._tell(f"{line}, left out")
            return None
        try:
            validated(self.config, {**self.space.fixed, **values}, line)
        except UsageError as error:
            self._tell(f"{error}; left out")
            return None
        search = found.run.search
        source = f"{search.backbone} on {search.dataset}, {taken} of {len(values)} hyper-parameters"
        point = WarmStart(name=found.name, source=source, values=values)
        twin = next((other for other in points if self._same(other, point)), None)
        self._tell(line if twin is None else f"{line}, the same as {twin.name}")
        return point if twin is None else None

    def transferred(self, found: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
        """What is searched here with values from elsewhere, and how many these are.

        What cannot be taken is as in the space's first own point, else the default where that can be suggested, else
        left to the sampler.

        Args:
            found: hyper-parameters of a configuration, those alone whose condition holds.
        """
        own = self.base.warm_start[0].values if self.base.warm_start else {}
        settled = self.config(**self.space.fixed).model_dump(mode="json")
        values: dict[str, Any] = {}
        taken = 0
        for name, parameter in self.space.parameters.items():
            if not parameter.active({**settled, **values}):
                continue
            for place in (found, own, settled):
                if name in place and self._fits(name, parameter, place[name]):
                    values[name] = place[name]
                    taken += place is found
                    break
        return values, taken

    def _fits(self, name: str, parameter: Parameter, value: Any) -> bool:
        if parameter.choices is not None:
            # True equals 1
            same = (choice for choice in parameter.choices if isinstance(choice, bool) == isinstance(value, bool))
            return value in same
        whole = isinstance(value, int) or not is_integer(self.config, name)
        return not isinstance(value, bool) and whole and contains(parameter, value)

    def _distinct(self, points: Iterable[WarmStart]) -> list[WarmStart]:
        distinct: list[WarmStart] = []
        for point in points:
            if not any(self._same(other, point) for other in distinct):
                distinct.append(point)
        return distinct

    def _same(self, one: WarmStart, other: WarmStart) -> bool:
        return enqueue_params(self.space, one.values) == enqueue_params(self.space, other.values)

    def _tell(self, line: str) -> None:
        if self.say is not None:
            self.say(line)


def _found(run: RunDirectory, trial: int, config: dict[str, Any]) -> Found:
    space = run.load_space(load_backbone(run.search.backbone).config)
    idle = {name for name, parameter in space.parameters.items() if not parameter.active(config)}
    return Found(run, trial, {name: value for name, value in config.items() if name not in idle})


def _run_of(choice: str, root: Path) -> RunDirectory:
    """The run of a directory, or of a name below the root."""
    known = sorted(path.parent.name for path in root.glob(f"runs/*/{RUN_FILE}"))
    for place in (Path(choice).expanduser(), *(root / "runs" / name for name in known if name == choice)):
        if (place / RUN_FILE).is_file():
            return open_run(str(place))
    what = "there is no such file, and no such run" if not Path(choice).exists() else "a folder that is no run"
    raise UsageError(f"--warm-start {choice}: cannot read: {what}{nearest(choice, [*WARM_STARTS, *known])}")


def _validated(summary: Mapping[str, Any]) -> float | None:
    """The validation H that a summary reports of a confirmed run; None of one that is none, or is test-selected."""
    selection, test = summary["selection"], summary["test"]
    if not isinstance(selection, dict) or not isinstance(test, dict):
        return None
    value = selection.get("val_H")
    honest = (selection.get("protocol"), test.get("protocol")) == ("validation", "test")
    return float(value) if honest and isinstance(value, int | float) else None


def _of_file(path: Path, space: Space, config: type[TrialConfig]) -> WarmStart:
    document = read_document(path)
    values = document.get("config")
    if not isinstance(values, dict):
        raise UsageError(
            f"{path}: no 'config' mapping; --warm-start takes {', '.join(WARM_STARTS)}, a run or an exported "
            "configuration"
        )
    made_for = document.get("backbone", space.backbone)
    try:
        validated(config, values, str(path))
    except UsageError:
        if made_for == space.backbone:
            raise
        raise UsageError(
            f"{path}: a configuration of backbone '{made_for}', but '{space.backbone}' is searched; "
            f"give one of '{space.backbone}', or --backbone {made_for}"
        ) from None
    settled = {**config(**space.fixed).model_dump(mode="json"), **values, **space.fixed}
    # an exported configuration has a value of every key; where its condition does not hold it is of no choice
    active = [name for name, parameter in space.parameters.items() if parameter.active(settled)]
    searched = {name: values[name] for name in active if name in values}
    for name, value in searched.items():
        if not contains(space.parameters[name], value):
            raise UsageError(f"{path}: {name}: {value!r} is outside the space's interval or choices")
    return WarmStart(name=path.stem, source=str(path.name), values=searched)
