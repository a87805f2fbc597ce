"""d3tune computes what the plain reference computes: same weights, batches and noise, same losses and gradients."""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import benchmarks.reference
from benchmarks.reference import cegan, d3, diffusion, gan, head, trial, vae
from benchmarks.reference.networks import EmbeddingClassifier
from d3tune.config import D3Config
from d3tune.data.scaling import Scaler
from d3tune.data.tensors import Tensors
from d3tune.method import distillation
from d3tune.method.adam import Adam
from d3tune.method.classifier import train_linear_head
from d3tune.method.generators import BackboneEntry, load_backbone
from d3tune.method.generators.base import GeneratorConfig
from d3tune.method.generators.diffusion import signal_levels
from d3tune.method.metrics import accuracies, read_scores
from d3tune.method.training import Training

N_SEEN, N_UNSEEN, WIDTH, SEMANTICS, ROWS = 6, 3, 11, 5, 40
TRIALS: dict[str, tuple[type[trial.Trial[Any, Any]], type[trial.Settings]]] = {
    "gan": (gan.GanTrial, gan.GanSettings),
    "cegan": (cegan.CeganTrial, cegan.CeganSettings),
    "vae": (vae.VaeTrial, vae.VaeSettings),
    "diffusion": (diffusion.DiffusionTrial, diffusion.DiffusionSettings),
}
# names in the reference and in d3tune's state, the more special ones first
NAMES = {
    "teacher.embedding": "teacher/embed_layer",
    "teacher.classifier": "teacher/logit_layer",
    "side.student.embedding": "student/student.embed_layer",
    "side.student.classifier": "student/student.logit_layer",
    "side": "student/",
    "embedding.embedding": "backbone/embedding.embed",
    "embedding.projection": "backbone/embedding.project",
    "denoiser.time_hidden": "backbone/denoiser.time.0",
    "denoiser.time_output": "backbone/denoiser.time.2",
    "average.time_hidden": "backbone/average.time.0",
    "average.time_output": "backbone/average.time.2",
    "": "backbone/",
}
LARGE = 0.1
# 0 but for rounding: cross-entropy does not see what is added to all scores alike
NO_GRADIENT = "comparator.output.bias"
D3_ON = {
    "cls_weight": 0.7,
    "embedding_weight": 0.5,
    "label_weight": 0.3,
    "ood_weight": 0.4,
    "temperature": 2.0,
    "ood_embed_dim": 4,
    "generator_d3_weight": 0.5,
    "n_synthetic_step": 2,
}
SMALL = {
    "batch_size": 8,
    "hidden_dim": 16,
    "noise_dim": 4,
    "embed_dim": 9,
    "teacher_epochs": 10,
    "teacher_lr": 0.03,
    "teacher_batch_size": 16,
    "generator_lr": 1e-3,
    "student_lr": 1e-3,
}
CONTRAST = {"contrast_dim": 10, "projection_dim": 6, "relation_dim": 7, "instance_weight": 0.6, "class_weight": 0.8}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gan": ("gan", {"critic_steps": 3, "gcls_weight": 0.5}),
    "gan, plain pair means": ("gan", {"critic_steps": 2, "pair_balance": False, "ood_embed_dim": 2}),
    "gan, other OOD forms": ("gan", {"critic_steps": 1, "ood_score": "entropy", "ood_input": "logprob"}),
    "gan, no gradient of D3": ("gan", {"generator_d3_weight": 0.0, "embed_activation": "identity"}),
    "cegan": ("cegan", {**CONTRAST, "critic_steps": 2, "gcls_weight": 0.5}),
    "vae": ("vae", {"vae_beta": 0.7, "vae_warmup": 3}),
    "vae, bce": ("vae", {"reconstruction": "bce", "output_activation": "sigmoid", "vae_warmup": 0}),
    "diffusion": ("diffusion", {"diffusion_steps": 4}),
    "diffusion, all options": (
        "diffusion",
        {"diffusion_schedule": "vp", "guidance": 0.5, "semantics_noise": 0.3, "min_snr": True, "ood_score": "energy"},
    ),
}


