"""D³GZSL training: teacher, then generator and student together, read by heads at each evaluation."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from d3tune.config import Head
from d3tune.data.tensors import Tensors
from d3tune.method import state
from d3tune.method.classifier import train_linear_head
from d3tune.method.distillation import ood_score
from d3tune.method.generators import BackboneEntry
from d3tune.method.generators.base import Backbone, Batch, GeneratorConfig, Sizes
from d3tune.method.metrics import Accuracies, Scores, accuracies, auroc, fpr_at_95
from d3tune.method.networks import EmbeddingClassifier, adam
from d3tune.method.randomness import stream
from d3tune.method.student import StudentSide, Synthetic
from d3tune.method.teacher import TeacherTable, held_out_scores, teacher_table, train_teacher


class DivergedError(Exception):
    """A loss or a score is NaN or infinite.

    Attributes:
        where: the first such quantity.
        update: the update count at which it was noticed.
    """

    def __init__(self, where: str, update: int) -> None:
        super().__init__(f"{where} is not finite at update {update}")
        self.where = where
        self.update = update


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation found.

    Attributes:
        update: generator updates so far.
        heads: accuracies by head.
        losses: mean of each loss since the evaluation before.
        diagnostics: ``AUROC`` and ``FPR95`` of the teacher's OOD score on the two test sets, and ``drift``, the mean
            distance of the synthetic from the real class means of unseen classes, over the mean distance of a real
            unseen row from its class mean.
    """

    update: int
    heads: dict[Head, Accuracies]
    losses: dict[str, float] = field(default_factory=dict)
    diagnostics: dict[str, float] = field(default_factory=dict)

    @property
    def best_head(self) -> Head:
        """The head with the largest H; the first in order where several have it."""
        return max(self.heads, key=lambda head: self.heads[head].H)


