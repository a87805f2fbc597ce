"""The joint training on a slice of real data: same seed, same numbers; any cut, any resumption, any setting."""

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
from d3tune.method.metrics import Accuracies, auroc, fpr_at_95
from d3tune.method.randomness import stream
from d3tune.method.trainer import DivergedError, Evaluation
from d3tune.method.training import Training

HEADS: tuple[Head, ...] = ("softmax", "student", "student_embedding", "teacher_embedding")
WEIGHTS = ("cls_weight", "embedding_weight", "label_weight", "ood_weight")
SMALL: dict[str, Any] = {
    "updates": 8,
    "evaluations": 2,
    "batch_size": 24,
    "hidden_dim": 24,
    "noise_dim": 6,
    "embed_dim": 12,
    "critic_steps": 2,
    "generator_lr": 2e-3,
    "student_lr": 3e-3,
    "teacher_lr": 3e-3,
    "teacher_epochs": 1,
    "n_synthetic_step": 2,
    "n_synthetic_final": 6,
    "head_epochs": 1,
    "cls_weight": 0.1,
    "embedding_weight": 0.05,
    "label_weight": 0.2,
    "ood_weight": 0.02,
    "generator_d3_weight": 0.1,
}
Make = Callable[..., Training]


@pytest.fixture
def make(hanzi_slice: Tensors) -> Make:
    """``make(seed=…, name=value…)``: a small training of the gan."""
    backbone = load_backbone("gan")

    def build(seed: int = 0, **values: Any) -> Training:
        return Training(hanzi_slice, backbone, backbone.config(**(SMALL | values)), seed)

    return build


def assert_same_state(one: Training, other: Training) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def all_finite(evaluation: Evaluation) -> bool:
    numbers = [*evaluation.losses.values(), *evaluation.diagnostics.values()]
    numbers += [value for accuracies in evaluation.heads.values() for value in vars(accuracies).values()]
    return bool(np.isfinite(numbers).all())


# --- determinism


def test_same_seed_gives_the_same_results_bit_for_bit(make: Make) -> None:
    one, other = make(), make()
    first, second = list(one.evaluations()), list(other.evaluations())
    assert first == second
    assert [evaluation.update for evaluation in first] == [4, 8]
    assert set(first[0].heads) == set(HEADS)
    assert all(all_finite(evaluation) for evaluation in first)
    assert_same_state(one, other)


def test_another_seed_gives_other_weights_and_results(make: Make) -> None:
    one, other = make(0), make(1)
    first, second = one.state_dict(), other.state_dict()
    assert not torch.equal(first["rng"], second["rng"])
    for part in ("teacher/", "backbone/generator", "backbone/critic", "student/student", "student/projector"):
        names = [name for name in first if name.startswith(part) and name.endswith("weight")]
        assert names
        assert not any(torch.equal(first[name], second[name]) for name in names)
    assert list(one.evaluations()) != list(other.evaluations())


def test_global_random_states_are_neither_read_nor_moved(make: Make) -> None:
    torch.manual_seed(1)
    first = list(make().evaluations())
    torch.manual_seed(2)
    states = torch.get_rng_state(), str(np.random.get_state()), random.getstate()  # noqa: NPY002
    second = list(make().evaluations())
    assert first == second
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (str(np.random.get_state()), random.getstate())  # noqa: NPY002


def test_streams_depend_on_seed_and_names_alone() -> None:
    def draw(*names: Any) -> Tensor:
        return torch.rand(8, generator=stream(*names))

    assert torch.equal(draw(3, "evaluation", 300), draw(3, "evaluation", 300))
    others = [draw(4, "evaluation", 300), draw(3, "softmax", 300), draw(3, "evaluation", 30), draw(3)]
    assert not any(torch.equal(draw(3, "evaluation", 300), other) for other in others)


def test_inputs_are_not_changed(make: Make, hanzi_slice: Tensors) -> None:
    tensors = {name: value.clone() for name, value in vars(hanzi_slice).items() if isinstance(value, Tensor)}
    list(make().evaluations())
    assert all(torch.equal(value, getattr(hanzi_slice, name)) for name, value in tensors.items())


# --- evaluation, cut, resumption


def test_evaluation_does_not_change_the_training(make: Make) -> None:
    one, other = make(), make()
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


def test_evaluation_repeats_itself(make: Make) -> None:
    training = make()
    training.advance(2)
    first, second = training.evaluate(), training.evaluate()
    assert first.heads == second.heads
    assert first.diagnostics == second.diagnostics
    assert second.losses == {}


