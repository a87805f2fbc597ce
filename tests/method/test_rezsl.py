"""The `rezsl` backbone against loops in float64: losses, members, dropout, and the heads that read it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from d3tune.data.tensors import Tensors
from d3tune.method.generators import load_backbone
from d3tune.method.randomness import stream
from d3tune.method.regression import Rezsl, RezslConfig
from d3tune.method.regressors import dropout_mask
from d3tune.method.training import start_training

Array = npt.NDArray[np.float64]
N_SEEN, N_CLASSES = 6, 9
SEED = 3
ALL_HEADS = ("cosine", "discriminant", "combined")


def rezsl(data: Tensors, **values: Any) -> Rezsl:
    config = RezslConfig(**({"batch_size": 20, "hidden_dim": 8, "updates": 5, "evaluations": 1} | values))
    trainer = start_training(load_backbone("rezsl"), data, config, SEED)
    assert isinstance(trainer, Rezsl)
    return trainer


def unit(x: Array) -> Array:
    return np.asarray(x / np.sqrt((x**2).sum(axis=1, keepdims=True)))


class SlowRezsl:
    """The losses by loops, each member by numpy from given weights, gradients by finite differences."""

    def __init__(self, trainer: Rezsl) -> None:
        self.config, self.data = trainer.config, trainer.tensors
        stacked = [p.detach().double().numpy().copy() for p in trainer.regressor.parameters()]
        self.members = [[part[k] for part in stacked] for k in range(self.config.members)]
        self.rng = stream(SEED, "updates")
        self.errors = np.zeros((N_SEEN, self.data.semantics.shape[1]))
        self.t = 0
        self.m, self.v = ([[np.zeros_like(w) for w in member] for member in self.members] for _ in range(2))

    def predict(self, member: list[Array], x: Array, mask: Array | None = None) -> Array:
        if self.config.hidden_dim == 0:
            weight, bias = member
            return np.asarray(x @ weight.T + bias)
        w1, b1, w2, b2 = member
        hidden = np.maximum(x @ w1.T + b1, 0)
        return np.asarray((hidden if mask is None else hidden * mask) @ w2.T + b2)

    def cosines(self, predicted: Array) -> Array:
        return np.asarray(unit(predicted) @ unit(self.data.semantics.double().numpy()).T)

    def remse_weights(self, predicted: Array, y: list[int]) -> Array:
        """Updates the record, as a batch does."""
        squared = (unit(predicted) - unit(self.data.semantics.double().numpy())[y]) ** 2
        for c in set(y):
            self.errors[c] = np.mean([row for row, k in zip(squared, y, strict=True) if k == c], axis=0)
        weights = np.ones_like(self.errors)
        for c in range(N_SEEN):
            for s in range(self.errors.shape[1]):
                if self.errors[c, s] > 0:
                    floored = np.maximum(self.errors, 1e-6)
                    of_classes = min(floored[k, s] for k in range(N_SEEN) if self.errors[k, s] > 0)
                    of_dimensions = min(floored[c, k] for k in range(self.errors.shape[1]) if self.errors[c, k] > 0)
                    first = (1 + np.log(floored[c, s] / of_classes)) ** self.config.remse_p
                    second = (1 + np.log(floored[c, s] / of_dimensions)) ** self.config.remse_p2
                    weights[c, s] = first * second
        return np.asarray(weights[y])

    def losses(self, predicted: Array, y: list[int], weights: Array) -> tuple[float, float]:
        logits = self.config.cosine_scale * self.cosines(predicted)[:, :N_SEEN]
        classification = np.mean([np.log(np.exp(row).sum()) - row[c] for row, c in zip(logits, y, strict=True)])
        target = unit(self.data.semantics.double().numpy())[y]
        return float(classification), float((weights * (unit(predicted) - target) ** 2).mean())

    def batch(self) -> tuple[list[Array], list[list[int]], list[Array | None]]:
        """Rows, labels and hidden masks of each member, drawn as the trainer draws them."""
        n, config = len(self.data.train_x), self.config
        size = min(n, config.batch_size)
        order: list[int] = []
        while len(order) < config.members * size:
            order += torch.randperm(n, generator=self.rng).tolist()
        rows = [order[k * size : (k + 1) * size] for k in range(config.members)]
        x = [self.data.train_x.double().numpy()[of_member] for of_member in rows]
        if config.input_dropout:
            mask = dropout_mask((config.members, size, x[0].shape[1]), config.input_dropout, self.rng)
            x = [of_member * factors for of_member, factors in zip(x, mask.double().numpy(), strict=True)]
        masks: list[Array | None] = [None] * config.members
        if config.hidden_dropout:
            shape = (config.members, size, config.hidden_dim)
            masks = list(dropout_mask(shape, config.hidden_dropout, self.rng).double().numpy())
        return x, [self.data.train_y[of_member].tolist() for of_member in rows], masks

    def step(self) -> tuple[float, float]:
        batches = list(zip(self.members, *self.batch(), strict=True))
        together = np.concatenate([self.predict(member, x, mask) for member, x, _, mask in batches])
        labels = [c for _, _, y, _ in batches for c in y]
        weights = self.remse_weights(together, labels)
        found = self.losses(together, labels, weights)
        self.t += 1
        for k, (member, x, y, mask) in enumerate(batches):
            own = weights[k * len(y) : (k + 1) * len(y)]

            def total(
                member: list[Array] = member, x: Array = x, y: list[int] = y, mask: Any = mask, own: Any = own
            ) -> float:
                classification, regression = self.losses(self.predict(member, x, mask), y, own)
                return classification + self.config.remse_weight * regression

            for w, g, m, v in zip(member, finite_differences(member, total), self.m[k], self.v[k], strict=True):
                m[...] = 0.5 * m + 0.5 * g
                v[...] = 0.999 * v + 0.001 * g * g
                first, second = m / (1 - 0.5**self.t), v / (1 - 0.999**self.t)
                w -= self.config.regressor_lr * first / (np.sqrt(second) + 1e-8)
        return found

    def cosine_scores(self, x: Array) -> Array:
        return self.config.cosine_scale * np.mean([self.cosines(self.predict(m, x)) for m in self.members], axis=0)

    def directions(self, x: Array) -> Array:
        return np.concatenate([unit(self.predict(member, x)) for member in self.members], axis=1)


def finite_differences(weights: list[Array], loss: Callable[[], float]) -> list[Array]:
    gradients = [np.zeros_like(w) for w in weights]
    for w, g in zip(weights, gradients, strict=True):
        for index in np.ndindex(w.shape):
            kept, ends = w[index], []
            for change in (1e-6, -1e-6):
                w[index] = kept + change
                ends.append(loss())
            w[index] = kept
            g[index] = (ends[0] - ends[1]) / 2e-6
    return gradients


def slow_gaussian(data: Tensors, train: Array, rows: Array, config: RezslConfig, shrinkage: float) -> Array:
    """`gaussian` in a space where training rows lie at ``train``: explicit inverses, one row and class at a time."""
    y, a = data.train_y.tolist(), data.semantics.double().numpy()
    means = np.array([np.mean([r for r, c in zip(train, y, strict=True) if c == k], axis=0) for k in range(N_SEEN)])
    covariance = np.zeros((train.shape[1], train.shape[1]))
    for row, c in zip(train, y, strict=True):
        covariance += np.outer(row - means[c], row - means[c]) / len(train)
    pairs = [np.linalg.norm(a[i] - a[j]) for i in range(N_SEEN) for j in range(N_SEEN) if i < j]
    width = config.kernel_gamma * np.median(pairs)
    gram = np.array([[np.exp(-sum((p - q) ** 2) / (2 * width**2)) for q in a[:N_SEEN]] for p in a])
    solved = np.linalg.inv(gram[:N_SEEN] + config.ridge * np.eye(N_SEEN)) @ (means - means.mean(axis=0))
    means = np.concatenate([means, means.mean(axis=0) + gram[N_SEEN:] @ solved])
    shrunk = (1 - shrinkage) * covariance + shrinkage * np.diag(np.diag(covariance))
    # a millionth of the mean variance goes to each dimension
    inverse = np.linalg.inv(shrunk + 1e-6 * np.diag(covariance).mean() * np.eye(len(shrunk)))
    return np.array([[r @ inverse @ m - m @ inverse @ m / 2 for m in means] for r in rows])


def t1(data: Tensors, scores: Array) -> float:
    """Of scores (n, N) of the unseen rows."""
    found = scores[:, N_SEEN:].argmax(axis=1) + N_SEEN
    right = found == data.eval_unseen_y.numpy()
    return float(np.mean([right[data.eval_unseen_y.numpy() == c].mean() for c in range(N_SEEN, N_CLASSES)]))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"hidden_dim": 0, "remse_weight": 5.0, "remse_p": 1.0, "remse_p2": 0.75, "regressor_lr": 0.02},
        {"cosine_scale": 3.0, "remse_p": 0.0, "remse_p2": 0.0},
        {"remse_weight": 0.0},
        {"batch_size": 1000},
        {"members": 3, "remse_p": 1.0},
        {"members": 4, "batch_size": 30},
        {"members": 2, "hidden_dim": 16, "hidden_dropout": 0.2, "input_dropout": 0.2},
        {"hidden_dim": 16, "hidden_dropout": 0.3},
        {"input_dropout": 0.3, "hidden_dim": 0},
    ],
    ids=str,
)
def test_is_adam_on_cosine_cross_entropy_and_remse(tiny: Tensors, values: dict[str, Any]) -> None:
    trainer = rezsl(tiny, **values)
    slow = SlowRezsl(trainer)
    for update in range(1, 5):
        classification, remse = slow.step()
        trainer.advance(update)
        found = trainer.evaluate().losses
        assert found == pytest.approx({"classification": classification, "remse": remse}, rel=1e-3)
    scores = slow.cosine_scores(tiny.eval_unseen_x.double().numpy())
    assert pytest.approx(t1(tiny, scores)) == trainer.evaluate().heads["cosine"].T1


def test_first_loss_to_full_precision(tiny: Tensors) -> None:
    trainer = rezsl(tiny, remse_p=1.0, remse_p2=0.5, members=2, hidden_dim=16, hidden_dropout=0.2)
    classification, remse = SlowRezsl(trainer).step()
    trainer.advance(1)
    assert trainer.evaluate().losses == pytest.approx({"classification": classification, "remse": remse}, rel=1e-5)


def test_learns_nothing_of_unseen_classes_semantics(tiny: Tensors) -> None:
    """Other semantics of unseen classes leave every update as it was."""
    rng = torch.Generator().manual_seed(0)
    other = replace(tiny, semantics=torch.cat([tiny.semantics[:N_SEEN], torch.randn(3, 5, generator=rng)]))
    one, two = rezsl(tiny), rezsl(other)
    one.advance(4)
    two.advance(4)
    first, second = one.state_dict(), two.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_first_of_several_members_begins_as_the_only_one(tiny: Tensors) -> None:
    alone, together = rezsl(tiny), rezsl(tiny, members=3)
    pairs = list(zip(alone.regressor.parameters(), together.regressor.parameters(), strict=True))
    assert len(pairs) == 4
    assert all(torch.equal(one[0], several[0]) for one, several in pairs)
    weight = pairs[0][1]
    assert not torch.equal(weight[0], weight[1])


def test_nothing_is_dropped_where_the_networks_are_read(tiny: Tensors) -> None:
    trainer = rezsl(tiny, members=2, hidden_dropout=0.5, input_dropout=0.5, heads=ALL_HEADS)
    trainer.advance(3)
    assert trainer.evaluate().heads == trainer.evaluate().heads


def slow_scores(head: str, trainer: Rezsl, rows: Tensor) -> Array:
    data, config, slow = trainer.tensors, trainer.config, SlowRezsl(trainer)
    x, train = rows.double().numpy(), data.train_x.double().numpy()

    def discriminant(x: Array) -> Array:
        return slow_gaussian(data, slow.directions(train), slow.directions(x), config, config.shrinkage)

    parts: list[Callable[[Array], Array]] = [
        slow.cosine_scores,
        discriminant,
        lambda x: slow_gaussian(data, train, x, config, config.feature_shrinkage),
    ]
    if head != "combined":
        return parts[ALL_HEADS.index(head)](x)
    total = np.zeros((len(x), N_CLASSES))
    for part in parts:
        on_training = part(train)
        margin = on_training[:, :N_SEEN].max(axis=1) - on_training[:, N_SEEN:].max(axis=1)
        total += part(x) / margin.std(ddof=1) / 3
    return total


@pytest.mark.parametrize("head", ALL_HEADS)
@pytest.mark.parametrize(
    "values",
    [{}, {"members": 2, "kernel_gamma": 0.6, "ridge": 0.5, "shrinkage": 0.4, "feature_shrinkage": 0.7}],
    ids=str,
)
def test_a_head_is_what_its_formula_says(tiny: Tensors, head: str, values: dict[str, Any]) -> None:
    trainer = rezsl(tiny, heads=[head], updates=30, **values)
    trainer.advance(30)
    seen, unseen = (slow_scores(head, trainer, rows) for rows in (tiny.eval_seen_x, tiny.eval_unseen_x))
    margins = np.sort(seen[:, :N_SEEN].max(axis=1) - seen[:, N_SEEN:].max(axis=1))
    # about half of the rows of seen classes lie beyond it, none at it
    delta = float((margins[10] + margins[11]) / 2)
    found = trainer.evaluate(seen_offset=delta).heads[head]
    offset = np.r_[np.full(N_SEEN, delta), np.zeros(N_CLASSES - N_SEEN)]

    def accuracy(scores: Array, y: Tensor) -> float:
        right = (scores - offset).argmax(axis=1) == y.numpy()
        return float(np.mean([right[y.numpy() == c].mean() for c in sorted(set(y.tolist()))]))

    assert pytest.approx(t1(tiny, unseen)) == found.T1
    assert pytest.approx(accuracy(unseen, tiny.eval_unseen_y)) == found.U
    assert pytest.approx(accuracy(seen, tiny.eval_seen_y)) == found.S
    assert 0 < found.S < 1


def test_heads_are_read_in_one_training(tiny: Tensors) -> None:
    together = rezsl(tiny, heads=ALL_HEADS, members=2)
    together.advance(5)
    evaluation = together.evaluate()
    assert list(evaluation.heads) == list(ALL_HEADS)
    for head in ALL_HEADS:
        alone = rezsl(tiny, heads=[head], members=2)
        alone.advance(5)
        assert alone.evaluate().heads == {head: evaluation.heads[head]}
        assert together.evaluate([head]).heads == {head: evaluation.heads[head]}


def test_a_head_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="names one head twice: cosine, cosine"):
        RezslConfig(heads=("cosine", "cosine"))


@pytest.mark.parametrize(
    "values",
    [
        {"batch_size": 18},
        {"hidden_dim": 0},
        {"hidden_dim": 9},
        {"regressor_lr": 0.01},
        {"cosine_scale": 10.0},
        {"remse_weight": 0.5},
        {"remse_p": 0.9},
        {"remse_p2": 0.9},
        {"members": 2},
        {"hidden_dropout": 0.1},
        {"input_dropout": 0.1},
        {"heads": ("cosine", "combined")},
        {"kernel_gamma": 0.4},
        {"ridge": 2.0},
        {"shrinkage": 0.2},
        {"feature_shrinkage": 0.9},
    ],
    ids=str,
)
def test_every_setting_has_an_effect(tiny: Tensors, values: dict[str, Any]) -> None:
    common = {"heads": ALL_HEADS}
    (base,) = rezsl(tiny, **common).evaluations()
    (changed,) = rezsl(tiny, **(common | values)).evaluations()
    assert base != changed
