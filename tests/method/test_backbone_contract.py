"""What every backbone must keep to, whatever it computes; one small class names a backbone and its settings.

A further generative backbone needs a subclass of `GenerativeContract` with ``name``, ``small`` and ``learns``.
"""

import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from importlib.metadata import entry_points
from typing import Any, ClassVar, get_args

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from d3tune.config import Head, TrialConfig, validated
from d3tune.data.tensors import Tensors
from d3tune.method.generators import ENTRY_POINTS, BackboneEntry, backbone_names, load_backbone
from d3tune.method.generators.base import Backbone, Batch
from d3tune.method.metrics import accuracies, auroc, fpr_at_95
from d3tune.method.readings import Readings
from d3tune.method.trainer import DivergedError, Evaluation, Trainer
from d3tune.method.training import Training, start_training
from d3tune.space import load_space

Make = Callable[..., Any]
SHARED: dict[str, Any] = {
    "updates": 6,
    "evaluations": 2,
    "batch_size": 24,
    "hidden_dim": 24,
    "embed_dim": 12,
    "generator_lr": 2e-3,
    "student_lr": 3e-3,
    "teacher_lr": 3e-3,
    "teacher_epochs": 1,
    "n_synthetic_step": 2,
    "n_synthetic_final": 5,
    "head_epochs": 1,
    "cls_weight": 0.1,
    "embedding_weight": 0.05,
    "label_weight": 0.2,
    "ood_weight": 0.02,
    "generator_d3_weight": 0.1,
}
LEARNS: dict[str, Any] = {
    "updates": 150,
    "evaluations": 1,
    "hidden_dim": 128,
    "embed_dim": 64,
    "student_lr": 3e-3,
    "teacher_lr": 3e-3,
    "teacher_epochs": 5,
    "cls_weight": 0.1,
    "embedding_weight": 0.0,
    "label_weight": 0.1,
    "ood_weight": 0.0,
    "generator_d3_weight": 0.01,
    "n_synthetic_final": 40,
    "head_lr": 5e-3,
    "head_epochs": 5,
}
OFF = dict.fromkeys(("cls_weight", "embedding_weight", "label_weight", "ood_weight"), 0.0)
HEADS = get_args(Head)
# guessing among the 150 classes of hanzi
CHANCE = 1 / 150


@pytest.fixture(scope="module")
def hanzi_standard(hanzi: Tensors) -> Tensors:
    """Hanzi with features of mean 0 and sd 1 on the training rows."""
    mean, sd = hanzi.train_x.mean(dim=0), hanzi.train_x.std(dim=0, unbiased=False).clamp(min=1e-3)
    parts = ("train_x", "eval_seen_x", "eval_unseen_x")
    return replace(hanzi, **{part: (getattr(hanzi, part) - mean) / sd for part in parts})


def state_of(training: Trainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in training.state_dict().items()}


def different(one: Trainer, other: Trainer) -> list[str]:
    """Names of the parts of two states that are not equal bit for bit."""
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


def through_bytes(training: Trainer) -> dict[str, Tensor]:
    return safetensors.torch.load(safetensors.torch.save(training.state_dict()))


def numbers_of(evaluation: Evaluation) -> list[float]:
    numbers = [*evaluation.losses.values(), *evaluation.diagnostics.values()]
    return numbers + [value for found in evaluation.heads.values() for value in vars(found).values()]