def test_losses_are_means_since_the_evaluation_before(make: Make) -> None:
    one, other = make(), make()
    singles = []
    for update in (1, 2, 3):
        one.advance(update)
        singles.append(one.evaluate(["softmax"]).losses)
    other.advance(3)
    means = other.evaluate(["softmax"]).losses
    assert set(means) == set(singles[0]) != set()
    for name, mean in means.items():
        assert mean == pytest.approx(np.mean([losses[name] for losses in singles]), rel=1e-5)


def test_a_cut_run_is_a_run_of_that_length(make: Make) -> None:
    long, short = make(updates=60, evaluations=2), make(updates=30, evaluations=1)
    long.advance(30)
    (last,) = short.evaluations()
    assert_same_state(long, short)
    assert long.evaluate() == last


def test_the_number_of_evaluations_changes_nothing(make: Make) -> None:
    often, once = make(evaluations=4), make(evaluations=1)
    *_, last = often.evaluations()
    (only,) = once.evaluations()
    assert last.heads == only.heads
    assert last.diagnostics == only.diagnostics
    assert_same_state(often, once)


@pytest.mark.parametrize("at_update", [0, 4])
def test_resumption_is_exact(make: Make, at_update: int) -> None:
    whole, cut = make(), make()
    reports = [evaluation for evaluation in whole.evaluations() if evaluation.update > at_update]
    cut.advance(at_update)
    saved = safetensors.torch.save(cut.state_dict())
    resumed = make()
    resumed.load_state_dict(safetensors.torch.load(saved))
    assert resumed.update == at_update
    assert_same_state(resumed, cut)
    assert list(resumed.evaluations()) == reports
    assert_same_state(resumed, whole)


def test_resumption_between_evaluations_gives_the_same_model(make: Make) -> None:
    whole, cut, resumed = make(), make(), make()
    *_, last = whole.evaluations()
    cut.advance(5)
    resumed.load_state_dict(cut.state_dict())
    (only,) = resumed.evaluations()
    assert only.heads == last.heads
    assert only.diagnostics == last.diagnostics
    assert_same_state(resumed, whole)


def test_the_state_replaces_everything_that_was_there(make: Make) -> None:
    """Back from update 6 to 2, and over a spoilt teacher, critic and optimiser."""
    straight, back = make(), make()
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


def test_the_state_brings_the_teacher_and_its_outputs(make: Make) -> None:
    """Updates go on alike even in a training that was built from another seed, whose teacher was another."""
    one, other = make(0), make(1)
    one.advance(2)
    other.load_state_dict(one.state_dict())
    one.advance(5)
    other.advance(5)
    assert_same_state(one, other)


def test_the_state_is_a_copy_of_flat_tensors(make: Make) -> None:
    training = make()
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


def test_evaluations_go_on_from_where_the_training_is(make: Make) -> None:
    training = make(evaluations=4)
    training.advance(4)
    assert [evaluation.update for evaluation in training.evaluations()] == [6, 8]
    assert list(training.evaluations()) == []


# --- settings


def slow_terms(weights: dict[str, float]) -> set[str]:
    names = dict(
        zip(
            WEIGHTS,
            ("student_classification", "embedding_distillation", "label_distillation", "outlier_distillation"),
            strict=True,
        )
    )
    return {name for weight, name in names.items() if weights[weight] > 0}


@pytest.mark.parametrize("on", [WEIGHTS, (), *((weight,) for weight in WEIGHTS)], ids=lambda on: "+".join(on) or "none")
def test_any_weights_may_be_0(make: Make, on: tuple[str, ...]) -> None:
    weights = {weight: SMALL[weight] if weight in on else 0.0 for weight in WEIGHTS}
    training = make(**weights)
    before = deepcopy(training.state_dict())
    *_, last = training.evaluations()
    assert all_finite(last)
    gan = {"critic", "gradient_penalty", "adversarial", "generator_classification"}
    assert set(last.losses) == gan | slow_terms(weights)
    student_on = bool(set(on) - {"ood_weight"})
    assert set(last.heads) == {head for head in HEADS if student_on or not head.startswith("student")}
    after = training.state_dict()
    moved = {name.split("/")[0] for name in before if name in after and not torch.equal(before[name], after[name])}
    assert moved == {"backbone", "rng", "update"} | ({"student"} if on else set())


