"""A surrogate of a cell, fitted on its recorded trials: from a configuration to the reports that a training would make.

Two random forests give the curve, its values and the logarithm of its seconds at each evaluation; each configuration
is one row, the median of its seeds, so that what is out of bag was never seen with another seed. A third forest says
how a training ends: it is sound, collapses (see `d3tune.search.reports.collapse`) or diverges. Diverged trainings
have no whole curve and take no part in the first two.

Noise is what the configurations with several seeds show: the curve of one of their seeds minus the median of all,
drawn from those of the sound configurations that are as good as the one that is trained: good ones are less noisy than
bad ones. A training that comes to nothing late, as some of diffusion do, is so noise that lowers a curve, where noise
of the same covariance would raise others. It is drawn anew for each configuration and seed, and always the same for
the same two; so is the end. Seconds have no noise.

The noise-free value of a configuration is the largest value of its curve without noise. The noise-free best of the
cell is the largest of that among many random configurations and variations of the best of them, which are sound with
a probability of at least a half.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.metrics import roc_auc_score

from benchmarks.encoding import Encoding, draw, params_of
from benchmarks.forest import Forest, Numbers
from benchmarks.trials import Cell, Table, Trained
from d3tune.config import metric_prefix
from d3tune.errors import UsageError
from d3tune.method.generators import load_backbone
from d3tune.search.reports import Report, collapse
from d3tune.space import space_from_dict

LEAST = 10
# which noise the recorded seeds are taken for
NOISE, NEAR, LEAST_NEAR = "curves around the median, of configurations as good", 1 / 3, 4
TREES, SHARE_OF_COLUMNS = 100, 1 / 3
ENDS = ("sound", "collapsed", "diverged")
SOUND, COLLAPSED, DIVERGED = ENDS
HEAD, PREFIX, CHANCE = "surrogate", metric_prefix("validation"), 0.5
POINTS, ROUNDS, KEPT, VARIATIONS, SHARE_KEPT = 2000, 15, 20, 10, 0.85


@dataclass(frozen=True)
class Quality:
    """How good a surrogate is; of sound and collapsed configurations, out of bag where it says so.

    Attributes:
        configurations: recorded with a whole curve.
        repeated: of the sound ones, with several seeds.
        collapsed, diverged: trainings that ended so, of all.
        trainings: all.
        r2: R² of the best value, out of bag.
        rank: Spearman's correlation of it, out of bag.
        spread: sd of the best value over configurations.
        recorded: the largest of them, of all recorded configurations, as the median of its seeds.
        noise: sd of the best value over the seeds of a configuration; None where none has several.
        unsound: area under the ROC curve of the probability of an unsound end, out of bag, over configurations with one
            seed; None of one kind of end.
    """

    configurations: int
    repeated: int
    collapsed: int
    diverged: int
    trainings: int
    r2: float
    rank: float
    spread: float
    recorded: float
    noise: float | None
    unsound: float | None


@dataclass(frozen=True)
class Training:
    """What a training would report.

    Attributes:
        reports: in order of update; fewer than the full budget where it diverges.
        end: one of `ENDS`.
    """

    reports: Sequence[Report]
    end: str

    @property
    def best(self) -> float | None:
        """The value that it would end with; None where it is not sound."""
        return max(report.value for report in self.reports) if self.end == SOUND else None

    @property
    def seconds(self) -> float:
        """Up to its last report."""
        return self.reports[-1].seconds if self.reports else 0.0


class Surrogate:
    """What a cell's trainings would report.

    Attributes:
        cell: which.
        space: of its table.
        config: the backbone's configuration class.
        about: of the table.
        digest: of the recorded trainings and of how they are fitted, so that results of others are told apart.
        updates: at which a training is evaluated.
        quality: see `Quality`.
    """

    def __init__(self, cell: Cell, table: Table) -> None:
        """Fit the forests, in some seconds.

        Args:
            cell: which.
            table: of it.

        Raises:
            UsageError: there are too few trainings in it.
        """
        self.cell, self.about = cell, table.about
        rows = [table.rows[key] for key in sorted(table.rows)]
        whole = _by_configuration([row for row in rows if _end(row) != DIVERGED])
        if len(whole) < LEAST:
            raise UsageError(f"{cell.name}: {len(whole)} configurations are recorded, {LEAST} are the least to fit")
        self.config = load_backbone(cell.backbone).config
        self.space = space_from_dict(table.about["space"], self.config, f"{cell.name}: space")
        self.digest = _digest(table.about["space_hash"], rows)
        self.updates = tuple(report.update for report in whole[0][0].reports)
        self._encode = Encoding(self.space)
        self._params = [seeds[0].params for seeds in whole]
        encoded = self._encode(self._params)
        values, seconds = (np.array([_middle(seeds, name) for seeds in whole]) for name in ("value", "seconds"))
        fitted = _regressor().fit(encoded, values)
        self._values = Forest(fitted)
        self._seconds = Forest(_regressor().fit(encoded, np.log(np.maximum(seconds, 1e-6))))
        residuals = _residuals(whole)
        self._noise = residuals
        self._noisy = np.array([_curves(seeds, "value").max(1).mean() for seeds in _repeated(whole)])
        self._diverged_after = [len(row.reports) for row in rows if _end(row) == DIVERGED]
        ends = [_end(row) for row in rows]
        self._ends, unsound = _fitted_ends(self._encode([row.params for row in rows]), ends, _alone(rows))
        best, predicted = values.max(1), fitted.oob_prediction_.reshape(values.shape).max(1)
        self.quality = Quality(
            configurations=len(whole),
            repeated=len(residuals),
            collapsed=ends.count(COLLAPSED),
            diverged=ends.count(DIVERGED),
            trainings=len(rows),
            r2=1 - float(((best - predicted) ** 2).mean() / max(float(best.var()), 1e-300)),
            rank=_rank(predicted, best),
            spread=float(best.std(ddof=1)),
            recorded=float(best.max()),
            noise=_noise_of_best(whole),
            unsound=unsound,
        )

    def curve(self, config: Mapping[str, Any]) -> Numbers:
        """Values without noise, one an evaluation.

        Args:
            config: every hyper-parameter.
        """
        values: Numbers = np.clip(self._values(self._row(config))[0], 0.0, 1.0)
        return values

    def expected(self, config: Mapping[str, Any]) -> float:
        """A configuration's noise-free value."""
        return float(self.curve(config).max())

    def training(self, config: Mapping[str, Any], seed: int) -> Training:
        """What a training would report, always the same for a configuration and a seed."""
        params, row = params_of(self.space, config), self._row(config)
        rng = np.random.default_rng(_stream(params, seed))
        end = ENDS[int(np.searchsorted(np.cumsum(self._chances(row)[0])[:-1], rng.random(), side="right"))]
        curve = self._values(row)[0]
        values = np.clip(curve + self._noise_of(float(curve.max()), rng), 0.0, 1.0)
        # means of rising curves rise
        seconds = np.exp(self._seconds(row)[0])
        length = int(rng.choice(self._diverged_after)) if end == DIVERGED else len(self.updates)
        rows = zip(self.updates, values.tolist(), seconds.tolist(), strict=True)
        reports = [_report(update, value, second, end) for update, value, second in rows]
        return Training(reports[:length], end)

    def _noise_of(self, value: float, rng: np.random.Generator) -> Numbers:
        """A residual of one of the repeated configurations whose best values are nearest."""
        if not self._noise:
            return np.zeros(len(self.updates))
        count = max(LEAST_NEAR, math.ceil(NEAR * len(self._noise)))
        near = np.argsort(np.abs(self._noisy - value), kind="stable")[:count]
        drawn: Numbers = rng.choice(np.concatenate([self._noise[place] for place in near]))
        return drawn

    @cached_property
    def best(self) -> float:
        """The noise-free best, see the module."""
        rng = np.random.default_rng(0)
        # what was recorded is legal, too
        points = [*self._params, *(draw(self.space, self.config, rng) for _ in range(POINTS))]
        kept, values = self._top(points)
        for _ in range(ROUNDS):
            varied = [draw(self.space, self.config, rng, _part(point, rng)) for point in kept * VARIATIONS]
            kept, values = self._top([*kept, *varied])
        return float(values[0])

    def _top(self, points: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], Numbers]:
        """The best points that are sound more often than not, the best first, and their noise-free values."""
        rows = self._encode(points)
        values = np.clip(self._values(rows).max(1), 0.0, 1.0)
        values[self._chances(rows)[:, 0] < 0.5] = 0.0
        order = np.argsort(-values, kind="stable")[:KEPT]
        return [points[place] for place in order], values[order]

    def _row(self, config: Mapping[str, Any]) -> NDArray[np.float32]:
        return self._encode([params_of(self.space, config)])

    def _chances(self, rows: NDArray[np.float32]) -> Numbers:
        """Probabilities of `ENDS`, of shape (rows, 3)."""
        chances = np.zeros((len(rows), len(ENDS)))
        if isinstance(self._ends, str):
            chances[:, ENDS.index(self._ends)] = 1.0
        else:
            forest, classes = self._ends
            chances[:, classes] = forest(rows)
        return chances


