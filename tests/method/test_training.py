"""The joint training on a slice of real data: same seed, same numbers; any cut, any resumption."""

import random
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from d3tune.config import Head
from d3tune.data.tensors import Tensors
from d3tune.method.generators import load_backbone
from d3tune.method.randomness import stream
from d3tune.method.trainer import Evaluation
from d3tune.method.training import Training

HEADS: tuple[Head, ...] = ("softmax", "student", "student_embedding", "teacher_embedding")
WEIGHTS = ("cls_weight", "embedding_weight", "label_weight", "ood_weight")
Make = Callable[..., Training]
Finite = Callable[[Evaluation], bool]


def assert_same_state(one: Training, other: Training) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


# --- determinism


def test_same_seed_gives_the_same_results_bit_for_bit(make_gan: Make, all_finite: Finite) -> None:
    one, other = make_gan(), make_gan()
    first, second = list(one.evaluations()), list(other.evaluations())
    assert first == second
    assert [evaluation.update for evaluation in first] == [4, 8]
    assert set(first[0].heads) == set(HEADS)
    assert all(all_finite(evaluation) for evaluation in first)
    assert_same_state(one, other)


def test_another_seed_gives_other_weights_and_results(make_gan: Make) -> None:
    one, other = make_gan(0), make_gan(1)
    first, second = one.state_dict(), other.state_dict()
    assert not torch.equal(first["rng"], second["rng"])
    for part in ("teacher/", "backbone/generator", "backbone/critic", "student/student", "student/projector"):
        names = [name for name in first if name.startswith(part) and name.endswith("weight")]
        assert names
        assert not any(torch.equal(first[name], second[name]) for name in names)
    assert list(one.evaluations()) != list(other.evaluations())


def test_global_random_states_are_neither_read_nor_moved(make_gan: Make) -> None:
    torch.manual_seed(1)
    first = list(make_gan().evaluations())
    torch.manual_seed(2)
    states = torch.get_rng_state(), str(np.random.get_state()), random.getstate()  # noqa: NPY002
    second = list(make_gan().evaluations())
    assert first == second
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (str(np.random.get_state()), random.getstate())  # noqa: NPY002


def test_streams_depend_on_seed_and_names_alone() -> None:
    def draw(*names: Any) -> Tensor:
        return torch.rand(8, generator=stream(*names))

    assert torch.equal(draw(3, "evaluation", 300), draw(3, "evaluation", 300))
    others = [draw(4, "evaluation", 300), draw(3, "softmax", 300), draw(3, "evaluation", 30), draw(3)]
    assert not any(torch.equal(draw(3, "evaluation", 300), other) for other in others)


def test_inputs_are_not_changed(make_gan: Make, hanzi_slice: Tensors) -> None:
    tensors = {name: value.clone() for name, value in vars(hanzi_slice).items() if isinstance(value, Tensor)}
    list(make_gan().evaluations())
    assert all(torch.equal(value, getattr(hanzi_slice, name)) for name, value in tensors.items())


# --- evaluation, cut, resumption


def test_evaluation_does_not_change_the_training(make_gan: Make) -> None:
    one, other = make_gan(), make_gan()
    one.advance(3)
    one.evaluate()
    one.evaluate(["softmax"], 0.5)
    one.synthesise(5, "export")
    other.advance(3)
    assert_same_state(one, other)
    one.advance(6)
    other.evaluate(["student"])
    other.advance(6)
    assert one.evaluate() == other.evaluate()


def test_evaluation_repeats_itself(make_gan: Make) -> None:
    training = make_gan()
    training.advance(2)
    first, second = training.evaluate(), training.evaluate()
    assert first.heads == second.heads
    assert first.diagnostics == second.diagnostics
    assert second.losses == {}


def test_losses_are_means_since_the_evaluation_before(make_gan: Make) -> None:
    one, other = make_gan(), make_gan()
    singles = []
    for update in (1, 2, 3):
        one.advance(update)
        singles.append(one.evaluate(["softmax"]).losses)
    other.advance(3)
    means = other.evaluate(["softmax"]).losses
    assert set(means) == set(singles[0]) != set()
    for name, mean in means.items():
        assert mean == pytest.approx(np.mean([losses[name] for losses in singles]), rel=1e-5)


def test_a_cut_run_is_a_run_of_that_length(make_gan: Make) -> None:
    long, short = make_gan(updates=60, evaluations=2), make_gan(updates=30, evaluations=1)
    long.advance(30)
    (last,) = short.evaluations()
    assert_same_state(long, short)
    assert long.evaluate() == last


def test_the_number_of_evaluations_changes_nothing(make_gan: Make) -> None:
    often, once = make_gan(evaluations=4), make_gan(evaluations=1)
    *_, last = often.evaluations()
    (only,) = once.evaluations()
    assert last.heads == only.heads
    assert last.diagnostics == only.diagnostics
    assert_same_state(often, once)


