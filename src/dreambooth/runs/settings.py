"""The settings of a run: one class for each config group, checked before anything is loaded.

`read(Settings, config)` checks all settings in one pass. The type of a field says which values are
allowed, in code and in words. A mistake is reported in one sentence that names the key, the value
and the allowed values. This module does not import torch.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, ValidatorFunctionWrapHandler
from pydantic.dataclasses import dataclass
from pydantic.functional_validators import WrapValidator
from pydantic_core import PydanticCustomError

from dreambooth.runs.values import (
    Count,
    Folders,
    Fraction,
    FractionBelow1,
    FromZero,
    GuidanceScale,
    Layers,
    MaybeDecay,
    MaybeGuidanceScale,
    MaybePositive,
    MaybeSamplerName,
    MaybeText,
    Positive,
    PriorKind,
    PriorSampler,
    Probability,
    SamplerName,
    Switch,
    Template,
    Text,
    Variance,
    Word,
    allowed,
    finite,
    not_empty,
)

T = TypeVar("T")


def _some_prompts(prompts: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    if not prompts or not isinstance(prompts, list):
        words = "at least one, as in 'prompts=[\"a {} on the beach\"]'"
        raise PydanticCustomError("allowed", words)
    return validate(prompts)


@dataclass(frozen=True)
class Sampler:
    """How images are sampled.

    `ancestral`: DDPM's (Ho et al., arXiv 2006.11239, equation 7), the paper's choice for prior
    images. `ddim`: deterministic, eta = 0 (Song et al., arXiv 2010.02502). `dpm`: DPM-Solver++ of
    second order (Lu et al., arXiv 2211.01095). `euler`: Euler's method, for flow matching only.
    guidance_scale 1 is no guidance.
    """

    name: SamplerName
    num_steps: Count
    guidance_scale: GuidanceScale


@dataclass(frozen=True, config=ConfigDict(validate_by_name=True, validate_by_alias=True))
class Prior:
    """The prior term: its weight lambda, its images and the folder that caches them.

    `kind`: what keeps the class. `images`: the error on prior images. `output` and `blank`: the
    difference from the frozen model's prediction at photos of the subject, under the class prompt
    or the empty one (methods/prior.py). `caption_dropout`: the fraction of prior samples whose
    prompt is empty, as in pretraining for classifier-free guidance.
    """

    weight: Annotated[
        float,
        finite(ge=0, alias="lambda"),
        allowed("a number of 0 (no prior preservation) or more, 1 in the paper"),
    ]
    num_images: Count
    cache: Annotated[Path, not_empty, allowed("a folder")]
    caption_dropout: FractionBelow1 = 0.0
    kind: PriorKind = "images"
    sampler: PriorSampler = None  # of the prior images; None: that of the model

    @property
    def has_images(self) -> bool:
        return self.weight > 0 and self.kind == "images"


@dataclass(frozen=True)
class DrawingSettings:
    """How many images are drawn once the model is trained, and how."""

    images_per_prompt: Count
    num_class_images: Count
    vae_tiling: Switch = False


@dataclass(frozen=True)
class ModuleSettings:
    """Settings of the LightningModule in methods/two_terms.py."""

    learning_rate: Positive
    weighting: Annotated[Literal["uniform", "min_snr"], allowed("uniform or min_snr")]
    cooldown_fraction: Fraction
    gradient_checkpointing: Switch = False
    compile: Switch = False


@dataclass(frozen=True)
class Timesteps:
    """The distribution of the training timesteps; see schedules.py."""

    name: Annotated[Literal["uniform", "logit_normal"], allowed("uniform or logit_normal")]
    shift: Positive


@dataclass(frozen=True)
class MethodSettings:
    """How the base stage is fine-tuned."""

    max_steps: Count
    batch_size: Count
    checkpoint_every: Count
    ema_decay: MaybeDecay
    timesteps: Timesteps
    module: ModuleSettings
    num_vectors: Count = 1  # of method=textual_inversion
    train_text_encoder: Switch = False  # this and the next: of method=dreambooth
    text_encoder_learning_rate: MaybePositive = None


@dataclass(frozen=True)
class SuperResolution:
    """The super-resolution stage: off (plain enlargement), pretrained, or fine-tuned.

    `noise_level`: variance of the noise added to the low-resolution image in training; null leaves
    the stage as pretrained. `inference_noise_level`: the variance used for drawing, if different.
    """

    enabled: Switch
    noise_level: Variance | None
    inference_noise_level: Variance | None
    learning_rate: Positive
    max_steps: Count
    batch_size: Count
    train: Layers

    @property
    def drawing_noise_level(self) -> float | None:
        """The noise level for drawing; None for the model's default."""
        at_inference = self.inference_noise_level
        return self.noise_level if at_inference is None else at_inference


@dataclass(frozen=True)
class Samplers:
    """A sampler for each stage, by stage name."""

    prior: dict[str, Sampler]  # for the prior images
    images: dict[str, Sampler]  # for the images that are scored


@dataclass(frozen=True)
class ModelSettings:
    sampling: Samplers
    backbone: Annotated[dict[str, Any], allowed("the settings of a model, as model=miniature has")]
    rare_token_ids: Annotated[
        tuple[FromZero, FromZero], allowed("two ids as [5000,10000]: the first, one past the last")
    ]


@dataclass(frozen=True)
class ClassNoun:
    """Which class noun the subject's prompt has."""

    choice: Annotated[Literal["none", "wrong", "correct"], allowed("none, wrong or correct")]
    noun: Word


@dataclass(frozen=True)
class Identifier:
    """The word for the subject in its prompt; see subjects/identifiers.py."""

    kind: Annotated[Literal["rare", "common", "random"], allowed("rare, common or random")]
    text: Word
    num_tokens: Annotated[int, Field(strict=True, ge=1, le=3), allowed("1, 2 or 3 rare tokens")]
    seed: FromZero