def _regressor() -> RandomForestRegressor:
    return RandomForestRegressor(TREES, max_features=SHARE_OF_COLUMNS, oob_score=True, random_state=0)


def _fitted_ends(
    encoded: NDArray[np.float32], ends: Sequence[str], alone: NDArray[np.bool_]
) -> tuple[str | tuple[Forest, list[int]], float | None]:
    """A forest of the ends with the places of its classes in `ENDS`, or the only end; and `Quality.unsound`."""
    if len(set(ends)) == 1:
        return ends[0], None
    places = np.array([ENDS.index(end) for end in ends])
    forest = RandomForestClassifier(TREES, min_samples_leaf=3, oob_score=True, random_state=0).fit(encoded, places)
    classes = [int(place) for place in forest.classes_]
    unsound, told = places[alone] > 0, None
    if 0 in classes and len(set(unsound.tolist())) == 2:
        chances = forest.oob_decision_function_[alone, classes.index(0)]
        told = float(roc_auc_score(unsound, 1 - chances))
    return (Forest(forest), classes), told


def _alone(rows: Sequence[Trained]) -> NDArray[np.bool_]:
    """Which trainings are the only ones of their configuration: what is out of bag of them was never seen."""
    counts = Counter(row.number for row in rows)
    return np.array([counts[row.number] == 1 for row in rows])