class Training:
    """One model of one configuration on one protocol's tensors, resumable at any update.

    Learning rates are constant and every random number depends on the seed and on the draws before it alone, so a
    run cut at update s equals a run of length s.
    """

    def __init__(self, tensors: Tensors, backbone: BackboneEntry, config: GeneratorConfig, seed: int) -> None:
        """Train the teacher and initialise the rest.

        Args:
            tensors: of a protocol view, all on one device.
            backbone: which generator.
            config: an instance of ``backbone.config``.
            seed: of weights, batches and noise.
        """
        self.tensors, self.config, self.seed = tensors, config, seed
        self.update = 0
        device = tensors.train_x.device
        self.sizes = Sizes(tensors.train_x.shape[1], tensors.semantics.shape[1], tensors.n_seen, tensors.n_unseen)
        self.teacher = self._train_teacher("teacher")
        self._table: TeacherTable = teacher_table(self.teacher, tensors.train_x)
        self.backbone: Backbone[GeneratorConfig] = backbone.build(
            self.sizes, config, self.teacher, stream(seed, "backbone")
        )
        self.student = StudentSide(self.sizes, config, self._held_out_scores(), stream(seed, "student"))
        self.student.to(device)
        self._rng = stream(seed, "updates", device=device)
        self._generator_optimizer = adam(self.backbone.generator_parameters(), config.generator_lr)
        self._student_optimizer = adam(list(self.student.parameters()), config.student_lr)
        self._step_y = self._unseen_labels(config.n_synthetic_step)
        self._loss_sums: dict[str, Tensor] = {}
        self._losses_since = 0

    def evaluations(self) -> Iterator[Evaluation]:
        """Train on to the full budget, yielding an evaluation at each of its update counts still ahead.

        Raises:
            DivergedError: a loss or a score became NaN or infinite.
        """
        for update in self.config.evaluation_updates:
            if update > self.update:
                self.advance(update)
                yield self.evaluate()

    def advance(self, update: int) -> None:
        """Train until ``update`` generator updates have been made in all."""
        while self.update < update:
            self._add_losses(self._step())
            self.update += 1

    def evaluate(self, heads: Sequence[Head] | None = None, seen_offset: float | None = None) -> Evaluation:
        """Read the model by heads on the two evaluation sets; does not change the training.

        Args:
            heads: which; None means all that the configuration offers.
            seen_offset: δ carried from validation; None calibrates on these very rows.

        Raises:
            DivergedError: a loss or a score is NaN or infinite.
        """
        losses = self._take_losses()
        synthetic = self.synthesise(self.config.n_synthetic_final, "evaluation")
        results = {
            head: accuracies(self._scores(head, synthetic), seen_offset) for head in heads or self.config.offered_heads
        }
        return Evaluation(self.update, results, losses, self._diagnostics(synthetic))

    @torch.no_grad()
    def synthesise(self, n_per_class: int, purpose: str) -> Synthetic:
        """Rows of every unseen class from a random stream of their own.

        Args:
            n_per_class: rows per unseen class.
            purpose: name of the stream; with seed and update it determines the noise.
        """
        y = self._unseen_labels(n_per_class)
        rng = stream(self.seed, purpose, self.update, device=self.tensors.train_x.device)
        noise = self.backbone.draw_noise(len(y), rng)
        return Synthetic(self.backbone.sample(noise, self.tensors.semantics[y]), y)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that training goes on from, as flat tensors; the teacher included."""
        tensors = state.pack(self._modules(), self._optimizers())
        tensors["rng"] = self._rng.get_state()
        tensors["update"] = torch.tensor(self.update)
        return tensors

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` of the same configuration and data gave."""
        state.unpack(tensors, self._modules(), self._optimizers())
        self._table = teacher_table(self.teacher, self.tensors.train_x)
        self._rng.set_state(tensors["rng"].cpu())
        self.update = int(tensors["update"])
        self._loss_sums, self._losses_since = {}, 0

    def _modules(self) -> dict[str, torch.nn.Module]:
        return {"teacher": self.teacher, "backbone": self.backbone, "student": self.student}

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        shared = {"generator": self._generator_optimizer, "student": self._student_optimizer}
        return {**shared, **self.backbone.own_optimizers()}

    def _train_teacher(self, name: str) -> EmbeddingClassifier:
        data = self.tensors
        return train_teacher(data.train_x, data.train_y, data.n_seen, self.config, stream(self.seed, name))

    def _held_out_scores(self) -> Tensor | None:
        if self.config.ood_weight == 0 or self.config.ood_embed_dim == 2:
            # the gates of d > 2 are not read where L_od is off; any standard scores give them a shape
            return torch.linspace(-2, 2, 100)
        data = self.tensors
        rng = stream(self.seed, "held-out teacher")
        return held_out_scores(data.train_x, data.train_y, data.n_seen, self.config, rng)

    def _step(self) -> dict[str, Tensor]:
        """One update: the backbone's preparation, then generator and student on L_gen + the D³ terms."""
        batches = [self._draw_batch() for _ in range(self.backbone.batches_per_update)]
        losses = self.backbone.prepare(batches, self._rng)
        total, parts = self.backbone.loss(batches[-1], self._rng)
        losses |= parts
        if self.config.uses_d3:
            noise = self.backbone.draw_noise(len(self._step_y), self._rng)
            fake = Synthetic(self.backbone.sample(noise, self.tensors.semantics[self._step_y]), self._step_y)
            d3, parts = self.student.loss(batches[-1], fake, self.teacher)
            total = total + d3
            losses |= parts
        self._generator_optimizer.zero_grad()
        self._student_optimizer.zero_grad()
        torch.autograd.backward(total)
        self._generator_optimizer.step()
        self._student_optimizer.step()
        return losses

    def _draw_batch(self) -> Batch:
        data = self.tensors
        n = len(data.train_x)
        rows = torch.randperm(n, generator=self._rng, device=self._rng.device)[: self.config.batch_size]
        y = data.train_y[rows]
        return Batch(data.train_x[rows], y, data.semantics[y], self._table.z[rows], self._table.v[rows])

    def _unseen_labels(self, n_per_class: int) -> Tensor:
        device = self.tensors.train_x.device
        classes = torch.arange(self.sizes.n_seen, self.sizes.n_classes, device=device)
        return classes.repeat_interleave(n_per_class)

    def _add_losses(self, losses: Mapping[str, Tensor]) -> None:
        for name, value in losses.items():
            self._loss_sums[name] = self._loss_sums[name] + value if name in self._loss_sums else value
        self._losses_since += 1

    def _take_losses(self) -> dict[str, float]:
        """The mean losses since the last call: the one point where the step's numbers leave the device."""
        names = list(self._loss_sums)
        if not names:
            return {}
        means = (torch.stack(list(self._loss_sums.values())) / self._losses_since).tolist()
        self._loss_sums, self._losses_since = {}, 0
        for name, value in zip(names, means, strict=True):
            if not math.isfinite(value):
                raise DivergedError(f"loss {name}", self.update)
        return dict(zip(names, means, strict=True))

    @torch.no_grad()
    def _scores(self, head: Head, synthetic: Synthetic) -> Scores:
        data = self.tensors
        if head == "student":
            seen, unseen = (self.student.student(x)[1] for x in (data.eval_seen_x, data.eval_unseen_x))
        else:
            embed = self._embedding(head)
            x = torch.cat([embed(data.train_x), embed(synthetic.x)])
            y = torch.cat([data.train_y, synthetic.y])
            classify = train_linear_head(x, y, self.sizes.n_classes, self.config, stream(self.seed, head, self.update))
            seen, unseen = (classify(embed(x)) for x in (data.eval_seen_x, data.eval_unseen_x))
        if not bool(torch.isfinite(seen).all() & torch.isfinite(unseen).all()):
            raise DivergedError(f"a score of head {head}", self.update)
        return Scores(seen, data.eval_seen_y, unseen, data.eval_unseen_y, self.sizes.n_seen)

    def _embedding(self, head: Head) -> Callable[[Tensor], Tensor]:
        if head == "teacher_embedding":
            return self.teacher.embed
        return self.student.student.embed if head == "student_embedding" else lambda x: x

    @torch.no_grad()
    def _diagnostics(self, synthetic: Synthetic) -> dict[str, float]:
        data = self.tensors
        seen, unseen = (
            ood_score(self.teacher(x)[1], self.config.ood_score) for x in (data.eval_seen_x, data.eval_unseen_x)
        )
        return {
            "AUROC": auroc(seen, unseen),
            "FPR95": fpr_at_95(seen, unseen),
            "drift": _drift(data.eval_unseen_x, data.eval_unseen_y, synthetic, self.sizes),
        }


def _drift(x: Tensor, y: Tensor, synthetic: Synthetic, sizes: Sizes) -> float:
    real = _class_means(x, y - sizes.n_seen, sizes.n_unseen)
    fake = _class_means(synthetic.x, synthetic.y - sizes.n_seen, sizes.n_unseen)
    spread = (x - real[y - sizes.n_seen]).norm(dim=1).mean().clamp(min=1e-12)
    return float((real - fake).norm(dim=1).mean() / spread)


def _class_means(x: Tensor, y: Tensor, n_classes: int) -> Tensor:
    sums = x.new_zeros(n_classes, x.shape[1]).index_add_(0, y, x)
    return sums / torch.bincount(y, minlength=n_classes).clamp(min=1)[:, None]