@pytest.mark.parametrize("at_update", [0, 4])
def test_resumption_is_exact(make_gan: Make, at_update: int) -> None:
    whole, cut = make_gan(), make_gan()
    reports = [evaluation for evaluation in whole.evaluations() if evaluation.update > at_update]
    cut.advance(at_update)
    saved = safetensors.torch.save(cut.state_dict())
    resumed = make_gan()
    resumed.load_state_dict(safetensors.torch.load(saved))
    assert resumed.update == at_update
    assert_same_state(resumed, cut)
    assert list(resumed.evaluations()) == reports
    assert_same_state(resumed, whole)


def test_resumption_between_evaluations_gives_the_same_model(make_gan: Make) -> None:
    whole, cut, resumed = make_gan(), make_gan(), make_gan()
    *_, last = whole.evaluations()
    cut.advance(5)
    resumed.load_state_dict(cut.state_dict())
    (only,) = resumed.evaluations()
    assert only.heads == last.heads
    assert only.diagnostics == last.diagnostics
    assert_same_state(resumed, whole)


def test_the_state_replaces_everything_that_was_there(make_gan: Make) -> None:
    """Back from update 6 to 2, and over a spoilt teacher, critic and optimiser."""
    straight, back = make_gan(), make_gan()
    straight.advance(2)
    saved = deepcopy(straight.state_dict())
    back.advance(6)
    with torch.no_grad():
        for parameter in back.teacher.parameters():
            parameter.add_(1.0)
    back.load_state_dict(saved)
    straight.advance(5)
    back.advance(5)
    assert_same_state(straight, back)
    assert straight.evaluate().heads == back.evaluate().heads


def test_the_state_brings_the_teacher_and_its_outputs(make_gan: Make) -> None:
    """Updates go on alike even in a training that was built from another seed, whose teacher was another."""
    one, other = make_gan(0), make_gan(1)
    one.advance(2)
    other.load_state_dict(one.state_dict())
    one.advance(5)
    other.advance(5)
    assert_same_state(one, other)


def test_the_state_is_a_copy_of_flat_tensors(make_gan: Make) -> None:
    training = make_gan()
    training.advance(2)
    saved = deepcopy(training.state_dict())
    kept = {name: value.clone() for name, value in saved.items()}
    assert all(isinstance(name, str) and isinstance(value, Tensor) for name, value in saved.items())
    assert not any(value.requires_grad for value in saved.values())
    assert {name.split("/")[0] for name in saved} == {"teacher", "backbone", "student", "adam", "rng", "update"}
    assert {name.split("/")[1] for name in saved if name.startswith("adam/")} == {"generator", "student", "critic"}
    training.advance(4)
    assert all(torch.equal(kept[name], saved[name]) for name in saved)
    assert int(saved["update"]) == 2


def test_evaluations_go_on_from_where_the_training_is(make_gan: Make) -> None:
    training = make_gan(evaluations=4)
    training.advance(4)
    assert [evaluation.update for evaluation in training.evaluations()] == [6, 8]
    assert list(training.evaluations()) == []


# --- does it learn


LEARNS: dict[str, Any] = {
    "updates": 150,
    "evaluations": 1,
    "hidden_dim": 128,
    "noise_dim": 16,
    "critic_steps": 2,
    "embed_dim": 64,
    "generator_lr": 2e-3,
    "student_lr": 3e-3,
    "teacher_lr": 3e-3,
    "teacher_epochs": 5,
    "gcls_weight": 0.1,
    "cls_weight": 0.1,
    "embedding_weight": 0.01,
    "label_weight": 0.1,
    "n_synthetic_final": 50,
    "head_lr": 5e-3,
    "head_epochs": 5,
}


def test_gan_is_well_above_chance_on_hanzi(hanzi: Tensors) -> None:
    backbone = load_backbone("gan")
    (evaluation,) = Training(hanzi, backbone, backbone.config(**LEARNS), 0).evaluations()
    # guessing is right once in 150; even with seen and unseen rows told apart its H is below .02
    assert evaluation.heads["softmax"].H > 0.3
    assert all(accuracies.H > 0.2 for accuracies in evaluation.heads.values())
    assert all(accuracies.H_raw <= accuracies.H for accuracies in evaluation.heads.values())


def test_semantics_carry_the_gan(hanzi: Tensors) -> None:
    """With the unseen classes' semantics exchanged, the accuracy among them falls to that of guessing."""
    backbone = load_backbone("gan")
    order = torch.cat([torch.arange(hanzi.n_seen), hanzi.n_seen + torch.arange(hanzi.n_unseen).roll(1)])
    exchanged = replace(hanzi, semantics=hanzi.semantics[order])
    config = backbone.config(**(LEARNS | {"heads": ("softmax",)}))
    (evaluation,) = Training(exchanged, backbone, config, 0).evaluations()
    assert evaluation.heads["softmax"].T1 < 0.1
