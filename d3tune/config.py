"""The one definition of every hyper-parameter: its name, unit, legal bounds and default.

The values are hyper-parameters of the method, not of a search: intervals to search in are in ``search_spaces/``.
A backbone extends `TrialConfig` with its own (see ``d3tune.method.generators``).
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from d3tune.errors import UsageError, meant, nearest

Head = Literal["softmax", "student", "student_embedding", "teacher_embedding", "backbone_embedding", "lda", "prototype"]
Device = Literal["cpu", "cuda"]
OodScore = Literal["msp", "energy", "maxlogit", "entropy"]


class TrialConfig(BaseModel):
    """Hyper-parameters that every backbone shares: what the models see, and the budget."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    # what the models see
    feature_scaling: Literal["minmax", "standard"] = Field(
        "minmax", description="features scaled to [0, 1], or to mean 0 and sd 1, on the training rows"
    )
    center_semantics: bool = Field(False, description="subtract the seen classes' mean semantics")
    semantics_scale: float = Field(1.0, gt=0, le=1e3, description="norm of each class's semantics vector")

    # how class scores are read
    offset_unit: Literal["score", "margin_sd"] = Field(
        "score", description="unit of the seen-class offset: scores, or the sd of the training rows' seen-unseen margin"
    )

    # budget
    updates: int = Field(600, ge=1, le=10_000_000, description="updates of the full budget")
    evaluations: int = Field(10, ge=1, le=1000, description="evaluations in the full budget, evenly spaced")

    @model_validator(mode="after")
    def _evaluations_fit(self) -> "TrialConfig":
        if self.evaluations > self.updates:
            raise ValueError(f"evaluations ({self.evaluations}) must not exceed updates ({self.updates})")
        return self

    @property
    def offered_heads(self) -> tuple[str, ...]:
        """The heads that a training of this configuration is read by: one, unless a backbone says otherwise."""
        return ("model",)

    @property
    def evaluation_updates(self) -> tuple[int, ...]:
        """The update counts, rising to ``updates``, at which the model is evaluated."""
        return tuple(round(self.updates * (k + 1) / self.evaluations) for k in range(self.evaluations))