class AnyContract:
    """What holds of generative and other backbones alike."""

    name: ClassVar[str]
    small: ClassVar[dict[str, Any]]
    learns: ClassVar[dict[str, Any]]
    learns_on: ClassVar[str] = "hanzi"
    least_h: ClassVar[float] = 0.2
    updates: ClassVar[Sequence[int]] = (3, 6)
    seeded: ClassVar[bool] = True

    @pytest.fixture
    def entry(self) -> BackboneEntry:
        return load_backbone(self.name)

    @pytest.fixture
    def make(self, entry: BackboneEntry, hanzi_slice: Tensors) -> Make:
        """``make(seed=…, name=value…)``: a small training."""

        def build(seed: int = 0, **values: Any) -> Trainer:
            return start_training(entry, hanzi_slice, entry.config(**(self.small | values)), seed)

        return build

    # configuration and search space

    def test_is_listed(self) -> None:
        assert self.name in backbone_names()

    def test_default_configuration_is_valid_and_survives_its_dump(self, entry: BackboneEntry) -> None:
        config = entry.config()
        assert isinstance(config, TrialConfig)
        assert validated(entry.config, config.model_dump(), "x") == config
        assert validated(entry.config, config.model_dump(mode="json"), "x") == config

    def test_every_hyper_parameter_of_its_own_says_what_it_is(self, entry: BackboneEntry) -> None:
        own = set(entry.config.model_fields) - set(TrialConfig.model_fields)
        assert [name for name in own if not entry.config.model_fields[name].description] == []

    def test_shipped_space_loads_and_its_warm_starts_are_valid(self, entry: BackboneEntry, hanzi: Tensors) -> None:
        for dataset, width in (("hanzi/0", hanzi.n_features), ("cub", 2048), ("awa2", 2048), ("unheard-of", 2048)):
            space = load_space(self.name, entry.config, dataset, width)
            assert space.parameters
            assert space.warm_start or dataset != "hanzi/0"
            for point in space.warm_start:
                entry.config(**{**space.fixed, **point.values})

    # determinism

    def test_same_seed_gives_the_same_results_bit_for_bit(self, make: Make) -> None:
        one, other = make(), make()
        first = list(one.evaluations())
        assert first == list(other.evaluations())
        assert [evaluation.update for evaluation in first] == list(self.updates)
        assert all(np.isfinite(numbers_of(evaluation)).all() for evaluation in first)
        assert different(one, other) == []

    def test_another_seed_gives_other_results(self, make: Make) -> None:
        one, other = list(make(0).evaluations()), list(make(1).evaluations())
        assert (one != other) == self.seeded

    def test_global_random_states_are_neither_read_nor_moved(self, make: Make) -> None:
        torch.manual_seed(1)
        first = list(make().evaluations())
        torch.manual_seed(2)
        states = torch.get_rng_state(), str(np.random.get_state()), random.getstate()  # noqa: NPY002
        assert list(make().evaluations()) == first
        assert torch.equal(states[0], torch.get_rng_state())
        assert states[1:] == (str(np.random.get_state()), random.getstate())  # noqa: NPY002

    def test_data_are_not_changed(self, make: Make, hanzi_slice: Tensors) -> None:
        before = {name: value.clone() for name, value in vars(hanzi_slice).items() if isinstance(value, Tensor)}
        list(make().evaluations())
        assert all(torch.equal(value, getattr(hanzi_slice, name)) for name, value in before.items())

    # evaluation

    def test_evaluation_does_not_disturb_training_and_repeats_itself(self, make: Make) -> None:
        one, other = make(), make()
        middle, end = self.updates[0], self.updates[-1]
        one.advance(middle)
        first, second = one.evaluate(), one.evaluate()
        assert (first.heads, first.diagnostics) == (second.heads, second.diagnostics)
        assert second.losses == {}
        other.advance(middle)
        assert different(one, other) == []
        one.advance(end)
        other.advance(end)
        assert different(one, other) == []
        found, expected = one.evaluate(), other.evaluate()
        assert (found.heads, found.diagnostics) == (expected.heads, expected.diagnostics)

    def test_a_carried_offset_is_used_as_it_is(self, make: Make) -> None:
        training = make()
        training.advance(self.updates[0])
        free, carried = training.evaluate(), training.evaluate(seen_offset=0.3)
        for head, found in carried.heads.items():
            assert found.seen_offset == 0.3
            assert found.H <= free.heads[head].H
            assert found.H_raw == free.heads[head].H_raw <= free.heads[head].H
            assert found.AUSUC == free.heads[head].AUSUC

    def test_readings_are_what_the_figures_are_of_and_change_none(self, make: Make) -> None:
        training = make()
        training.advance(self.updates[0])
        unread = training.evaluate(seen_offset=0.3)
        training.readings = readings = Readings()
        found = training.evaluate(seen_offset=0.3)
        assert (found.heads, found.diagnostics) == (unread.heads, unread.diagnostics)
        assert {head: accuracies(scores, 0.3) for head, scores in readings.scores.items()} == found.heads
        assert (readings.ood is None) == ("AUROC" not in found.diagnostics)
        if readings.ood is not None:
            assert auroc(readings.ood.seen, readings.ood.unseen) == found.diagnostics["AUROC"]
            assert fpr_at_95(readings.ood.seen, readings.ood.unseen) == found.diagnostics["FPR95"]

    # cut and resumption

    def test_an_offset_in_margin_units_decides_the_same_and_carries_its_unit(self, make: Make) -> None:
        plain, scaled = make(), make(offset_unit="margin_sd")
        plain.advance(self.updates[0])
        scaled.advance(self.updates[0])
        ours, theirs = plain.evaluate(), scaled.evaluate()
        for head, found in ours.heads.items():
            other = theirs.heads[head]
            for name in ("H", "U", "S", "T1", "AUSUC", "H_raw"):
                assert getattr(other, name) == pytest.approx(getattr(found, name), abs=0.02)
            carried = scaled.evaluate([head], seen_offset=other.seen_offset).heads[head]
            assert (carried.U, carried.S) == (other.U, other.S)

    def test_state_through_bytes_goes_on_bit_for_bit(self, make: Make) -> None:
        whole, cut = make(), make()
        reports = list(whole.evaluations())
        cut.advance(self.updates[0])
        saved = through_bytes(cut)
        resumed = make()
        resumed.load_state_dict(saved)
        assert resumed.update == self.updates[0]
        assert list(resumed.evaluations()) == reports[1:]
        assert different(resumed, whole) == []

    def test_state_replaces_all_that_was_there(self, make: Make) -> None:
        """From another seed, and from further on: the state alone says how training goes on."""
        straight, other = make(0), make(1)
        straight.advance(self.updates[0])
        saved = through_bytes(straight)
        other.advance(self.updates[-1])
        other.load_state_dict(saved)
        assert different(straight, other) == []
        straight.advance(self.updates[-1])
        other.advance(self.updates[-1])
        assert different(straight, other) == []

    def test_state_is_a_copy_of_flat_tensors(self, make: Make) -> None:
        training = make()
        training.advance(self.updates[0])
        saved = deepcopy(training.state_dict())
        kept = {name: value.clone() for name, value in saved.items()}
        assert all(isinstance(value, Tensor) and not value.requires_grad for value in saved.values())
        training.advance(self.updates[-1] + 1)
        assert [name for name in saved if not torch.equal(saved[name], kept[name])] == []

    # learning

    def test_learns_hanzi(self, request: pytest.FixtureRequest, entry: BackboneEntry) -> None:
        data: Tensors = request.getfixturevalue(self.learns_on)
        (evaluation,) = start_training(entry, data, entry.config(**self.learns), 0).evaluations()
        best = evaluation.heads[evaluation.best_head]
        assert self.least_h < best.H
        assert best.T1 > 20 * CHANCE
        assert all(found.H > 10 * CHANCE for found in evaluation.heads.values())
        assert all(found.H_raw <= found.H for found in evaluation.heads.values())


