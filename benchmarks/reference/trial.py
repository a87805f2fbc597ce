"""What the updates of all generators share: data, batches, the student's side and the joint step."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.reference import d3
from benchmarks.reference.networks import EmbedActivation, EmbeddingClassifier, OutputActivation

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Data:
    """Training rows and class semantics; classes [0, N_s) are seen, [N_s, N_s + N_u) unseen.

    Attributes:
        x: (n, X).
        y: (n,), all seen.
        semantics: (N, A).
        n_seen: N_s.
        n_unseen: N_u.
    """

    x: Tensor
    y: Tensor
    semantics: Tensor
    n_seen: int
    n_unseen: int

    @property
    def unseen(self) -> range:
        """The unseen classes."""
        return range(self.n_seen, self.n_seen + self.n_unseen)


@dataclass(frozen=True)
class Batch:
    """Real seen rows: features (B, X), classes (B,) and their semantics (B, A)."""

    x: Tensor
    y: Tensor
    a: Tensor


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Hyper-parameters that all generators share, named as in docs/method.md."""

    noise_dim: int
    batch_size: int = 64
    hidden_dim: int = 4096
    output_activation: OutputActivation = "relu"
    embed_dim: int = 256
    embed_activation: EmbedActivation = "relu"
    generator_lr: float = 1e-4
    student_lr: float = 1e-4
    cls_weight: float = 1e-4
    embedding_weight: float = 1e-4
    label_weight: float = 1e-4
    ood_weight: float = 1e-4
    temperature: float = 1.0
    ood_embed_dim: int = 2
    ood_score: d3.OodScore = "msp"
    ood_input: d3.OodInput = "prob"
    pair_balance: bool = True
    generator_d3_weight: float = 1.0
    n_synthetic_step: int = 2


def adam(parameters: Sequence[nn.Parameter], lr: float) -> torch.optim.Adam:
    """Adam with betas (.5, .999), as the public code of f-CLSWGAN and D³GZSL has it."""
    return torch.optim.Adam(parameters, lr=lr, betas=(0.5, 0.999))


class StudentSide(nn.Module):
    """Student (E_s, C_s), projector H and gates S, and their weighted loss."""

    def __init__(self, data: Data, settings: Settings, held_out_scores: Tensor | None) -> None:
        super().__init__()
        self.settings = settings
        n_classes = data.n_seen + data.n_unseen
        self.student = EmbeddingClassifier(data.x.shape[1], settings.embed_dim, n_classes, settings.embed_activation)
        self.projector = d3.Projector(n_classes, settings.ood_embed_dim, settings.ood_input)
        self.gates = d3.Gates(settings.ood_embed_dim, held_out_scores)

    def losses(self, batch: Batch, fake: Tensor, fake_y: Tensor, teacher: EmbeddingClassifier) -> Losses:
        """L_cls, L_be, L_kl and L_od, unweighted.

        Args:
            batch: real seen rows.
            fake: (M, X) synthetic unseen rows.
            fake_y: (M,) their classes.
            teacher: frozen.
        """
        settings, n_real = self.settings, len(batch.x)
        x, y = torch.cat([batch.x, fake]), torch.cat([batch.y, fake_y])
        student_z, student_v = self.student(x)
        teacher_z, teacher_v = teacher(x)
        student_h = self.projector(student_v)
        teacher_h = self.gates(d3.ood_score(teacher_v, settings.ood_score))
        balance = settings.pair_balance
        return {
            "student_classification": F.cross_entropy(student_v, y),
            "embedding_distillation": d3.embedding_loss(teacher_z[:n_real], student_z[:n_real], batch.y, balance),
            "label_distillation": d3.label_loss(teacher_v[:n_real], student_v[:n_real], settings.temperature),
            "outlier_distillation": d3.outlier_loss(student_h, teacher_h, y, balance),
        }

    def total(self, losses: Losses) -> Tensor:
        """w_cls·L_cls + w_be·L_be + w_kl·L_kl + w_od·L_od."""
        return (
            self.settings.cls_weight * losses["student_classification"]
            + self.settings.embedding_weight * losses["embedding_distillation"]
            + self.settings.label_weight * losses["label_distillation"]
            + self.settings.ood_weight * losses["outlier_distillation"]
        )