def test_without_d3_terms_the_student_settings_are_irrelevant(make: Make) -> None:
    off = dict.fromkeys(WEIGHTS, 0.0)
    one, other = make(**off), make(**off, student_lr=0.1, ood_embed_dim=8, temperature=3.0)
    assert list(one.evaluations()) == list(other.evaluations())


def test_a_cut_gradient_leaves_the_generator_to_its_own_loss(make: Make) -> None:
    """At generator_d3_weight 0 the D³ terms train the student, and the generator as if they had no weight."""
    light, heavy = make(generator_d3_weight=0.0), make(generator_d3_weight=0.0, cls_weight=9.0, ood_weight=2.0)
    light.advance(4)
    heavy.advance(4)
    first, second = light.state_dict(), heavy.state_dict()
    for name in first:
        if name.startswith("backbone/"):
            assert torch.equal(first[name], second[name]), name
    assert not torch.equal(first["student/student.embed_layer.weight"], second["student/student.embed_layer.weight"])


@pytest.mark.parametrize("weight", ["cls_weight", "ood_weight"])
def test_d3_terms_reach_the_generator(make: Make, weight: str) -> None:
    off = dict.fromkeys(WEIGHTS, 0.0)
    cut, open_ = (make(**(off | {weight: 5.0, "generator_d3_weight": value})) for value in (0.0, 1.0))
    cut.advance(3)
    open_.advance(3)
    name = "backbone/generator.output.weight"
    assert not torch.equal(cut.state_dict()[name], open_.state_dict()[name])


@pytest.mark.parametrize(
    "values",
    [
        {"ood_embed_dim": 2},
        {"ood_embed_dim": 8},
        {"ood_embed_dim": 8, "ood_score": "energy", "ood_input": "logprob"},
        {"ood_embed_dim": 4, "ood_score": "maxlogit", "pair_balance": False},
        {"ood_score": "entropy", "embed_activation": "identity", "temperature": 4.0},
        {"ood_embed_dim": 8, "teacher_lr": 1.0, "teacher_epochs": 3},  # a collapsed teacher: every score alike
        {"gp_weight": 0.0, "gcls_weight": 0.0},
        {"batch_size": 2, "noise_dim": None, "output_activation": "sigmoid"},
        {"batch_size": 65536, "n_synthetic_step": 1, "n_synthetic_final": 1, "critic_steps": 1},
    ],
    ids=str,
)
def test_settings_train_and_resume(make: Make, values: dict[str, Any]) -> None:
    whole, resumed = make(**values), make(**values)
    reports = []
    for evaluation in whole.evaluations():
        reports.append(evaluation)
        if evaluation.update == 4:
            resumed.load_state_dict(whole.state_dict())
    assert all(all_finite(evaluation) for evaluation in reports)
    assert list(resumed.evaluations()) == reports[1:]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 32),
        ("embed_dim", 10),
        ("embed_activation", "identity"),
        ("teacher_lr", 2e-3),
        ("teacher_epochs", 2),
        ("teacher_batch_size", 64),
        ("student_lr", 2e-3),
        ("cls_weight", 0.2),
        ("embedding_weight", 0.1),
        ("label_weight", 0.4),
        ("ood_weight", 0.04),
        ("temperature", 2.0),
        ("ood_embed_dim", 4),
        ("ood_score", "energy"),
        ("ood_input", "logprob"),
        ("pair_balance", False),
        ("generator_d3_weight", 1.0),
        ("n_synthetic_step", 3),
        ("n_synthetic_final", 7),
        ("head_lr", 2e-3),
        ("head_epochs", 2),
        ("head_batch_size", 128),
        ("generator_lr", 1e-3),
        ("hidden_dim", 20),
        ("noise_dim", 7),
        ("output_activation", "linear"),
        ("critic_steps", 1),
        ("gp_weight", 5.0),
        ("gcls_weight", 0.1),
        ("student_steps", "every"),
        ("fidelity", "official"),
        ("anchor", "ridge"),
        ("logit_prior", True),
        ("unseen_shift", -1.0),
        ("heads", ("softmax", "lda")),
    ],
)
def test_every_setting_has_an_effect(make: Make, name: str, value: Any) -> None:
    base, changed = make(), make(**{name: value})
    assert getattr(base.config, name) != value
    base.advance(4)
    changed.advance(4)
    assert base.evaluate() != changed.evaluate()