class D3Config(TrialConfig):
    """Hyper-parameters of D³GZSL with any generator; defaults are the published ones unless said otherwise."""

    batch_size: int = Field(64, ge=2, le=65536, description="real seen rows per step")

    # teacher and student
    embed_dim: int = Field(256, ge=1, le=65536, description="E: embedding size of teacher and student")
    embed_activation: Literal["relu", "identity"] = Field("relu", description="after the embedding layer")
    teacher_lr: float = Field(1e-4, gt=0, le=1, description="Adam learning rate of the teacher")
    teacher_epochs: int = Field(30, ge=1, le=10_000, description="passes over the training rows")
    teacher_batch_size: int = Field(128, ge=1, le=65536, description="rows per teacher step")
    student_lr: float = Field(1e-4, gt=0, le=1, description="Adam learning rate of student, H and S")

    # the objective L = L_gen + w_cls·L_cls + w_be·L_be + w_kl·L_kl + w_od·L_od
    cls_weight: float = Field(1e-4, ge=0, le=1e6, description="w_cls, student classification")
    embedding_weight: float = Field(1e-4, ge=0, le=1e6, description="w_be, distillation of embedding pairs")
    label_weight: float = Field(1e-4, ge=0, le=1e6, description="w_kl, distillation of logits")
    ood_weight: float = Field(1e-4, ge=0, le=1e6, description="w_od, out-of-distribution batch distillation")
    temperature: float = Field(1.0, gt=0, le=1e3, description="T of label distillation")
    ood_embed_dim: int = Field(2, ge=2, le=1024, description="d: size of the OOD embedding, even")
    ood_score: OodScore = Field("msp", description="O: the teacher's OOD score")
    ood_input: Literal["prob", "logprob"] = Field("prob", description="what H reads of the student's logits")
    pair_balance: bool = Field(True, description="half the pair loss on positives, half on negatives")
    generator_d3_weight: float = Field(
        1.0, ge=0, le=1e6, description="scales the D³ terms' gradient into the generator"
    )
    student_steps: Literal["generator", "every"] = Field(
        "generator", description="student steps with the generator, or at each critic step too"
    )
    fidelity: Literal["reconstructed", "official"] = Field(
        "reconstructed", description="D³ terms by the figure, or as the authors' code computes them"
    )
    anchor: Literal["none", "ridge"] = Field(
        "none", description="whether the generator models the residual around kernel-ridge class means"
    )
    anchor_ridge: float = Field(0.01, gt=0, le=1e4, description="ridge of these class means")
    n_synthetic_step: int = Field(2, ge=1, le=10_000, description="synthetic rows per unseen class and step")

    # heads
    heads: tuple[Head, ...] = Field(
        ("softmax", "student", "student_embedding", "teacher_embedding"),
        min_length=1,
        description="the classifiers that read the trained parts; the best on validation counts",
    )
    n_synthetic_final: int = Field(300, ge=1, le=100_000, description="synthetic rows per unseen class for a head")
    head_lr: float = Field(1e-3, gt=0, le=1, description="Adam learning rate of a linear head")
    head_epochs: int = Field(25, ge=1, le=10_000, description="passes over a head's training rows")
    head_batch_size: int = Field(256, ge=1, le=65536, description="rows per step of a linear head")
    logit_prior: bool = Field(False, description="shift a head's training logits by the log class priors")
    unseen_shift: float = Field(0.0, ge=-100, le=100, description="added to unseen training logits of a head")
    lda_shrinkage: float = Field(0.5, ge=0, le=1, description="of the lda head's covariance to its diagonal")
    prototype_hidden: int = Field(1024, ge=1, le=65536, description="hidden width of the prototype head")
    cosine_scale: float = Field(20.0, gt=0, le=1e3, description="scale of cosine logits")

    @model_validator(mode="after")
    def _consistent(self) -> "D3Config":
        if self.ood_embed_dim % 2:
            raise ValueError(f"ood_embed_dim must be even (gates and their complements), not {self.ood_embed_dim}")
        if len(set(self.heads)) != len(self.heads):
            raise ValueError(f"heads names one head twice: {', '.join(self.heads)}")
        if not self.offered_heads:
            raise ValueError("no head is left: student heads need cls_weight, embedding_weight or label_weight above 0")
        return self

    @property
    def steps_student_always(self) -> bool:
        """Whether the student also steps at each critic step; the authors' code does."""
        return self.student_steps == "every" or self.fidelity == "official"

    @property
    def reads_log_probabilities(self) -> bool:
        """Whether H reads log-softmax; the authors' code does."""
        return self.ood_input == "logprob" or self.fidelity == "official"

    @property
    def uses_d3(self) -> bool:
        """Whether any D³ term is on, so that a student is trained."""
        return self.trains_student or self.ood_weight > 0

    @property
    def trains_student(self) -> bool:
        """Whether a term trains the student itself (L_od alone does not make a classifier of it)."""
        return max(self.cls_weight, self.embedding_weight, self.label_weight) > 0

    @property
    def offered_heads(self) -> tuple[str, ...]:
        """The heads that this configuration trains: the student's only where the student is trained."""
        return tuple(head for head in self.heads if self.trains_student or not head.startswith("student"))


Sampler = Literal["auto", "tpe", "gp", "cmaes", "random"]
Pruner = Literal["auto", "asha", "hyperband", "none"]
SelectionProtocol = Literal["validation", "published"]
Objective = Literal["H", "H_raw", "AUSUC"]
Aim = Literal["H", "H_raw", "AUSUC", "S", "U", "T1", "seconds"]
RELATION = ">=|<="


def metric_prefix(protocol: SelectionProtocol) -> str:
    """``val`` or ``published``: a number chosen on the test set never carries the name of one that was not."""
    return "val" if protocol == "validation" else "published"


