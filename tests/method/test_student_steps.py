"""``student_steps``: with the generator alone, or at each critic step too, on fakes without a gradient."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from d3tune.data.tensors import Tensors
from d3tune.method.adam import Adam
from d3tune.method.generators import load_backbone
from d3tune.method.generators.base import Batch
from d3tune.method.networks import EmbeddingClassifier
from d3tune.method.student import StudentSide, Synthetic
from d3tune.method.training import Training

SMALL: dict[str, Any] = {
    "updates": 6,
    "evaluations": 2,
    "batch_size": 16,
    "hidden_dim": 12,
    "embed_dim": 8,
    "generator_lr": 2e-3,
    "student_lr": 3e-3,
    "teacher_lr": 3e-3,
    "teacher_epochs": 1,
    "n_synthetic_final": 4,
    "head_epochs": 1,
    "cls_weight": 0.3,
    "embedding_weight": 0.2,
    "label_weight": 0.4,
    "ood_weight": 0.1,
    "heads": ("student", "softmax"),
}
OWN: dict[str, dict[str, Any]] = {
    "gan": {"critic_steps": 3},
    "cegan": {"critic_steps": 3, "contrast_dim": 8, "projection_dim": 4, "relation_dim": 6},
    "vaegan": {"critic_steps": 3, "decoder_dim": 8},
    "vae": {},
    "diffusion": {"diffusion_steps": 3},
}
Make = Callable[..., Training]


@pytest.fixture
def make(tiny: Tensors) -> Make:
    def build(backbone: str = "gan", **values: Any) -> Training:
        entry = load_backbone(backbone)
        return Training(tiny, entry, entry.config(**(SMALL | OWN[backbone] | values)), 0)

    return build


def steps_of(training: Training, optimizer: str) -> set[int]:
    state = training.state_dict()
    prefix = f"adam/{optimizer}/"
    return {int(value) for key, value in state.items() if key.startswith(prefix) and key.endswith("/step")}


def different(one: Training, other: Training) -> list[str]:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


@dataclass
class Call:
    """What one student step saw, and the generator at that moment."""

    batch: Batch
    x: Tensor
    y: Tensor
    has_gradient: bool
    generator: list[Tensor]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[[Training], list[Call]]:
    """``watch(training)``: the list that fills with every loss of that training's student."""

    def begin(training: Training) -> list[Call]:
        calls: list[Call] = []
        loss = StudentSide.loss

        def watched(
            side: StudentSide, batch: Batch, synthetic: Synthetic, teacher: EmbeddingClassifier
        ) -> tuple[Tensor, dict[str, Tensor]]:
            generator = [p.detach().clone() for p in training.backbone.generator_parameters()]
            x = synthetic.x.detach().clone()
            calls.append(Call(batch, x, synthetic.y, synthetic.x.requires_grad, generator))
            return loss(side, batch, synthetic, teacher)

        monkeypatch.setattr(StudentSide, "loss", watched)
        return calls

    return begin


@pytest.mark.parametrize("backbone", ["gan", "cegan", "vaegan"])
@pytest.mark.parametrize("critic_steps", [1, 4])
def test_every_adds_one_student_step_for_each_critic_step(make: Make, backbone: str, critic_steps: int) -> None:
    for student_steps, expected in (("generator", 1), ("every", 1 + critic_steps)):
        training = make(backbone, critic_steps=critic_steps, student_steps=student_steps)
        training.advance(3)
        assert steps_of(training, "student") == {3 * expected}
        assert steps_of(training, "generator") == {3}
        assert max(steps_of(training, "critic")) == 3 * critic_steps


def test_extra_steps_see_the_critics_batches_and_fakes_without_gradient(
    make: Make, watch: Callable[[Training], list[Call]], tiny: Tensors
) -> None:
    training = make(student_steps="every")
    calls = watch(training)
    training.advance(2)
    assert [call.has_gradient for call in calls] == [False, False, False, True] * 2
    for update in (calls[:4], calls[4:]):
        # three real batches, the last of which is the joint step's too
        assert torch.equal(update[2].batch.x, update[3].batch.x)
        assert len({tuple(call.batch.x.flatten().tolist()) for call in update}) == 3
        # fakes of every unseen class, drawn anew for each step from the generator as it is
        assert len({tuple(call.x.flatten().tolist()) for call in update}) == 4
        for call in update:
            assert call.y.tolist() == [y for y in range(tiny.n_seen, tiny.n_seen + tiny.n_unseen) for _ in range(2)]


@pytest.mark.parametrize("generator_d3_weight", [0.0, 1.0])
def test_extra_steps_leave_the_generator_alone(
    make: Make, watch: Callable[[Training], list[Call]], generator_d3_weight: float
) -> None:
    """It is one and the same from the first extra step to the joint one, and another in the next update."""
    training = make(student_steps="every", generator_d3_weight=generator_d3_weight)
    calls = watch(training)
    training.advance(3)
    per_update = [calls[k : k + 4] for k in range(0, 12, 4)]
    for update in per_update:
        for call in update[1:]:
            assert all(map(torch.equal, call.generator, update[0].generator))
    for before, after in pairwise(per_update):
        assert not any(map(torch.equal, before[0].generator, after[0].generator))


@pytest.mark.parametrize("student_steps", ["generator", "every"])
@pytest.mark.parametrize("backbone", ["gan", "vaegan"])
def test_student_is_adam_on_exactly_these_losses(
    make: Make, watch: Callable[[Training], list[Call]], student_steps: str, backbone: str
) -> None:
    training = make(backbone, student_steps=student_steps)
    with_losses = watch(training)
    training.advance(3)
    calls = list(with_losses)
    replayed = make(backbone, student_steps=student_steps)
    side, optimizer = replayed.student, Adam(list(replayed.student.parameters()), SMALL["student_lr"])
    for call in calls:
        optimizer.zero_grad()
        loss, _ = side.loss(call.batch, Synthetic(call.x, call.y), replayed.teacher)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for name, value in training.student.state_dict().items():
        torch.testing.assert_close(value, side.state_dict()[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("backbone", ["vae", "diffusion"])
def test_without_a_critic_there_is_nothing_to_add(make: Make, backbone: str) -> None:
    plain, every = make(backbone), make(backbone, student_steps="every")
    assert list(plain.evaluations()) == list(every.evaluations())
    assert different(plain, every) == []
    assert steps_of(every, "student") == {6}


def test_without_a_d3_term_there_is_nothing_to_add(make: Make) -> None:
    off = dict.fromkeys(("cls_weight", "embedding_weight", "label_weight", "ood_weight"), 0.0)
    plain, every = make(**off), make(**off, student_steps="every")
    plain.advance(3)
    every.advance(3)
    assert different(plain, every) == []
    assert steps_of(every, "student") == set()


def test_resumes_bit_for_bit_between_updates(make: Make) -> None:
    whole, cut = make(student_steps="every"), make(student_steps="every")
    reports = list(whole.evaluations())
    cut.advance(3)
    resumed = make(student_steps="every")
    resumed.load_state_dict(safetensors.torch.load(safetensors.torch.save(cut.state_dict())))
    assert list(resumed.evaluations()) == reports[1:]
    assert different(resumed, whole) == []