@dataclass(frozen=True)
class TrainerSettings:
    """The arguments of lightning.Trainer that conf/trainer has; runs/checks.py names the others."""

    accelerator: Annotated[Literal["auto", "cpu", "gpu"], allowed("auto, cpu or gpu")]
    devices: Count
    num_nodes: Count
    strategy: Annotated[str, Field(pattern="^(auto|ddp.*|fsdp)$"), allowed("auto (ddp) or fsdp")]
    precision: Annotated[
        Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true"],
        allowed("32-true, bf16-mixed, 16-mixed, bf16-true, 16-true or 64-true"),
    ]
    max_epochs: Annotated[Literal[1], allowed("method.max_steps=... in its place")]
    log_every_n_steps: Count
    enable_model_summary: Switch


@dataclass(frozen=True, config=ConfigDict(validate_by_name=True, validate_by_alias=True))
class Settings:
    """All settings that are numbers or choices.

    A class that the config names by `_target_` checks its own arguments when it is built.
    """

    prior: Prior
    method: MethodSettings
    sr: SuperResolution
    drawing: DrawingSettings
    model: ModelSettings
    class_: Annotated[ClassNoun, Field(alias="class")]
    identifier: Identifier
    trainer: TrainerSettings
    seed: FromZero
    stage: Annotated[Literal["base", "sr"] | None, allowed("base or sr, or leave it out for both")]
    check: Switch = True


@dataclass(frozen=True)
class NewImages:
    """What src/generate.py draws. A setting that is None is that of the run's own images."""

    run: Text
    prompts: Annotated[list[Template], WrapValidator(_some_prompts)]
    images_per_prompt: Count
    first_index: FromZero
    image_set: Text
    seed: Annotated[
        FromZero | None, allowed("a whole number from 0 up, or null for the run's own noise")
    ]
    sampler: MaybeSamplerName
    num_steps: Annotated[
        Annotated[int, Field(strict=True, ge=1, le=1000)] | None,
        allowed("a whole number from 1 to 1000, or null"),
    ]
    guidance_scale: MaybeGuidanceScale
    negative_prompt: Annotated[str, allowed("a text")]
    size_px: Annotated[
        Annotated[int, Field(strict=True, ge=8, multiple_of=8)] | None,
        allowed("a multiple of 8, as 512, or null"),
    ]

    def sampler_for(self, default: Sampler) -> Sampler:
        """The sampler of the base stage. `default`: that of the run's own images.

        ValueError if the negative prompt would change nothing.
        """
        chosen = Sampler(
            name=self.sampler or default.name,
            num_steps=self.num_steps or default.num_steps,
            guidance_scale=default.guidance_scale
            if self.guidance_scale is None
            else self.guidance_scale,
        )
        if self.negative_prompt and chosen.guidance_scale == 1:
            raise ValueError(
                f"negative_prompt={self.negative_prompt} changes nothing without guidance: give "
                "guidance_scale= a number above 1, or leave negative_prompt out"
            )
        return chosen


@dataclass(frozen=True)
class Execution:
    """How a command is executed; these settings change no result."""

    force: Switch
    objective: MaybeText
    run: MaybeText


@dataclass(frozen=True)
class Evaluate:
    """The settings of src/evaluate.py that are not those of a class."""

    run: MaybeText
    images: MaybeText
    name: Annotated[
        Annotated[str, Field(strict=True, pattern=r"^[^/.][^/]*$")] | None,
        allowed("a name without slashes, or null"),
    ]
    into: Text
    bench: Annotated[dict[str, Any] | None, allowed("experiment=metric_validity")]


@dataclass(frozen=True)
class Sweeps:
    """The sweeps that src/report.py and src/plan.py read; the latest if none is given."""

    sweep: Folders

    @property
    def folders(self) -> list[Path]:
        several = self.sweep if isinstance(self.sweep, list) else [self.sweep]
        return [Path(folder).expanduser() for folder in several if folder is not None]


@dataclass(frozen=True)
class Report(Sweeps):
    """The settings of src/report.py."""

    name: MaybeText


@dataclass(frozen=True)
class Plan(Sweeps):
    """The settings of src/plan.py."""

    metric: MaybeText
    effect: MaybePositive
    power: Probability


@dataclass(frozen=True)
class Training:
    """How one stage is fine-tuned."""

    make_module: Callable[..., Any]  # a partial of the LightningModule, with its settings bound
    max_steps: int
    batch_size: int


def read(kind: type[T], values: Any, key: str = "") -> T:
    """Convert `values` to a class or type of this file.

    `key`: the config key of the values. ValueError of one sentence for the first value that is not
    allowed.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise ValueError(sentence_of(error, key)) from None


def sentence_of(error: ValidationError, key: str = "") -> str:
    """Describe the first mistake: "prior.lambda=-1: give a number of 0 or more"."""
    first = error.errors()[0]
    if first["type"] == "value_error":  # a full sentence, raised by a class's own check
        return str(first["ctx"]["error"])
    place = ".".join([*([key] if key else []), *map(str, first["loc"])])
    if first["type"] == "missing":
        return f"{place} is missing: give {place}=..."
    if first["type"] in ("dataclass_type", "dict_type"):  # text where a group of settings belongs
        return f"{place}={as_typed(first['input'])}: give the settings in it, as {place}.KEY=..."
    return f"{place}={as_typed(first['input'])}: give {first['msg']}"


def as_typed(value: Any) -> str:
    """A value as the command line has it: null, true, 1.5, [a,b]."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def check_count(key: str, value: Any) -> None:
    """ValueError unless `value` is a whole number from 1 up."""
    read(Count, value, key)