class GenerativeContract(AnyContract):
    """What holds of every backbone that generates features and is trained by `Training`."""

    @pytest.fixture
    def model(self, make: Make) -> Backbone[Any]:
        training: Training = make()
        training.advance(2)
        return training.backbone

    def draws(self, model: Backbone[Any], data: Tensors, n: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Noise and semantics of ``n`` rows of every unseen class."""
        semantics = data.semantics[data.n_seen :].repeat_interleave(n, dim=0)
        return model.draw_noise(len(semantics), torch.Generator().manual_seed(seed)), semantics

    # samples

    @pytest.mark.parametrize("n", [1, 7])
    @pytest.mark.parametrize("how", ["sample", "sample_final"])
    def test_samples_have_the_features_shape(
        self, model: Backbone[Any], hanzi_slice: Tensors, how: str, n: int
    ) -> None:
        noise, semantics = self.draws(model, hanzi_slice, n)
        x = getattr(model, how)(noise, semantics)
        assert x.shape == (n * hanzi_slice.n_unseen, hanzi_slice.n_features)
        assert x.dtype == torch.float32
        assert torch.isfinite(x).all()

    @pytest.mark.parametrize("how", ["sample", "sample_final"])
    def test_samples_are_functions_of_noise_and_semantics_row_by_row(
        self, model: Backbone[Any], hanzi_slice: Tensors, how: str
    ) -> None:
        noise, semantics = self.draws(model, hanzi_slice)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with torch.no_grad():
            together = getattr(model, how)(noise, semantics)
            assert torch.equal(together, getattr(model, how)(noise, semantics))
            alone = [getattr(model, how)(noise[i : i + 1], semantics[i : i + 1]) for i in range(len(noise))]
            exchanged = getattr(model, how)(noise, semantics.flip(0))
            other = getattr(model, how)(self.draws(model, hanzi_slice, seed=1)[0], semantics)
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)
        assert not torch.equal(together, exchanged)
        assert not torch.equal(together, other)
        assert [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])] == []

    def test_noise_is_standard_normal_of_the_models_width(self, model: Backbone[Any]) -> None:
        noise = model.draw_noise(2000, torch.Generator().manual_seed(3))
        assert noise.shape == (2000, model.noise_dim)
        assert noise.mean().item() == pytest.approx(0, abs=0.05)
        assert noise.std().item() == pytest.approx(1, abs=0.05)
        assert torch.equal(noise, model.draw_noise(2000, torch.Generator().manual_seed(3)))

    # gradients

    def test_sample_carries_gradients_to_generator_noise_and_semantics(
        self, model: Backbone[Any], hanzi_slice: Tensors
    ) -> None:
        model.zero_grad()
        model.teacher.zero_grad()
        noise, semantics = (value.requires_grad_() for value in self.draws(model, hanzi_slice))
        model.sample(noise, semantics).square().sum().backward()  # type: ignore[no-untyped-call]
        parameters = model.generator_parameters()
        reached = [p for p in parameters if p.grad is not None and p.grad.abs().max() > 0]
        assert reached
        for value in (noise, semantics):
            assert value.grad is not None
            assert value.grad.abs().amax(dim=1).min() > 0
        assert all(parameter.grad is None for parameter in model.teacher.parameters())

    def test_what_an_update_moves_is_what_the_state_holds(self, make: Make) -> None:
        training: Training = make()
        parameters = training.backbone.generator_parameters()
        assert len({id(parameter) for parameter in parameters}) == len(parameters)
        assert all(parameter.requires_grad for parameter in parameters)
        own = {id(parameter) for parameter in training.backbone.parameters()}
        assert {id(parameter) for parameter in parameters} <= own
        before = state_of(training)
        teacher = {name for name in before if name.startswith("teacher/")}
        training.advance(3)
        after = training.state_dict()
        assert [name for name in teacher if not torch.equal(before[name], after[name])] == []
        weights = [name for name, _ in training.backbone.named_parameters()]
        moved = [name for name in weights if not torch.equal(before[f"backbone/{name}"], after[f"backbone/{name}"])]
        assert len(moved) >= len(parameters) // 2

    @pytest.mark.parametrize("weight", ["cls_weight", "ood_weight"])
    def test_d3_gradients_reach_the_generator(self, make: Make, weight: str) -> None:
        one, other = (make(**(OFF | {weight: 5.0, "generator_d3_weight": scale})) for scale in (0.0, 1.0))
        one.advance(2)
        other.advance(2)
        assert [name for name in different(one, other) if name.startswith("backbone/")]

    def test_cut_d3_gradients_leave_the_generator_to_its_own_loss(self, make: Make) -> None:
        light, heavy = make(generator_d3_weight=0.0), make(generator_d3_weight=0.0, cls_weight=9.0, ood_weight=2.0)
        light.advance(4)
        heavy.advance(4)
        found = different(light, heavy)
        assert [name for name in found if name.startswith("backbone/")] == []
        assert [name for name in found if name.startswith("student/")]

    def test_loss_is_a_scalar_with_detached_parts_and_follows_its_generator(
        self, make: Make, hanzi_slice: Tensors
    ) -> None:
        one, other = (make().backbone for _ in range(2))
        x, y = hanzi_slice.train_x[:9], hanzi_slice.train_y[:9]
        a = hanzi_slice.semantics[y]
        residual = None if one.anchor is None else x - one.anchor(a)
        batch = Batch(x, y, a, *one.teacher(x), residual)
        (total, parts), (again, _) = (model.loss(batch, torch.Generator().manual_seed(5)) for model in (one, other))
        assert total.shape == ()
        assert total.requires_grad
        assert torch.equal(total, again)
        assert parts
        for part in parts.values():
            assert part.shape == ()
            assert not part.requires_grad
        total.backward()
        assert all(parameter.grad is None for parameter in one.teacher.parameters())
        assert any(parameter.grad is not None for parameter in one.generator_parameters())

    # cut

    def test_a_cut_run_is_a_run_of_that_length(self, make: Make) -> None:
        long, short = make(updates=40, evaluations=2), make(updates=5, evaluations=1)
        long.advance(5)
        (last,) = short.evaluations()
        assert different(long, short) == []
        assert long.evaluate() == last

    def test_number_of_evaluations_changes_nothing(self, make: Make) -> None:
        often, once = make(evaluations=6), make(evaluations=1)
        *_, last = often.evaluations()
        (only,) = once.evaluations()
        assert (last.heads, last.diagnostics) == (only.heads, only.diagnostics)
        assert different(often, once) == []

    def test_synthetic_rows_depend_on_seed_purpose_and_update_alone(self, make: Make, hanzi_slice: Tensors) -> None:
        training: Training = make()
        training.advance(1)
        rows = training.synthesise(3, "export")
        assert rows.y.tolist() == [c for c in range(10, 14) for _ in range(3)]
        assert rows.x.shape == (12, hanzi_slice.n_features)
        assert not rows.x.requires_grad
        assert torch.equal(rows.x, training.synthesise(3, "export").x)
        assert not torch.equal(rows.x, training.synthesise(3, "evaluation").x)

    # numbers that are not finite

    def test_a_poisoned_parameter_is_noticed_with_its_place_and_update(self, make: Make) -> None:
        training: Training = make()
        training.advance(2)
        training.evaluate()
        with torch.no_grad():
            max(training.backbone.generator_parameters(), key=torch.numel).fill_(float("nan"))
        training.advance(5)
        with pytest.raises(DivergedError) as caught:
            training.evaluate()
        assert caught.value.update == 3
        assert caught.value.where.startswith("loss ")
        assert str(caught.value) == f"{caught.value.where} is not finite at update 3"

    def test_poisoned_samples_are_noticed_without_a_further_update(self, make: Make) -> None:
        training: Training = make()
        training.advance(2)
        training.evaluate()
        with torch.no_grad():
            for parameter in training.backbone.parameters():
                parameter.fill_(float("nan"))
        for heads in (["softmax"], ["student"]):
            with pytest.raises(DivergedError) as caught:
                training.evaluate(heads)
            assert caught.value.update == 2

    # heads

    def test_every_head_alone(self, make: Make) -> None:
        values = {"prototype_hidden": 16, "updates": 2, "evaluations": 1}
        (among,) = make(heads=HEADS, **values).evaluations()
        assert tuple(among.heads) == HEADS
        for head in HEADS:
            (alone,) = make(heads=(head,), **values).evaluations()
            assert alone.heads == {head: among.heads[head]}
            assert alone.diagnostics == among.diagnostics


class NoiseDimContract(GenerativeContract):
    """Also of those whose noise has a width of its own; the others draw it in feature space."""

    @pytest.mark.parametrize("noise_dim", [3, None])
    def test_noise_dim_is_honoured(self, make: Make, hanzi_slice: Tensors, noise_dim: int | None) -> None:
        training: Training = make(noise_dim=noise_dim)
        assert training.backbone.noise_dim == (noise_dim or hanzi_slice.semantics.shape[1])
        training.advance(1)
        training.evaluate(["softmax"])


class TestGan(NoiseDimContract):
    name = "gan"
    small = SHARED | {"noise_dim": 6, "critic_steps": 2}
    learns = LEARNS | {"generator_lr": 2e-3, "noise_dim": 16, "critic_steps": 2, "gcls_weight": 0.1}


class TestGanAroundAnchors(NoiseDimContract):
    """The generator models the residual around class means by ridge regression."""

    name = "gan"
    small = TestGan.small | {"anchor": "ridge", "fidelity": "official"}
    learns = TestGan.learns | {"anchor": "ridge"}


class TestCegan(NoiseDimContract):
    name = "cegan"
    small = TestGan.small | {"contrast_dim": 20, "projection_dim": 10, "relation_dim": 16}
    learns = TestGan.learns | {"contrast_dim": 128, "projection_dim": 32, "relation_dim": 64}


class TestVaegan(NoiseDimContract):
    name = "vaegan"
    small = TestGan.small | {"decoder_dim": 20}
    learns = TestGan.learns | {"decoder_dim": 64}


class TestVae(NoiseDimContract):
    name = "vae"
    small = SHARED | {"noise_dim": 6, "vae_warmup": 4}
    learns = LEARNS | {"generator_lr": 3e-3, "noise_dim": 16, "vae_beta": 0.3, "vae_warmup": 50, "updates": 250}


class TestVaeWithOutputNoise(GenerativeContract):
    """The residual variance is a part of what training goes on from and of what samples read."""

    name = "vae"
    small = TestVae.small | {"output_noise": 0.5}
    learns = TestVae.learns | {"output_noise": 0.3}


class TestVaeWithCrossEntropy(NoiseDimContract):
    """Its loss is not defined for numbers outside [0, 1], NaN among them."""

    name = "vae"
    small = TestVae.small | {"reconstruction": "bce", "output_activation": "sigmoid"}
    learns = TestVae.learns | {"reconstruction": "bce", "output_activation": "sigmoid", "vae_beta": 0.1}


class TestDiffusion(GenerativeContract):
    name = "diffusion"
    small = SHARED | {"diffusion_steps": 3}
    learns = LEARNS | {
        "feature_scaling": "standard",
        "generator_lr": 3e-3,
        "hidden_dim": 128,
        "diffusion_steps": 4,
        "updates": 250,
    }
    learns_on = "hanzi_standard"


class TestDiffusionWithGuidance(GenerativeContract):
    """Every random draw that diffusion can make, and weights by signal-to-noise."""

    name = "diffusion"
    small = TestDiffusion.small | {"guidance": 0.3, "semantics_noise": 0.2, "min_snr": True}
    learns = TestDiffusion.learns | {"guidance": 0.3, "semantics_noise": 0.1}
    learns_on = "hanzi_standard"


class TestRezsl(AnyContract):
    name = "rezsl"
    small: ClassVar[dict[str, Any]] = {"updates": 6, "evaluations": 2, "batch_size": 24, "hidden_dim": 24}
    learns: ClassVar[dict[str, Any]] = {"updates": 100, "evaluations": 1, "hidden_dim": 256}
    learns_on = "hanzi_standard"

    def test_a_cut_run_is_a_run_of_that_length(self, make: Make) -> None:
        long, short = make(updates=40, evaluations=2), make(updates=5, evaluations=1)
        long.advance(5)
        (last,) = short.evaluations()
        assert different(long, short) == []
        assert long.evaluate() == last

    @pytest.mark.parametrize("hidden_dim", [0, 24])
    def test_a_poisoned_parameter_is_noticed_with_its_place_and_update(self, make: Make, hidden_dim: int) -> None:
        training = make(hidden_dim=hidden_dim)
        training.advance(2)
        training.evaluate()
        spoilt = {name: value.clone() for name, value in training.state_dict().items()}
        (first, *_) = [name for name in spoilt if name.startswith("regressor/") and name.endswith("weight")]
        spoilt[first].fill_(float("nan"))
        training.load_state_dict(spoilt)
        with pytest.raises(DivergedError) as caught:
            training.evaluate()
        assert (caught.value.where, caught.value.update) == ("a score of head cosine", 2)
        training.advance(4)
        with pytest.raises(DivergedError) as caught:
            training.evaluate()
        assert caught.value.where.startswith("loss ")
        assert caught.value.update == 3


class TestRezslWithMembers(AnyContract):
    """Every random draw that rezsl can make, and every head."""

    name = "rezsl"
    small: ClassVar[dict[str, Any]] = TestRezsl.small | {
        "members": 3,
        "hidden_dropout": 0.3,
        "input_dropout": 0.2,
        "heads": ["cosine", "discriminant", "combined"],
    }
    learns: ClassVar[dict[str, Any]] = TestRezsl.learns | {"members": 2, "heads": ["combined"]}
    learns_on = "hanzi_standard"


class TestGaussian(AnyContract):
    name = "gaussian"
    small: ClassVar[dict[str, Any]] = {}
    learns: ClassVar[dict[str, Any]] = {}
    updates = (1,)
    seeded = False

    def test_has_one_update(self, entry: BackboneEntry) -> None:
        assert entry.config().evaluation_updates == (1,)
        with pytest.raises(ValueError, match="updates"):
            entry.config(updates=2)


CLASSES = [item for item in list(globals().values()) if isinstance(item, type) and issubclass(item, AnyContract)]


def test_the_contract_covers_every_shipped_backbone() -> None:
    """A backbone that can be named, and has no class here, is not held to anything."""
    tested = {item.name for item in CLASSES if "name" in vars(item)}
    outside = {point.name for point in entry_points(group=ENTRY_POINTS)}
    assert set(backbone_names()) - outside == tested