@pytest.fixture
def float64() -> Iterator[None]:
    """Tensors that are made without a type are of double precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made_up_data() -> Tensors:
    rng = seeded(0)

    def rows(n: int, first: int, classes: int) -> tuple[Tensor, Tensor]:
        y = torch.cat([torch.arange(classes), torch.randint(classes, (n - classes,), generator=rng)])
        return torch.rand(n, WIDTH, generator=rng), first + y

    train_x, train_y = rows(ROWS, 0, N_SEEN)
    seen_x, seen_y = rows(21, 0, N_SEEN)
    unseen_x, unseen_y = rows(17, N_SEEN, N_UNSEEN)
    return Tensors(
        train_x=train_x,
        train_y=train_y,
        eval_seen_x=seen_x,
        eval_seen_y=seen_y,
        eval_unseen_x=unseen_x,
        eval_unseen_y=unseen_y,
        semantics=torch.randn(N_SEEN + N_UNSEEN, SEMANTICS, generator=rng),
        n_seen=N_SEEN,
        n_unseen=N_UNSEEN,
        class_ids=torch.arange(N_SEEN + N_UNSEEN),
        scaler=Scaler(np.zeros(WIDTH, np.float32), np.ones(WIDTH, np.float32)),
    )


@dataclass
class Pair:
    """d3tune's training and the reference's, of the same configuration."""

    training: Training
    reference: trial.Trial[Any, Any]

    def __post_init__(self) -> None:
        """Keep what each step uses: no gradient is there afterwards."""
        self._gradients: dict[nn.Parameter, Tensor] = {}
        for optimizer in self.training._optimizers().values():
            optimizer.step = partial(self._keep, optimizer, optimizer.step)  # type: ignore[method-assign]

    def gradient(self, name: str) -> Tensor:
        """The gradient of the last step in d3tune of a name in the reference."""
        part, _, path = d3tune_name(name).partition("/")
        modules = {"backbone": self.training.backbone, "student": self.training.student}
        parameter = modules[part].get_parameter(path)
        assert parameter in self._gradients, f"{name} has no gradient in d3tune"
        return self._gradients[parameter]

    def _keep(self, optimizer: Adam, step: Callable[[], None]) -> None:
        for parameter in optimizer.parameters:
            if parameter.grad is not None:
                self._gradients[parameter] = parameter.grad.clone()
        step()


def make_pair(backbone: str, options: dict[str, Any]) -> Pair:
    """Both trainings with d3tune's weights, of the precision that is the default."""
    entry = load_backbone(backbone)
    config = entry.config.model_validate({**SMALL, **D3_ON, **options})
    assert isinstance(config, GeneratorConfig)
    training = make_training(entry, config)
    data, state = training.tensors, training.state_dict()
    trial_class, settings_class = TRIALS[backbone]
    shared = {field.name: getattr(config, field.name) for field in fields(settings_class)}
    settings = settings_class(**shared | {"output_activation": config.resolved_activation})
    teacher = EmbeddingClassifier(WIDTH, config.embed_dim, N_SEEN, config.embed_activation)
    rows = trial.Data(data.train_x, data.train_y, data.semantics, N_SEEN, N_UNSEEN)
    reference = trial_class(rows, settings, teacher)
    reference.load_state_dict({name: state[d3tune_name(name)] for name in reference.state_dict()})
    return Pair(training, reference)