BACKBONES: dict[str, dict[str, Any]] = {
    "gan": {"heads": ("softmax", "lda", "prototype"), "prototype_hidden": 12, "anchor": "ridge"},
    "vae": {"vae_warmup": 4, "output_noise": 0.3},
    "diffusion": {"diffusion_steps": 6, "guidance": 0.3, "semantics_noise": 0.2},
    "cegan": {
        "contrast_dim": 16,
        "projection_dim": 8,
        "relation_dim": 12,
        "instance_weight": 0.1,
        "class_weight": 0.1,
        "heads": ("softmax", "backbone_embedding"),
    },
    "vaegan": {"decoder_dim": 16, "remse_weight": 1.0, "heads": ("softmax", "backbone_embedding")},
}


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("gan", "lda_shrinkage", 0.05),
        ("gan", "prototype_hidden", 10),
        ("gan", "cosine_scale", 5.0),
        ("gan", "anchor_ridge", 1.0),
        ("vae", "vae_beta", 0.1),
        ("vae", "vae_warmup", 0),
        ("vae", "output_noise", 0.6),
        ("vae", "noise_dim", 5),
        ("diffusion", "diffusion_steps", 4),
        ("diffusion", "diffusion_schedule", "vp"),
        ("diffusion", "guidance", 0.6),
        ("diffusion", "semantics_noise", 0.4),
        ("diffusion", "min_snr", True),
        ("diffusion", "ema_decay", 0.5),
        ("diffusion", "final_sampler", "one_step"),
        ("cegan", "contrast_dim", 20),
        ("cegan", "projection_dim", 10),
        ("cegan", "relation_dim", 10),
        ("cegan", "instance_weight", 1.0),
        ("cegan", "class_weight", 1.0),
        ("cegan", "instance_temperature", 1.0),
        ("cegan", "class_temperature", 1.0),
        ("vaegan", "vae_weight", 0.1),
        ("vaegan", "vae_beta", 0.1),
        ("vaegan", "decoder_dim", 20),
        ("vaegan", "remse_weight", 5.0),
        ("vaegan", "remse_p", 2.0),
        ("vaegan", "remse_p2", 2.0),
    ],
)
def test_every_setting_of_a_backbone_has_an_effect(hanzi_slice: Tensors, name: str, setting: str, value: Any) -> None:
    entry = load_backbone(name)
    shared = {key: item for key, item in SMALL.items() if key in entry.config.model_fields}
    base, changed = (
        Training(hanzi_slice, entry, entry.config(**(shared | BACKBONES[name] | more)), 0)
        for more in ({}, {setting: value})
    )
    assert getattr(base.config, setting) != value
    base.advance(4)
    changed.advance(4)
    assert base.evaluate() != changed.evaluate()


@pytest.mark.parametrize("head", HEADS)
def test_a_head_alone_reads_what_it_reads_among_others(make: Make, head: Head) -> None:
    alone, among = make(heads=(head,)), make()
    for one, other in zip(alone.evaluations(), among.evaluations(), strict=True):
        assert one.heads == {head: other.heads[head]}
        assert one.diagnostics == other.diagnostics


def test_heads_of_an_untrained_student_are_not_offered(make: Make) -> None:
    training = make(cls_weight=0, embedding_weight=0, label_weight=0)
    training.advance(1)
    assert tuple(training.evaluate().heads) == ("softmax", "teacher_embedding")


def test_a_carried_offset_is_used_as_it_is(make: Make) -> None:
    training = make()
    training.advance(2)
    free, carried = training.evaluate(), training.evaluate(seen_offset=0.3)
    for head in HEADS:
        assert carried.heads[head].seen_offset == 0.3
        assert carried.heads[head].H <= free.heads[head].H
        assert carried.heads[head].H_raw == free.heads[head].H_raw


def test_student_head_scores_are_the_students_logits(make: Make, hanzi_slice: Tensors) -> None:
    training = make()
    training.advance(6)
    found = training.evaluate(["student"], 0.0).heads["student"]
    with torch.no_grad():
        logits = training.student.student(hanzi_slice.eval_seen_x)[1]
    hits = (logits.argmax(dim=1) == hanzi_slice.eval_seen_y).double()
    per_class = [hits[hanzi_slice.eval_seen_y == c].mean().item() for c in range(10)]
    assert pytest.approx(np.mean(per_class)) == found.S


# --- what evaluation reads


