"""D³GZSL training: teacher, then generator and student together, read by heads at each evaluation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from d3tune.config import Head, TrialConfig
from d3tune.data.tensors import Tensors
from d3tune.method import state
from d3tune.method.adam import Adam
from d3tune.method.closed_form import RidgeAnchor, class_means
from d3tune.method.compiling import compiled
from d3tune.method.distillation import ood_score
from d3tune.method.generators import BackboneEntry
from d3tune.method.generators.base import Backbone, Batch, Drawn, GeneratorConfig, Sizes
from d3tune.method.heads import HeadReader, Spaces
from d3tune.method.metrics import accuracies, auroc, fpr_at_95
from d3tune.method.networks import EmbeddingClassifier, descend
from d3tune.method.randomness import stream
from d3tune.method.student import StudentSide, Synthetic
from d3tune.method.teacher import TeacherTable, held_out_scores, teacher_table, train_teacher
from d3tune.method.trainer import Evaluation, Trainer, fitted


class Training(Trainer):
    """One generative backbone with its teacher and student; see `Trainer`.

    Diagnostics: ``AUROC`` and ``FPR95`` of the teacher's OOD score on the two evaluation sets, and ``drift``, the mean
    distance of the synthetic from the real class means of unseen classes, over the mean distance of a real unseen row
    from its class mean.
    """

    config: GeneratorConfig

    def __init__(
        self,
        tensors: Tensors,
        backbone: BackboneEntry,
        config: GeneratorConfig,
        seed: int,
        compile_losses: bool = False,
    ) -> None:
        """Train the teacher and initialise the rest.

        Args:
            tensors: of a protocol view, all on one device.
            backbone: which generator.
            config: an instance of ``backbone.config``.
            seed: of weights, batches and noise.
            compile_losses: see `d3tune.method.compiling`.
        """
        super().__init__(tensors, config, seed)
        device = tensors.train_x.device
        self.sizes = Sizes(tensors.train_x.shape[1], tensors.semantics.shape[1], tensors.n_seen, tensors.n_unseen)
        self.teacher = self._train_teacher("teacher")
        self._table: TeacherTable = teacher_table(self.teacher, tensors.train_x)
        assert backbone.build is not None, "not a generative backbone"
        self.backbone: Backbone[GeneratorConfig] = backbone.build(
            self.sizes, config, self.teacher, stream(seed, "backbone")
        )
        self.backbone.seen_semantics = tensors.semantics[: tensors.n_seen]
        self._anchors = self._class_anchors()
        self.student = StudentSide(self.sizes, config, self._held_out_scores(), stream(seed, "student"))
        self.student.to(device)
        self._rng = stream(seed, "updates", device=device)
        self._generator_optimizer = Adam(self.backbone.generator_parameters(), config.generator_lr)
        self._student_optimizer = Adam(list(self.student.parameters()), config.student_lr)
        self._step_y = self._unseen_labels(config.n_synthetic_step)
        self._reader = HeadReader(tensors, config, seed)
        # a bound method kept here would be a cycle, and models would wait for the collector
        self._compiled_loss: Callable[..., Any] | None = None
        if compile_losses:
            self._compile(device)

    def evaluate(self, heads: Sequence[str] | None = None, seen_offset: float | None = None) -> Evaluation:
        """See `Trainer.evaluate`."""
        losses = self._take_losses()
        synthetic = self.synthesise(self.config.n_synthetic_final, "evaluation")
        results, read = {}, {}
        for head in heads or self.config.offered_heads:
            scores = self._reader.scores(cast(Head, head), synthetic, self._spaces(), self.update)
            self._require_finite(f"a score of head {head}", scores.seen, scores.unseen)
            self._keep_scores(head, scores)
            results[head], read[head] = accuracies(scores, seen_offset), scores
        return Evaluation(self.update, results, losses, self._diagnostics(synthetic), fitted(read))

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
        return Synthetic(self.backbone.sample_final(noise, self.tensors.semantics[y]), y)

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
        self.update = state.updates_made(tensors)
        self._forget_losses()

    def _modules(self) -> dict[str, torch.nn.Module]:
        return {"teacher": self.teacher, "backbone": self.backbone, "student": self.student}

    def _optimizers(self) -> dict[str, Adam]:
        shared = {"generator": self._generator_optimizer, "student": self._student_optimizer}
        return {**shared, **self.backbone.own_optimizers()}

    def _spaces(self) -> Spaces:
        return Spaces(self.teacher, self.student.student, self.backbone.head_map())

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
        if self.config.uses_d3 and self.config.steps_student_always:
            for batch in batches[: self.backbone.inner_steps]:
                self._step_student_alone(batch)
        drawn = self.backbone.draw(len(batches[-1].y), self._rng)
        noise = self.backbone.draw_noise(len(self._step_y), self._rng) if self.config.uses_d3 else None
        loss = self._compiled_loss or self._joint_loss
        total, parts = loss(batches[-1], drawn, noise)
        losses |= parts
        # the critic's and its kind's weights take part and are not changed
        descend(total, self._generator_optimizer, self._student_optimizer)
        self.backbone.after_update()
        return losses

    def _compile(self, device: torch.device) -> None:
        self._compiled_loss = compiled(self._joint_loss, device)
        self.backbone.compile_losses(lambda loss: compiled(loss, device))

    def _joint_loss(self, batch: Batch, drawn: Drawn, noise: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """L_gen, plus the D³ terms on fakes of the noise where there is some; a function of its arguments."""
        if noise is None:
            return self.backbone.loss_on(batch, drawn)
        total, parts, rows = self.backbone.loss_and_rows(batch, drawn, noise, self._step_y)
        d3, further = self.student.loss(batch, Synthetic(rows, self._step_y), self.teacher)
        return total + d3, parts | further

    def _step_student_alone(self, batch: Batch) -> None:
        """A student step on fakes that carry no gradient to the generator."""
        with torch.no_grad():
            noise = self.backbone.draw_noise(len(self._step_y), self._rng)
            fakes = Synthetic(self.backbone.sample(noise, self.tensors.semantics[self._step_y]), self._step_y)
        loss, _ = self.student.loss(batch, fakes, self.teacher)
        descend(loss, self._student_optimizer)

    def _class_anchors(self) -> Tensor | None:
        """Anchors of all classes (N, X), where the generator models residuals; tells the backbone of them."""
        if self.config.anchor == "none":
            return None
        data = self.tensors
        anchor = RidgeAnchor(data.train_x, data.train_y, data.semantics[: data.n_seen], self.config.anchor_ridge)
        self.backbone.anchor = anchor
        return anchor(data.semantics)

    def _draw_batch(self) -> Batch:
        data = self.tensors
        n = len(data.train_x)
        rows = torch.randperm(n, generator=self._rng, device=self._rng.device)[: self.config.batch_size]
        y = data.train_y[rows]
        x = data.train_x[rows]
        residual = None if self._anchors is None else x - self._anchors[y]
        return Batch(x, y, data.semantics[y], self._table.z[rows], self._table.v[rows], residual, data.semantics)

    def _unseen_labels(self, n_per_class: int) -> Tensor:
        device = self.tensors.train_x.device
        classes = torch.arange(self.sizes.n_seen, self.sizes.n_classes, device=device)
        return classes.repeat_interleave(n_per_class)

    @torch.no_grad()
    def _diagnostics(self, synthetic: Synthetic) -> dict[str, float]:
        data = self.tensors
        seen, unseen = (
            ood_score(self.teacher(x)[1], self.config.ood_score) for x in (data.eval_seen_x, data.eval_unseen_x)
        )
        self._require_finite("the teacher's OOD score", seen, unseen)
        self._keep_ood(f"teacher's {self.config.ood_score}", seen, unseen)
        self._require_finite("a synthetic feature", synthetic.x)
        return {
            "AUROC": auroc(seen, unseen),
            "FPR95": fpr_at_95(seen, unseen),
            "drift": _drift(data.eval_unseen_x, data.eval_unseen_y, synthetic, self.sizes),
        }


def start_training(
    backbone: BackboneEntry, tensors: Tensors, config: TrialConfig, seed: int, compile_losses: bool = False
) -> Trainer:
    """Begin the training of any backbone.

    Args:
        backbone: from `load_backbone`.
        tensors: of a protocol view, all on one device.
        config: an instance of ``backbone.config``.
        seed: of weights, batches and noise.
        compile_losses: of generative backbones, see `d3tune.method.compiling`.
    """
    if backbone.start is not None:
        trainer: Trainer = backbone.start(tensors, config, seed)
        return trainer
    return Training(tensors, backbone, cast(GeneratorConfig, config), seed, compile_losses)


def _drift(x: Tensor, y: Tensor, synthetic: Synthetic, sizes: Sizes) -> float:
    real = class_means(x, y - sizes.n_seen, sizes.n_unseen)
    fake = class_means(synthetic.x, synthetic.y - sizes.n_seen, sizes.n_unseen)
    spread = (x - real[y - sizes.n_seen]).norm(dim=1).mean().clamp(min=1e-12)
    return float((real - fake).norm(dim=1).mean() / spread)
