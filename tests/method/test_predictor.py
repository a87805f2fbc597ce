"""Every head of every backbone, taken apart to plain values and tensors and made again, scores as evaluation did."""

import json
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from d3tune.config import Head
from d3tune.data.scaling import Scaler
from d3tune.data.tensors import Tensors
from d3tune.method import gaussian, regression, training
from d3tune.method.closed_form import RidgeAnchor
from d3tune.method.generators import load_backbone
from d3tune.method.generators.base import Sizes
from d3tune.method.metrics import Scores, accuracies
from d3tune.method.parts import Chain, NotExtendableError, Part, Same
from d3tune.method.predictor import NotSavableError, Predictor, from_plain, to_plain
from d3tune.method.sampler import load_sampler, sampler_state
from d3tune.method.trainer import Evaluation, Trainer
from d3tune.method.training import Training, start_training

SHARED: dict[str, Any] = {
    "updates": 3,
    "evaluations": 1,
    "batch_size": 24,
    "hidden_dim": 24,
    "embed_dim": 12,
    "teacher_epochs": 1,
    "n_synthetic_final": 5,
    "head_epochs": 1,
    "prototype_hidden": 16,
    "heads": get_args(Head),
}
SMALL: dict[str, dict[str, Any]] = {
    "gan": SHARED | {"critic_steps": 1},
    "vae": SHARED | {"output_noise": 0.2},
    "diffusion": SHARED | {"diffusion_steps": 3, "guidance": 0.5},
    "cegan": SHARED | {"critic_steps": 1, "contrast_dim": 16, "projection_dim": 8, "relation_dim": 16},
    "vaegan": SHARED | {"critic_steps": 1, "decoder_dim": 16},
    "rezsl": {
        **{key: SHARED[key] for key in ("updates", "evaluations", "batch_size", "hidden_dim")},
        "members": 2,
        "heads": ("cosine", "discriminant", "combined"),
    },
    "gaussian": {},
}
GENERATIVE = tuple(name for name in SMALL if name not in ("rezsl", "gaussian"))
EXTENDABLE = {"prototype", "cosine", "discriminant", "combined"}
OFFSET = 0.25
PARTS = ("train_x", "eval_seen_x", "eval_unseen_x")


def trained(name: str, data: Tensors, **hyper: Any) -> Trainer:
    entry = load_backbone(name)
    made = start_training(entry, data, entry.config(**{**SMALL[name], **hyper}), 3)
    made.advance(made.config.updates)
    return made


def through_bytes(part: Any) -> Part:
    """A part as a file would hold it."""
    spec, tensors = to_plain(part)
    held = safetensors.torch.load(safetensors.torch.save({name: tensor.clone() for name, tensor in tensors.items()}))
    return from_plain(json.loads(json.dumps(spec)), {name: tensor.clone() for name, tensor in held.items()})


def predictor(score: Part, data: Tensors, offset: float = 0.0) -> Predictor:
    n_semantics = data.semantics.shape[1]
    scaling = torch.from_numpy(data.scaler.shift), torch.from_numpy(data.scaler.divisor)
    return Predictor(score, *scaling, data.n_seen, offset, torch.zeros(n_semantics, dtype=torch.float64), 1.0)


@pytest.fixture
def raw(hanzi_slice: Tensors) -> tuple[Tensors, dict[str, Tensor]]:
    """Hanzi's slice with a scaler, of which one feature is constant, and its features before that."""
    rng = np.random.default_rng(0)
    shift = rng.normal(size=hanzi_slice.n_features).astype(np.float32)
    divisor = rng.uniform(0.5, 2, size=hanzi_slice.n_features).astype(np.float32)

    scaler = Scaler(shift, np.where(np.arange(len(divisor)) == 0, np.float32(np.inf), divisor))
    measured = {part: getattr(hanzi_slice, part).numpy() * divisor + shift for part in PARTS}
    scaled = {part: torch.from_numpy(scaler.apply(rows.copy())) for part, rows in measured.items()}
    features = {part: torch.from_numpy(rows) for part, rows in measured.items()}
    return replace(hanzi_slice, scaler=scaler, **scaled), features  # type: ignore[arg-type]