def make_training(entry: BackboneEntry, config: GeneratorConfig) -> Training:
    """d3tune's, begun in single precision, and carried over to double precision where that is the default."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    data = made_up_data()
    training = Training(data, entry, config, seed=3)
    torch.set_default_dtype(dtype)
    enlarge(training)
    if dtype == torch.float32:
        return training
    state = training.state_dict()
    training.tensors = replace(data, train_x=data.train_x.to(dtype), semantics=data.semantics.to(dtype))
    training.backbone.seen_semantics = training.tensors.semantics[:N_SEEN]
    for module in (training.teacher, training.backbone, training.student):
        module.to(dtype)
    training.load_state_dict(state)
    return training


@torch.no_grad()
def enlarge(training: Training) -> None:
    """Larger first weights: with small ones most losses are small differences of large numbers."""
    for module in (training.backbone, training.student):
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter.mul_(LARGE / parameter.std())


def d3tune_name(name: str) -> str:
    """The name in d3tune's state of a name in the reference's."""
    ours = next(prefix for prefix in NAMES if name.startswith(prefix))
    rest = name.removeprefix(ours)
    theirs = NAMES[ours]
    return theirs + (rest.removeprefix(".") if theirs.endswith("/") else rest)


class Tape:
    """What torch's random functions gave, in order, by function and shape."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.drawn: list[tuple[str, Tensor]] = []
        for name in ("randn", "rand", "randint", "randperm"):
            monkeypatch.setattr(torch, name, self._recording(name, getattr(torch, name)))

    def take(self, name: str, *shape: int) -> Tensor:
        """The earliest tensor of that shape which nobody took."""
        at = next(i for i, (made_by, value) in enumerate(self.drawn) if (made_by, tuple(value.shape)) == (name, shape))
        return self.drawn.pop(at)[1]

    def _recording(self, name: str, draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def drawing(*args: Any, **kwargs: Any) -> Tensor:
            value = draw(*args, **kwargs)
            self.drawn.append((name, value.clone()))
            return value

        return drawing


def batches(tape: Tape, reference: trial.Trial[Any, Any]) -> list[trial.Batch]:
    data, size = reference.data, reference.settings.batch_size
    rows = [tape.take("randperm", ROWS)[:size] for _ in range(reference.batches_per_update)]
    return [trial.Batch(data.x[index], data.y[index], data.semantics[data.y[index]]) for index in rows]


def draws(tape: Tape, reference: trial.Trial[Any, Any]) -> gan.GanDraws | vae.VaeDraws | diffusion.DiffusionDraws:
    """The noise of d3tune's update as the reference reads it."""
    settings = reference.settings
    size, width, synthetic = settings.batch_size, settings.noise_dim, N_UNSEEN * settings.n_synthetic_step
    if isinstance(settings, gan.GanSettings):
        steps = settings.critic_steps
        critic_noise = torch.split(tape.take("randn", steps * size, width), size)
        mix = [tape.take("rand", size, 1) for _ in range(steps)]
        return gan.GanDraws(critic_noise, mix, tape.take("randn", size, width), tape.take("randn", synthetic, width))
    if isinstance(settings, vae.VaeSettings):
        return vae.VaeDraws(tape.take("randn", size, width), tape.take("randn", synthetic, width))
    assert isinstance(settings, diffusion.DiffusionSettings)
    return diffusion.DiffusionDraws(
        level=tape.take("randint", size),
        epsilon=tape.take("randn", size, WIDTH),
        semantics_noise=tape.take("randn", size, SEMANTICS) if settings.semantics_noise > 0 else torch.empty(0),
        drop=tape.take("rand", size, 1) if settings.guidance > 0 else torch.empty(0),
        synthetic_noise=tape.take("randn", synthetic, WIDTH),
    )


def update_both(pair: Pair, tape: Tape) -> tuple[trial.Losses, trial.Losses]:
    """One update of each; losses of d3tune and of the reference."""
    tape.drawn.clear()
    found = pair.training._step()
    expected = pair.reference.update(batches(tape, pair.reference), draws(tape, pair.reference))
    assert tape.drawn == [], "the reference did not read all noise"
    return found, expected


def assert_near(found: Tensor, expected: Tensor, tolerance: float, what: str, floor: float = 1e-5) -> None:
    """The difference's length is at most the tolerance times the expected one's, or times ``floor`` if that is more."""
    difference, size = float((found - expected).detach().norm()), float(expected.detach().norm())
    assert difference <= tolerance * max(size, floor), f"{what}: {difference / max(size, 1e-300):.1e}"


def assert_same_losses_and_gradients(pair: Pair, tape: Tape, tolerance: float) -> None:
    found, expected = update_both(pair, tape)
    assert found.keys() == expected.keys()
    for name in expected:
        assert_near(found[name], expected[name], tolerance, f"loss {name}")
    trained = dict(pair.reference.named_parameters())
    graded = [name for name, parameter in trained.items() if parameter.grad is not None]
    assert any(name.startswith("side.gates") for name in graded)
    for name in graded:
        gradient = trained[name].grad
        assert gradient is not None
        floor = 1.0 if name == NO_GRADIENT else 1e-5
        assert_near(pair.gradient(name), gradient, tolerance, f"gradient of {name}", floor)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", CASES)
def test_updates_in_double_precision_are_the_same(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses, gradients and the weights after three updates.

    The teacher's table, the closed-form penalty, pairs by one product, the L1 form of the comparator and fused Adam
    all take part in these.
    """
    pair = make_pair(*CASES[case])
    tape = Tape(monkeypatch)
    for _ in range(3):
        assert_same_losses_and_gradients(pair, tape, 1e-10)
    after = pair.training.state_dict()
    for name, value in pair.reference.state_dict().items():
        assert_near(after[d3tune_name(name)], value, 1e-9, name, floor=1)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", CASES)
def test_losses_stay_the_same_over_twenty_updates(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pair, tape = make_pair(*CASES[case]), Tape(monkeypatch)
    for update in range(20):
        found, expected = update_both(pair, tape)
        for name in expected:
            assert_near(found[name], expected[name], 1e-5, f"loss {name} of update {update}")


@pytest.mark.parametrize("case", CASES)
def test_updates_in_single_precision_are_the_same(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One update with one critic step: Adam's first steps make full steps of rounding errors of gradients near 0."""
    backbone, options = CASES[case]
    steps = {"critic_steps": 1} if "gan" in backbone else {}
    assert_same_losses_and_gradients(make_pair(backbone, options | steps), Tape(monkeypatch), 1e-5)


TERMS = {
    "embedding": (distillation.embedding_loss, d3.embedding_loss, (9, 9)),
    "outlier": (distillation.outlier_loss, d3.outlier_loss, (4, 4)),
    "label": (distillation.label_loss, d3.label_loss, (N_SEEN, N_SEEN + N_UNSEEN)),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("option", [True, False])
@pytest.mark.parametrize("term", TERMS)
def test_each_d3_term_is_the_same(term: str, option: bool, dtype: torch.dtype, tolerance: float) -> None:
    ours, plain, widths = TERMS[term]
    labels = torch.randint(4, (10,), generator=seeded(1))
    arguments = (2.5 if option else 1.0,) if term == "label" else (labels, option)
    results = []
    for function in (ours, plain):
        given = [torch.randn(10, width, generator=seeded(width), dtype=dtype).requires_grad_() for width in widths]
        loss = function(*given, *arguments)  # type: ignore[operator]
        results.append([loss, *torch.autograd.grad(loss, given)])
    for found, expected in zip(*results, strict=True):
        assert_near(found, expected, tolerance, term)


@pytest.mark.parametrize("kind", ["msp", "energy", "maxlogit", "entropy"])
def test_each_ood_score_is_the_same(kind: d3.OodScore) -> None:
    logits = 3 * torch.randn(12, N_SEEN, generator=seeded(2), dtype=torch.float64)
    assert_near(distillation.ood_score(logits, kind), d3.ood_score(logits, kind), 1e-12, kind)


@pytest.mark.parametrize("dim", [2, 6])
def test_gates_start_alike(dim: int) -> None:
    scores = torch.randn(30, generator=seeded(3))
    ours, plain = distillation.OodGates(dim, scores), d3.Gates(dim, scores)
    assert_near(ours(scores), plain(scores), 1e-6, "gates")


@pytest.mark.parametrize("schedule", ["cosine", "vp"])
@pytest.mark.parametrize("steps", [1, 4, 100])
def test_noise_schedules_are_the_same(steps: int, schedule: Any) -> None:
    assert_near(signal_levels(steps, schedule), diffusion.signal_levels(steps, schedule), 1e-6, schedule)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", ["gan", "cegan", "vae", "diffusion", "diffusion, all options"])
def test_final_rows_are_the_same(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_pair(*CASES[case])
    update_both(pair, Tape(monkeypatch))
    backbone, data = pair.training.backbone, pair.reference.data
    noise = torch.randn(N_UNSEEN * 4, backbone.noise_dim, generator=seeded(4))
    x, y = head.final_rows(pair.reference, noise, 4)
    with torch.no_grad():
        found = backbone.sample_final(noise, data.semantics[y[ROWS:]])
    assert_near(found, x[ROWS:], 1e-10, "synthetic rows")
    assert torch.equal(x[:ROWS], data.x)
    assert torch.equal(y[:ROWS], data.y)
    assert y[ROWS:].tolist() == [label for label in data.unseen for _ in range(4)]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("offset", [None, 0.0, 0.4])
def test_final_head_and_its_accuracies_are_the_same(offset: float | None) -> None:
    data = made_up_data()
    x = torch.cat([data.train_x, torch.rand(12, WIDTH, generator=seeded(6))])
    y = torch.cat([data.train_y, N_SEEN + torch.arange(12) % N_UNSEEN])
    config = D3Config(head_epochs=6, head_batch_size=10, head_lr=1e-2)
    rng = seeded(7)
    orders = [torch.randperm(len(x), generator=rng) for _ in range(config.head_epochs)]
    plain = head.train_softmax(x, y, data.n_classes, orders, config.head_batch_size, config.head_lr)
    ours = train_linear_head(x, y, data.n_classes, config, seeded(7))
    tests = head.TestSets(data.eval_seen_x, data.eval_seen_y, data.eval_unseen_x, data.eval_unseen_y)
    assert_near(ours(tests.seen_x), plain(tests.seen_x), 1e-10, "scores")
    found, expected = accuracies(read_scores(data, ours), offset), head.evaluate(plain, tests, N_SEEN, offset)
    for name in ("U", "S", "H", "T1"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name)), name
    assert found.seen_offset == pytest.approx(expected.offset)
    assert 0 < expected.S < 1


def test_reference_imports_nothing_of_d3tune() -> None:
    modules = sorted(Path(benchmarks.reference.__path__[0]).glob("*.py"))
    assert len(modules) > 5
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "d3tune" for name in names), path.name
