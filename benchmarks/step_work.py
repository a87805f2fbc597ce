"""The floating-point operations that one update needs, by formula.

Counted are matrix products alone, each as multiplication and addition: a product of (m, k) by (k, n) is 2·m·k·n, its
backward pass as much again for each factor whose gradient the maths needs. Rows that repeat are counted once: a
product with class semantics has as many rows as there are classes in the batch (at most min(rows, classes)), one with
a noise level as many as there are levels. The frozen teacher's outputs on training rows are counted as known; those on
synthetic rows are not. The gradient penalty is counted in closed form (∇ₓD = W_xᵀ(w₂ ⊙ slope): one product and its two
gradients, no pass at the interpolates), the class comparator as W_h h and W_a a apart, not for each pair. Element-wise
work, optimisers, reductions and L1 distances are not counted.

Symbols: B batch, M = N_u · n_synthetic_step, S critic steps, X features, A semantics, Z noise, H hidden width, E
embedding of teacher and student, N = N_s + N_u classes, d OOD embedding.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Widths:
    """Every number that the formulas read; those of a backbone that is not meant are not read."""

    batch: int
    n_features: int
    n_semantics: int
    n_seen: int
    n_unseen: int
    n_synthetic_step: int
    noise: int
    hidden: int
    embed: int
    ood_embed: int
    critic_steps: int = 0
    contrast: int = 0
    projection: int = 0
    relation: int = 0
    levels: int = 0

    @property
    def synthetic(self) -> int:
        """M."""
        return self.n_unseen * self.n_synthetic_step

    def classes(self, rows: int, of: int) -> int:
        """The most classes, among ``of``, that so many rows can have."""
        return min(rows, of)


def product(m: int, k: int, n: int, gradients: int = 0) -> int:
    """(m, k) by (k, n), forward, and backward for so many of its two factors."""
    return 2 * m * k * n * (1 + gradients)


def generator(w: Widths, rows: int, classes: int, *, trained: bool, latent_gradient: bool = False) -> int:
    """[noise; a] → H → X for so many rows of so many classes.

    Forward rows·Z·H + classes·A·H + rows·H·X; trained: the weights' gradients of all three, the gradient to the hidden
    layer, and to the noise where it is a latent.
    """
    first = product(rows, w.noise, w.hidden, trained + latent_gradient)
    semantics = product(classes, w.n_semantics, w.hidden, int(trained))
    return first + semantics + product(rows, w.hidden, w.n_features, 2 * trained)


def distillation(w: Widths) -> int:
    """The four D³ terms on B real and M synthetic rows, synthesis not included.

    Student: E_s forward and weights on B + M rows, its input's gradient on the M; C_s, H forward and both gradients.
    Teacher: forward and input gradient on the M. Pairs: B·E·B with the student's gradient, (B + M)·d·(B + M) with both.
    """
    rows, n_classes = w.batch + w.synthetic, w.n_seen + w.n_unseen
    student = product(rows, w.n_features, w.embed, 1) + product(w.synthetic, w.n_features, w.embed)
    heads = product(rows, w.embed, n_classes, 2) + product(rows, n_classes, w.ood_embed, 2)
    pairs = product(w.batch, w.embed, w.batch, 1) + product(rows, w.ood_embed, rows, 2)
    return student + heads + pairs + teacher(w, w.synthetic)


def teacher(w: Widths, rows: int) -> int:
    """The frozen teacher on synthetic rows: forward and the input's gradient."""
    return product(rows, w.n_features, w.embed, 1) + product(rows, w.embed, w.n_seen, 1)


def critic_step(w: Widths) -> int:
    """Critic: hidden layer on 2B rows of features and B of semantics, no input gradient; output layer; penalty."""
    hidden = product(2 * w.batch, w.n_features, w.hidden, 1)
    semantics = product(w.classes(w.batch, w.n_seen), w.n_semantics, w.hidden, 1)
    penalty = product(w.batch, w.hidden, w.n_features, 2)
    return hidden + semantics + product(2 * w.batch, w.hidden, 1, 2) + penalty


def gan(w: Widths) -> int:
    """One update of ``gan``.

    S·(fakes of B rows + a critic step) + generator forward and backward on B + M rows + critic forward and feature
    gradient on B rows + teacher on B rows + the D³ terms.
    """
    seen, unseen = w.classes(w.batch, w.n_seen), w.classes(w.synthetic, w.n_unseen)
    fakes = w.critic_steps * w.batch
    # the generator does not change before its own step: one table of classes serves all of its rows
    table = w.classes(fakes + w.batch, w.n_seen) - seen
    synthesis = generator(w, fakes, table, trained=False)
    own = generator(w, w.batch + w.synthetic, seen + unseen, trained=True)
    value = product(w.batch, w.n_features, w.hidden, 1) + product(seen, w.n_semantics, w.hidden)
    value += product(w.batch, w.hidden, 1, 1)
    return synthesis + w.critic_steps * critic_step(w) + own + value + teacher(w, w.batch) + distillation(w)


def cegan(w: Widths) -> int:
    """One update of ``cegan``: that of ``gan``, and the contrasts.

    Each critic step, on B real rows: embedding (no input gradient), projection, comparator's W_h and W_a, z zᵀ. The
    generator's step: the same on fakes with gradients to the input alone, and z of the real rows, forward.
    """
    embedded = (w.batch, w.n_features, w.contrast)
    projected = (w.batch, w.contrast, w.projection)
    compared = (w.batch, w.contrast, w.relation)
    classes = (w.n_seen, w.n_semantics, w.relation)
    step = product(*embedded, 1) + product(*projected, 2) + product(*compared, 2) + product(*classes, 1)
    step += product(w.batch, w.projection, w.batch, 1)
    own = product(*embedded, 1) + product(*projected, 1) + product(*compared, 1) + product(*classes)
    own += product(*embedded) + product(*projected) + product(2 * w.batch, w.projection, 2 * w.batch, 1)
    return gan(w) + w.critic_steps * step + own


def vae(w: Widths) -> int:
    """One update of ``vae``: encoder (no input gradient), decoder on B latents and M synthetic rows, the D³ terms."""
    seen, unseen = w.classes(w.batch, w.n_seen), w.classes(w.synthetic, w.n_unseen)
    encoder = product(w.batch, w.n_features, w.hidden, 1) + product(seen, w.n_semantics, w.hidden, 1)
    encoder += product(w.batch, w.hidden, 2 * w.noise, 2)
    decoder = generator(w, w.batch, seen, trained=True, latent_gradient=True)
    return encoder + decoder + generator(w, w.synthetic, unseen, trained=True) + distillation(w)


def diffusion(w: Widths) -> int:
    """One update of ``diffusion``: denoiser on B noisy and M synthetic rows, the D³ terms.

    Input layer (no input gradient), middle and output layer on all rows; FiLM once a class; the time network once a
    level, of which the B rows have at most T and the synthetic ones one of these.
    """
    rows, levels = w.batch + w.synthetic, min(w.batch, w.levels)
    classes = w.classes(w.batch, w.n_seen) + w.classes(w.synthetic, w.n_unseen)
    layers = product(rows, w.n_features, w.hidden, 1) + product(rows, w.hidden, w.hidden, 2)
    layers += product(rows, w.hidden, w.n_features, 2)
    time = product(levels, 64, w.hidden, 1) + product(levels, w.hidden, w.hidden, 2)
    return layers + time + product(classes, w.n_semantics, 2 * w.hidden, 1) + distillation(w)


NEEDED = {"gan": gan, "cegan": cegan, "vae": vae, "diffusion": diffusion}