def _report(update: int, value: float, seconds: float, end: str) -> Report:
    """With what the study looks at: a collapsed training tells unseen classes apart no better than by chance."""
    score = 0.0 if end == COLLAPSED else 1.0
    metrics = {f"{PREFIX}/H": value, f"{PREFIX}/{HEAD}/T1": score, f"{PREFIX}/T1_chance": CHANCE}
    return Report(update, value, HEAD, metrics, seconds)


def _end(row: Trained) -> str:
    if row.failure:
        return DIVERGED
    return SOUND if collapse(row.reports, PREFIX) is None else COLLAPSED


def _by_configuration(rows: Sequence[Trained]) -> list[list[Trained]]:
    seeds: dict[int, list[Trained]] = {}
    for row in rows:
        seeds.setdefault(row.number, []).append(row)
    return list(seeds.values())


def _curves(seeds: Sequence[Trained], name: str) -> Numbers:
    return np.array([[getattr(report, name) for report in row.reports] for row in seeds], float)


def _middle(seeds: Sequence[Trained], name: str) -> Numbers:
    middle: Numbers = np.median(_curves(seeds, name), axis=0)
    return middle


def _repeated(whole: Sequence[Sequence[Trained]]) -> list[Sequence[Trained]]:
    """The sound configurations with several seeds."""
    return [seeds for seeds in whole if len(seeds) > 1 and all(_end(row) == SOUND for row in seeds)]


def _residuals(whole: Sequence[Sequence[Trained]]) -> list[Numbers]:
    """Of each configuration with several seeds, those minus their median; an array (seeds, evaluations).

    A few seeds lie nearer to their own median than to what they are drawn around: they are scaled by that.
    """
    curves = [_curves(seeds, "value") for seeds in _repeated(whole)]
    return [(curve - np.median(curve, axis=0)) / _nearness(len(curve)) for curve in curves]


@cache
def _nearness(n: int) -> float:
    """Root mean square of n standard normal numbers around their median."""
    drawn = np.random.default_rng(0).standard_normal((100_000, n))
    return float(np.sqrt(((drawn - np.median(drawn, axis=1, keepdims=True)) ** 2).mean()))


def _noise_of_best(whole: Sequence[Sequence[Trained]]) -> float | None:
    bests = [_curves(seeds, "value").max(1) for seeds in _repeated(whole)]
    freedom = sum(len(best) - 1 for best in bests)
    return math.sqrt(sum(((best - best.mean()) ** 2).sum() for best in bests) / freedom) if freedom else None


def _part(params: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    return {name: value for name, value in params.items() if rng.random() < SHARE_KEPT}


def _rank(one: Numbers, other: Numbers) -> float:
    constant = np.ptp(one) == 0 or np.ptp(other) == 0
    return 0.0 if constant else float(spearmanr(one, other).statistic)


def _stream(params: Mapping[str, Any], seed: int) -> int:
    text = json.dumps([params, seed], sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def _digest(space_hash: str, rows: Sequence[Trained]) -> str:
    """Of what is fitted, and of how."""
    told = [[row.number, row.seed, row.failure, [[r.value, r.seconds] for r in row.reports]] for row in rows]
    text = json.dumps([space_hash, TREES, SHARE_OF_COLUMNS, NOISE, told])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
