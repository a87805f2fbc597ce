"""A joint training that turns into numbers that are not finite ends with their place and update."""

from collections.abc import Callable

import pytest
import torch

from d3tune.config import Head
from d3tune.method.trainer import DivergedError
from d3tune.method.training import Training

WEIGHTS = ("cls_weight", "embedding_weight", "label_weight", "ood_weight")
Make = Callable[..., Training]


def poison(module: torch.nn.Module, value: float = float("nan")) -> None:
    with torch.no_grad():
        next(module.parameters()).fill_(value)


@pytest.mark.parametrize("part", ["generator", "critic", "student"])
def test_a_loss_that_is_not_finite_is_noticed_at_the_next_evaluation(make_gan: Make, part: str) -> None:
    training = make_gan()
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
def test_a_score_that_is_not_finite_is_noticed_at_once(make_gan: Make, part: str, head: Head) -> None:
    training = make_gan()
    training.advance(4)
    training.evaluate()
    poison(getattr(training, part))
    with pytest.raises(DivergedError) as caught:
        training.evaluate([head])
    assert (caught.value.where, caught.value.update) == (f"a score of head {head}", 4)


def test_a_diagnostic_that_is_not_finite_is_noticed(make_gan: Make) -> None:
    """A spoilt generator under a head that does not read it must not report a NaN."""
    training = make_gan(heads=("student",))
    training.advance(4)
    training.evaluate()
    poison(training.backbone)
    with pytest.raises(DivergedError):
        training.evaluate()


def test_a_spoilt_teacher_is_noticed_whatever_the_heads(make_gan: Make) -> None:
    """AUROC of scores that are not numbers is no number either."""
    training = make_gan(heads=("softmax",), gcls_weight=0.0, **dict.fromkeys(WEIGHTS, 0.0))
    poison(training.teacher)
    training.advance(4)
    with pytest.raises(DivergedError):
        training.evaluate()


def test_an_infinite_score_is_noticed(make_gan: Make) -> None:
    training = make_gan()
    training.advance(4)
    training.evaluate()
    poison(training.student.student.logit_layer, float("inf"))
    with pytest.raises(DivergedError, match="head student"):
        training.evaluate(["student"])