@pytest.mark.parametrize("unit", ["score", "margin_sd"])
@pytest.mark.parametrize("name", SMALL)
def test_every_head_scores_raw_features_as_evaluation_scored_scaled_ones_bit_for_bit(
    name: str, unit: str, raw: tuple[Tensors, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, measured = raw
    seen: list[Scores] = []

    def watched(scores: Scores, offset: float | None = None) -> Any:
        seen.append(scores)
        return accuracies(scores, offset)

    for module in (training, regression, gaussian):
        monkeypatch.setattr(module, "accuracies", watched)
    made = trained(name, data, offset_unit=unit)
    evaluation = made.evaluate(seen_offset=OFFSET)
    assert list(evaluation.heads) == list(made.config.offered_heads) == list(evaluation.fitted)
    assert len(seen) == len(evaluation.heads)
    for (head, found), scores in zip(evaluation.heads.items(), seen, strict=True):
        plain = predictor(through_bytes(evaluation.fitted[head]), data)
        rows = [plain.scores(measured[part]) for part in ("eval_seen_x", "eval_unseen_x")]
        assert torch.equal(rows[0], scores.seen.double()), head
        assert torch.equal(rows[1], scores.unseen.double()), head
        calibrated = replace(plain, seen_offset=OFFSET)
        rows = [calibrated.scores(measured[part]) for part in ("eval_seen_x", "eval_unseen_x")]
        labels = [part.argmax(dim=1) for part in rows]
        s, u = (mean_by_class(*pair) for pair in zip(labels, (data.eval_seen_y, data.eval_unseen_y), strict=True))
        assert (s, u) == (pytest.approx(found.S, abs=1e-12), pytest.approx(found.U, abs=1e-12)), head


def mean_by_class(found: Tensor, y: Tensor) -> float:
    shares = []
    for c in sorted(set(y.tolist())):
        rows = [int(f == c) for f, k in zip(found.tolist(), y.tolist(), strict=True) if k == c]
        shares.append(sum(rows) / len(rows))
    return float(np.mean(shares))


@pytest.mark.parametrize("name", SMALL)
def test_a_saved_head_is_a_copy_that_later_training_does_not_change(name: str, hanzi_slice: Tensors) -> None:
    made = trained(name, hanzi_slice)
    evaluation = made.evaluate()
    saved = {head: through_bytes(part) for head, part in evaluation.fitted.items()}
    before = {head: part(hanzi_slice.eval_seen_x) for head, part in saved.items()}
    made.advance(made.update + 2)
    assert all(torch.equal(part(hanzi_slice.eval_seen_x), before[head]) for head, part in saved.items())


def test_rows_in_blocks_and_one_by_one_are_the_same_classes(
    hanzi_slice: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = predictor(trained("gan", hanzi_slice).evaluate(["softmax"]).fitted["softmax"], hanzi_slice, OFFSET)
    whole = found.scores(hanzi_slice.eval_seen_x)
    monkeypatch.setattr("d3tune.method.predictor.BLOCK", 7)
    torch.testing.assert_close(found.scores(hanzi_slice.eval_seen_x), whole, rtol=1e-5, atol=1e-6)


# what cannot be saved or read


def test_a_function_is_not_saved() -> None:
    for part in (lambda x: x, Chain(Same(), lambda x: x)):
        with pytest.raises(NotSavableError):
            to_plain(part)


def test_a_backbone_with_a_space_of_plain_code_is_read_and_not_saved(
    hanzi_slice: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One from outside may say `head_features` alone."""
    backbone = load_backbone("gan").build
    monkeypatch.setattr(backbone, "head_features", lambda self, x: 2 * x)
    evaluation: Evaluation = trained("gan", hanzi_slice, heads=("backbone_embedding",)).evaluate()
    with pytest.raises(NotSavableError):
        to_plain(evaluation.fitted["backbone_embedding"])


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"kind": "function"},
        {"kind": "same", "weight": {"tensor": "w"}},
        {"kind": "layer", "weight": {"tensor": "w"}, "bias": {"tensor": "w"}},
        {"kind": "layer", "weight": {"tensor": "v"}, "bias": {"tensor": "w"}, "activation": "relu"},
        {"kind": "layer", "weight": {"tensor": "w"}, "bias": {"tensor": "w"}, "activation": "eval"},
        {"kind": "divided", "score": {"kind": []}, "unit": {"tensor": "w"}},
    ],
)
def test_what_is_no_part_is_refused(spec: dict[str, Any]) -> None:
    with pytest.raises((KeyError, ValueError, TypeError)):
        from_plain(spec, {"w": torch.ones(1)})


# further classes


@pytest.mark.parametrize("name", SMALL)
def test_which_heads_take_further_classes_by_their_semantics(name: str, hanzi_slice: Tensors) -> None:
    evaluation = trained(name, hanzi_slice).evaluate()
    for head, part in evaluation.fitted.items():
        made = predictor(through_bytes(part), hanzi_slice)
        if head in EXTENDABLE:
            more = made.extended(hanzi_slice.semantics[-2:]).scores(hanzi_slice.eval_seen_x)
            assert more.shape == (len(hanzi_slice.eval_seen_x), hanzi_slice.n_classes + 2)
            assert torch.isfinite(more).all()
            torch.testing.assert_close(more[:, :-2], made.scores(hanzi_slice.eval_seen_x))
        else:
            with pytest.raises(NotExtendableError):
                made.extended(hanzi_slice.semantics[-2:])


@pytest.mark.parametrize(("name", "head"), [("gan", "prototype"), ("gaussian", "discriminant"), ("rezsl", "cosine")])
def test_a_class_described_again_has_the_scores_that_it_has(name: str, head: str, hanzi_slice: Tensors) -> None:
    """The last class is unseen, and these heads know an unseen class by its semantics alone."""
    made = predictor(through_bytes(trained(name, hanzi_slice).evaluate().fitted[head]), hanzi_slice)
    found = made.extended(hanzi_slice.semantics[-1:]).scores(hanzi_slice.eval_unseen_x)
    torch.testing.assert_close(found[:, -1], found[:, -2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("anchor", ["none", "ridge"])
@pytest.mark.parametrize("name", GENERATIVE)
def test_a_generator_made_again_draws_the_same_class_means(name: str, anchor: str, hanzi_slice: Tensors) -> None:
    made = trained(name, hanzi_slice, anchor=anchor)
    assert isinstance(made, Training)
    assert (anchor == "ridge") == isinstance(made.backbone.anchor, RidgeAnchor)
    data = hanzi_slice
    sizes = Sizes(data.n_features, data.semantics.shape[1], data.n_seen, data.n_unseen)
    held = safetensors.torch.load(
        safetensors.torch.save({name: tensor.clone() for name, tensor in sampler_state(made.backbone).items()})
    )
    entry = load_backbone(name)
    means = [
        load_sampler(entry, made.config, sizes, tensors, 3)(data.semantics[-3:])
        for tensors in (sampler_state(made.backbone), held)
    ]
    assert torch.equal(*means)
    alone = load_sampler(entry, made.config, sizes, held, 3)(data.semantics[-1:])
    torch.testing.assert_close(alone[0], means[0][-1])
    other = load_sampler(entry, made.config, sizes, held, 4)(data.semantics[-3:])
    assert not torch.equal(other, means[0])
    # as the training's own samples, up to the noise
    synthetic = made.synthesise(200, "test")
    own = synthetic.x[synthetic.y == data.n_classes - 1]
    many = load_sampler(entry, made.config.model_copy(update={"n_synthetic_final": 200}), sizes, held, 3)
    distance = (many(data.semantics[-1:])[0] - own.mean(dim=0)).norm()
    assert distance < 0.3 * (own - own.mean(dim=0)).norm(dim=1).mean()


def test_lda_takes_further_classes_with_the_means_of_a_generator(tiny: Tensors) -> None:
    """Given the real mean of its last class once more, it scores that class as by the discriminant of that mean."""
    data = tiny
    made = predictor(through_bytes(trained("gan", data).evaluate(["lda"]).fitted["lda"]), data)
    mean = data.eval_unseen_x[data.eval_unseen_y == data.n_classes - 1].mean(dim=0)
    found = made.extended(data.semantics[-1:], lambda semantics: mean[None]).scores(data.eval_unseen_x)[:, -1]
    x, y = data.train_x.double().numpy(), data.train_y.numpy()
    centred = np.concatenate([x[y == c] - x[y == c].mean(axis=0) for c in range(data.n_seen)])
    covariance = centred.T @ centred / len(x)
    shrunk = 0.5 * covariance + 0.5 * np.diag(np.diag(covariance))
    weight = np.linalg.solve(shrunk, mean.double().numpy())
    expected = data.eval_unseen_x.double().numpy() @ weight - 0.5 * mean.double().numpy() @ weight
    # the factor adds a millionth of the mean variance to each feature
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
