"""Settings of the joint training: any may be chosen, each has an effect, and all resume; what evaluation reads."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch

from d3tune.config import Head
from d3tune.data.tensors import Tensors
from d3tune.method.generators import load_backbone
from d3tune.method.metrics import Accuracies, auroc, fpr_at_95
from d3tune.method.trainer import Evaluation
from d3tune.method.training import Training

HEADS: tuple[Head, ...] = ("softmax", "student", "student_embedding", "teacher_embedding")
WEIGHTS = ("cls_weight", "embedding_weight", "label_weight", "ood_weight")
Make = Callable[..., Training]
Finite = Callable[[Evaluation], bool]


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
def test_any_weights_may_be_0(
    make_gan: Make, on: tuple[str, ...], all_finite: Finite, small_gan: dict[str, Any]
) -> None:
    weights = {weight: small_gan[weight] if weight in on else 0.0 for weight in WEIGHTS}
    training = make_gan(**weights)
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


def test_without_d3_terms_the_student_settings_are_irrelevant(make_gan: Make) -> None:
    off = dict.fromkeys(WEIGHTS, 0.0)
    one, other = make_gan(**off), make_gan(**off, student_lr=0.1, ood_embed_dim=8, temperature=3.0)
    assert list(one.evaluations()) == list(other.evaluations())


def test_a_cut_gradient_leaves_the_generator_to_its_own_loss(make_gan: Make) -> None:
    """At generator_d3_weight 0 the D³ terms train the student, and the generator as if they had no weight."""
    light, heavy = make_gan(generator_d3_weight=0.0), make_gan(generator_d3_weight=0.0, cls_weight=9.0, ood_weight=2.0)
    light.advance(4)
    heavy.advance(4)
    first, second = light.state_dict(), heavy.state_dict()
    for name in first:
        if name.startswith("backbone/"):
            assert torch.equal(first[name], second[name]), name
    assert not torch.equal(first["student/student.embed_layer.weight"], second["student/student.embed_layer.weight"])


@pytest.mark.parametrize("weight", ["cls_weight", "ood_weight"])
def test_d3_terms_reach_the_generator(make_gan: Make, weight: str) -> None:
    off = dict.fromkeys(WEIGHTS, 0.0)
    cut, open_ = (make_gan(**(off | {weight: 5.0, "generator_d3_weight": value})) for value in (0.0, 1.0))
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
def test_settings_train_and_resume(make_gan: Make, values: dict[str, Any], all_finite: Finite) -> None:
    whole, resumed = make_gan(**values), make_gan(**values)
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
def test_every_setting_has_an_effect(make_gan: Make, name: str, value: Any) -> None:
    base, changed = make_gan(), make_gan(**{name: value})
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
def test_every_setting_of_a_backbone_has_an_effect(
    hanzi_slice: Tensors, name: str, setting: str, value: Any, small_gan: dict[str, Any]
) -> None:
    entry = load_backbone(name)
    shared = {key: item for key, item in small_gan.items() if key in entry.config.model_fields}
    base, changed = (
        Training(hanzi_slice, entry, entry.config(**(shared | BACKBONES[name] | more)), 0)
        for more in ({}, {setting: value})
    )
    assert getattr(base.config, setting) != value
    base.advance(4)
    changed.advance(4)
    assert base.evaluate() != changed.evaluate()


@pytest.mark.parametrize("head", HEADS)
def test_a_head_alone_reads_what_it_reads_among_others(make_gan: Make, head: Head) -> None:
    alone, among = make_gan(heads=(head,)), make_gan()
    for one, other in zip(alone.evaluations(), among.evaluations(), strict=True):
        assert one.heads == {head: other.heads[head]}
        assert one.diagnostics == other.diagnostics


def test_heads_of_an_untrained_student_are_not_offered(make_gan: Make) -> None:
    training = make_gan(cls_weight=0, embedding_weight=0, label_weight=0)
    training.advance(1)
    assert tuple(training.evaluate().heads) == ("softmax", "teacher_embedding")


def test_a_carried_offset_is_used_as_it_is(make_gan: Make) -> None:
    training = make_gan()
    training.advance(2)
    free, carried = training.evaluate(), training.evaluate(seen_offset=0.3)
    for head in HEADS:
        assert carried.heads[head].seen_offset == 0.3
        assert carried.heads[head].H <= free.heads[head].H
        assert carried.heads[head].H_raw == free.heads[head].H_raw


def test_student_head_scores_are_the_students_logits(make_gan: Make, hanzi_slice: Tensors) -> None:
    training = make_gan()
    training.advance(6)
    found = training.evaluate(["student"], 0.0).heads["student"]
    with torch.no_grad():
        logits = training.student.student(hanzi_slice.eval_seen_x)[1]
    hits = (logits.argmax(dim=1) == hanzi_slice.eval_seen_y).double()
    per_class = [hits[hanzi_slice.eval_seen_y == c].mean().item() for c in range(10)]
    assert pytest.approx(np.mean(per_class)) == found.S


# --- what evaluation reads


def test_synthetic_rows_are_of_unseen_classes_and_repeatable(make_gan: Make, hanzi_slice: Tensors) -> None:
    training = make_gan()
    training.advance(1)
    rows = training.synthesise(3, "evaluation")
    assert rows.y.tolist() == [10] * 3 + [11] * 3 + [12] * 3 + [13] * 3
    assert rows.x.shape == (12, hanzi_slice.n_features)
    assert not rows.x.requires_grad
    assert torch.equal(rows.x, training.synthesise(3, "evaluation").x)
    assert not torch.equal(rows.x, training.synthesise(3, "another").x)


def test_diagnostics_are_the_teachers_ood_score_and_the_drift_of_class_means(
    make_gan: Make, hanzi_slice: Tensors, small_gan: dict[str, Any]
) -> None:
    training = make_gan()
    training.advance(3)
    found = training.evaluate(["softmax"]).diagnostics
    assert set(found) == {"AUROC", "FPR95", "drift"}
    seen, unseen = (
        training.teacher(x)[1].log_softmax(dim=1).amax(dim=1)
        for x in (hanzi_slice.eval_seen_x, hanzi_slice.eval_unseen_x)
    )
    assert found["AUROC"] == pytest.approx(auroc(seen, unseen))
    assert found["FPR95"] == pytest.approx(fpr_at_95(seen, unseen))
    synthetic = training.synthesise(small_gan["n_synthetic_final"], "evaluation")
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