def test_synthetic_rows_are_of_unseen_classes_and_repeatable(make: Make, hanzi_slice: Tensors) -> None:
    training = make()
    training.advance(1)
    rows = training.synthesise(3, "evaluation")
    assert rows.y.tolist() == [10] * 3 + [11] * 3 + [12] * 3 + [13] * 3
    assert rows.x.shape == (12, hanzi_slice.n_features)
    assert not rows.x.requires_grad
    assert torch.equal(rows.x, training.synthesise(3, "evaluation").x)
    assert not torch.equal(rows.x, training.synthesise(3, "another").x)


def test_diagnostics_are_the_teachers_ood_score_and_the_drift_of_class_means(make: Make, hanzi_slice: Tensors) -> None:
    training = make()
    training.advance(3)
    found = training.evaluate(["softmax"]).diagnostics
    assert set(found) == {"AUROC", "FPR95", "drift"}
    seen, unseen = (
        training.teacher(x)[1].log_softmax(dim=1).amax(dim=1)
        for x in (hanzi_slice.eval_seen_x, hanzi_slice.eval_unseen_x)
    )
    assert found["AUROC"] == pytest.approx(auroc(seen, unseen))
    assert found["FPR95"] == pytest.approx(fpr_at_95(seen, unseen))
    synthetic = training.synthesise(SMALL["n_synthetic_final"], "evaluation")
    distances, spreads = [], []
    for c in range(10, 14):
        real = hanzi_slice.eval_unseen_x[hanzi_slice.eval_unseen_y == c].double().numpy()
        fake = synthetic.x[synthetic.y == c].double().numpy()
        distances.append(np.linalg.norm(real.mean(axis=0) - fake.mean(axis=0)))
        spreads += [np.linalg.norm(row - real.mean(axis=0)) for row in real]
    assert found["drift"] == pytest.approx(np.mean(distances) / np.mean(spreads), rel=1e-5)


def test_best_head_is_the_first_of_the_largest_h() -> None:
    def of(h: float) -> Accuracies:
        return Accuracies(H=h, U=h, S=h, T1=h, AUSUC=h, seen_offset=0, H_raw=h, U_raw=h, S_raw=h)

    evaluation = Evaluation(1, {"softmax": of(0.2), "student": of(0.4), "teacher_embedding": of(0.4)})
    assert evaluation.best_head == "student"


# --- numbers that are not finite


def poison(module: torch.nn.Module, value: float = float("nan")) -> None:
    with torch.no_grad():
        next(module.parameters()).fill_(value)


@pytest.mark.parametrize("part", ["generator", "critic", "student"])
def test_a_loss_that_is_not_finite_is_noticed_at_the_next_evaluation(make: Make, part: str) -> None:
    training = make()
    training.advance(4)
    training.evaluate()
    poison(training.student.student if part == "student" else getattr(training.backbone, part))
    training.advance(7)
    with pytest.raises(DivergedError) as caught:
        training.evaluate()
    # the first update with a loss that is not finite, not the evaluation at which that was noticed
    assert caught.value.update == 5
    assert caught.value.where.startswith("loss ")
    assert "at update 5" in str(caught.value)


@pytest.mark.parametrize(
    ("part", "head"),
    [
        ("backbone", "softmax"),
        ("student", "student"),
        ("student", "student_embedding"),
        ("teacher", "teacher_embedding"),
    ],
)
def test_a_score_that_is_not_finite_is_noticed_at_once(make: Make, part: str, head: Head) -> None:
    training = make()
    training.advance(4)
    training.evaluate()
    poison(getattr(training, part))
    with pytest.raises(DivergedError) as caught:
        training.evaluate([head])
    assert (caught.value.where, caught.value.update) == (f"a score of head {head}", 4)


def test_a_diagnostic_that_is_not_finite_is_noticed(make: Make) -> None:
    """A spoilt generator under a head that does not read it must not report a NaN."""
    training = make(heads=("student",))
    training.advance(4)
    training.evaluate()
    poison(training.backbone)
    with pytest.raises(DivergedError):
        training.evaluate()


def test_a_spoilt_teacher_is_noticed_whatever_the_heads(make: Make) -> None:
    """AUROC of scores that are not numbers is no number either."""
    training = make(heads=("softmax",), gcls_weight=0.0, **dict.fromkeys(WEIGHTS, 0.0))
    poison(training.teacher)
    training.advance(4)
    with pytest.raises(DivergedError):
        training.evaluate()


def test_an_infinite_score_is_noticed(make: Make) -> None:
    training = make()
    training.advance(4)
    training.evaluate()
    poison(training.student.student.logit_layer, float("inf"))
    with pytest.raises(DivergedError, match="head student"):
        training.evaluate(["student"])


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
