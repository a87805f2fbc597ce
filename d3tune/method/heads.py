"""Reading one trained model by several heads."""

from dataclasses import dataclass

import torch

from d3tune.config import D3Config, Head
from d3tune.data.tensors import Tensors
from d3tune.method.classifier import lda_head, logit_adjustment, train_linear_head, train_prototype_head
from d3tune.method.closed_form import class_means
from d3tune.method.metrics import Scores, read_scores
from d3tune.method.networks import EmbeddingClassifier
from d3tune.method.parts import Chain, Map, Same
from d3tune.method.randomness import stream
from d3tune.method.student import Synthetic


@dataclass(frozen=True)
class Spaces:
    """The trained parts that heads read.

    Attributes:
        teacher: frozen.
        student: as trained so far.
        backbone: rows (n, X) to the backbone's own space.
    """

    teacher: EmbeddingClassifier
    student: EmbeddingClassifier
    backbone: Map


class HeadReader:
    """Fits heads on real seen and synthetic unseen rows and scores both evaluation sets."""

    def __init__(self, tensors: Tensors, config: D3Config, seed: int) -> None:
        self._tensors, self._config, self._seed = tensors, config, seed

    def scores(self, head: Head, synthetic: Synthetic, spaces: Spaces, update: int) -> Scores:
        """Class scores under one head, a function of its arguments and the seed.

        Args:
            head: which.
            synthetic: rows of every unseen class.
            spaces: the trained parts.
            update: names the random stream.
        """
        data = self._tensors
        score = self._fitted(head, synthetic, spaces, stream(self._seed, head, update))
        with torch.no_grad():
            return read_scores(data, score, self._config.offset_unit)

    def _fitted(self, head: Head, synthetic: Synthetic, spaces: Spaces, rng: torch.Generator) -> Map:
        data, config = self._tensors, self._config
        n_classes = data.n_seen + data.n_unseen
        if head == "student":
            return spaces.student.logit_map()
        if head == "lda":
            means = class_means(synthetic.x, synthetic.y - data.n_seen, data.n_unseen)
            return lda_head(data.train_x, data.train_y, data.n_seen, means, config.lda_shrinkage)
        y = torch.cat([data.train_y, synthetic.y])
        shift = logit_adjustment(y, n_classes, data.n_seen, config)
        if head == "prototype":
            x = torch.cat([data.train_x, synthetic.x])
            return train_prototype_head(x, y, data.semantics, config, rng, shift)
        embed = _embedding(head, spaces)
        with torch.no_grad():
            x = torch.cat([embed(data.train_x), embed(synthetic.x)])
        classify = train_linear_head(x, y, n_classes, config, rng, shift)
        return classify if isinstance(embed, Same) else Chain(embed, classify)


def _embedding(head: Head, spaces: Spaces) -> Map:
    if head == "teacher_embedding":
        return spaces.teacher.embed_map()
    if head == "student_embedding":
        return spaces.student.embed_map()
    return spaces.backbone if head == "backbone_embedding" else Same()