class SearchConfig(BaseModel):
    """What a search is. A change of any of these makes it another search, in another run directory."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str = Field(description="its name, e.g. flo or hanzi/0")
    dataset_hash: str = Field(description="SHA-256 of its content, splits included")
    semantics: str = Field(description="id of the class semantics, e.g. att312")
    features: str = Field(description="feature tag, e.g. res101")
    backbone: str
    objective: Objective = Field("H", description="the searched quantity, on the selecting protocol")
    protocol: SelectionProtocol = Field(
        "validation", description="what selects; published is the best test epoch, as most public code does"
    )
    val_split: int = Field(0, ge=0, description="which draw of pseudo-unseen classes")
    val_splits: int = Field(1, ge=1, le=100, description="draws over which the objective is averaged")
    seed: int = Field(0, ge=0, lt=2**31, description="of suggestions and trainings; never of splits")
    sampler: Sampler = "auto"
    pruner: Pruner = "auto"
    aims: tuple[Aim, ...] = Field((), max_length=2, description="two that are optimised together; none: the objective")
    constraints: tuple[Annotated[str, Field(pattern=rf"^\w+({RELATION})[\d.e+-]+$")], ...] = Field(
        (), description="what must hold of a winner, e.g. S>=0.5"
    )

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what a search does not use, so that it has the name and the record that it always had."""
        return {key: value for key, value in plain(self).items() if value or key not in ("aims", "constraints")}

    @property
    def compares_by_value(self) -> bool:
        """Whether the objective alone says which of two trials is better, so that one may be pruned by it."""
        return not self.aims and not self.constraints

    @property
    def searched_metric(self) -> str:
        """The objective's full name, e.g. ``val/H``."""
        return f"{metric_prefix(self.protocol)}/{self.objective}"

    @property
    def best_metric(self) -> str:
        """The name of the best value so far, e.g. ``val/best_H``."""
        return f"{metric_prefix(self.protocol)}/best_{self.objective}"

    @property
    def splits(self) -> tuple[int, ...]:
        """The validation draws that every trial is trained on."""
        return tuple(range(self.val_split, self.val_split + self.val_splits))


class Resources(BaseModel):
    """What a search may use; may differ from one resumption to the next.

    Attributes:
        cpus_per_trial: CPU cores, which is also the trial's torch threads.
        gpus_per_trial: GPUs, fractions allowed.
        concurrency: most trials at once; None = as many as fit.
        executor: ``ray``, or ``local``: one trial after another in this process.
        address: a Ray cluster to join; None starts a private one.
        compile: whether torch compiles the losses of generative backbones; for GPUs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpus_per_trial: float = Field(1.0, gt=0, le=4096)
    gpus_per_trial: float = Field(0.0, ge=0, le=64)
    concurrency: int | None = Field(None, ge=1, le=100_000)
    executor: Literal["ray", "local"] = "ray"
    address: str | None = None
    compile: bool = False

    @property
    def threads(self) -> int:
        """Torch threads of a trial."""
        return max(1, int(self.cpus_per_trial))

    @property
    def device(self) -> Device:
        """Where a trial trains: on a GPU exactly where it was given one."""
        return "cuda" if self.gpus_per_trial > 0 else "cpu"


ConfigT = TypeVar("ConfigT", bound=BaseModel)


def validated(model: type[ConfigT], values: dict[str, Any], where: str) -> ConfigT:
    """Build a configuration from what a user wrote.

    Args:
        model: the configuration's class.
        values: names and values.
        where: what to name in the message, e.g. a file or ``--set``.

    Raises:
        UsageError: a name is unknown (the nearest is named) or a value is illegal; one line for the first fault.
    """
    for name in values:
        if name not in model.model_fields:
            raise UsageError(f"{where}: unknown key '{name}'{nearest(str(name), model.model_fields)}")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"{where}: {first_fault(error)}") from None


def first_fault(error: ValidationError) -> str:
    """The first fault of a pydantic error as one line."""
    fault = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in fault["loc"])
    message = fault["msg"].removeprefix("Value error, ")
    if not place:
        return message + _meant(fault)
    given = fault["input"]
    return f"{place}: {message}" if isinstance(given, dict) else f"{place}: {message}, not {given!r}{_meant(fault)}"


def _meant(fault: Mapping[str, Any]) -> str:
    """The nearest choice to a word that is none; the message itself lists them all."""
    if fault["type"] != "literal_error" or not isinstance(fault["input"], str):
        return ""
    return meant(fault["input"], re.findall("'([^']*)'", fault["ctx"]["expected"]))