SettingsT = TypeVar("SettingsT", bound=Settings)
DrawsT = TypeVar("DrawsT")


class Trial(nn.Module, ABC, Generic[SettingsT, DrawsT]):
    """One model in training. A subclass builds its networks and optimiser, and says what an update is."""

    generator_optimizer: torch.optim.Optimizer

    def __init__(
        self,
        data: Data,
        settings: SettingsT,
        teacher: EmbeddingClassifier,
        held_out_scores: Tensor | None = None,
    ) -> None:
        """Build the student's side.

        Args:
            data: to draw from.
            settings: hyper-parameters.
            teacher: trained; it is frozen here.
            held_out_scores: see `d3.Gates`.
        """
        super().__init__()
        self.data, self.settings = data, settings
        self.teacher = teacher.requires_grad_(False)
        self.side = StudentSide(data, settings, held_out_scores)
        self.student_optimizer = adam(list(self.side.parameters()), settings.student_lr)

    @property
    def batches_per_update(self) -> int:
        """Real batches that one update reads."""
        return 1

    @abstractmethod
    def generate(self, noise: Tensor, a: Tensor) -> Tensor:
        """Features (B, X) from noise and semantics (B, A), with gradient to the generator."""

    @abstractmethod
    def draw(self) -> DrawsT:
        """The noise of one update."""

    @abstractmethod
    def update(self, batches: Sequence[Batch], draws: DrawsT) -> Losses:
        """One full update of everything that trains.

        Args:
            batches: `batches_per_update` real batches; the last one is also the D³ batch.
            draws: all noise of the update.

        Returns:
            Losses by name, unweighted.
        """

    def step(self) -> Losses:
        """One update on batches and noise that are drawn here."""
        return self.update([self.draw_batch() for _ in range(self.batches_per_update)], self.draw())

    def draw_batch(self) -> Batch:
        """Random training rows without repetition."""
        rows = torch.randperm(len(self.data.x))[: self.settings.batch_size]
        y = self.data.y[rows]
        return Batch(self.data.x[rows], y, self.data.semantics[y])

    def sample_final(self, noise: Tensor, a: Tensor) -> Tensor:
        """Features (B, X) for the final head."""
        with torch.no_grad():
            return self.generate(noise, a)

    def synthesise(self, noise: Tensor, per_class: int) -> tuple[Tensor, Tensor]:
        """Rows of every unseen class, class by class.

        Args:
            noise: (N_u · per_class, ·), the classes' noise one after another.
            per_class: rows per class.

        Returns:
            Features (M, X) with gradient to the generator, and classes (M,).
        """
        features, labels = [], []
        for index, label in enumerate(self.data.unseen):
            of_class = noise[index * per_class : (index + 1) * per_class]
            a = self.data.semantics[label].repeat(per_class, 1)
            features.append(self.generate(of_class, a))
            labels.append(torch.full((per_class,), label))
        return torch.cat(features), torch.cat(labels)

    def joint_step(self, generator_loss: Tensor, batch: Batch, synthetic_noise: Tensor) -> Losses:
        """One Adam step of the generator and one of student, H and S on L_gen + the weighted D³ terms.

        ``generator_d3_weight`` scales the gradient of the D³ terms into the synthetic rows, not their value.
        """
        fake, fake_y = self.synthesise(synthetic_noise, self.settings.n_synthetic_step)
        fake.register_hook(lambda gradient: gradient * self.settings.generator_d3_weight)  # type: ignore[no-untyped-call]
        losses = self.side.losses(batch, fake, fake_y, self.teacher)
        self.generator_optimizer.zero_grad()
        self.student_optimizer.zero_grad()
        torch.autograd.backward(generator_loss + self.side.total(losses))
        self.generator_optimizer.step()
        self.student_optimizer.step()
        return {name: loss.detach() for name, loss in losses.items()}
