"""The types of single settings: which values are allowed, in code and in words."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler
from pydantic.functional_validators import AfterValidator, BeforeValidator, WrapValidator
from pydantic_core import PydanticCustomError


def allowed(words: str) -> WrapValidator:
    """Replace the type's error messages by "give `words`"."""

    def check(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        try:
            return validate(value)
        except ValidationError:
            raise PydanticCustomError("allowed", words) from None

    return WrapValidator(check)


def finite(**bounds: Any) -> Any:
    return Field(strict=True, allow_inf_nan=False, **bounds)


def _template(prompt: str) -> str:
    if not prompt.strip() or re.search("[{}]", prompt.replace("{}", "")):
        raise ValueError
    return prompt


# An empty path would be the current folder; None is refused.
not_empty = BeforeValidator(lambda value: None if value == "" else value)
Count = Annotated[int, Field(strict=True, ge=1), allowed("a whole number from 1 up")]
Positive = Annotated[float, finite(gt=0), allowed("a number above 0")]
_positive = Annotated[float, finite(gt=0)]
MaybePositive = Annotated[_positive | None, allowed("a number above 0, or null")]
Probability = Annotated[float, finite(gt=0, lt=1), allowed("a number between 0 and 1, as 0.8")]
_decay = Annotated[float, Field(strict=True, gt=0, lt=1)]
MaybeDecay = Annotated[_decay | None, allowed("a number between 0 and 1, as 0.99, or null")]
Scale = Annotated[float, finite(ge=0), allowed("a number of 0 or more (1: as trained)")]
Fraction = Annotated[float, finite(ge=0, le=1), allowed("a fraction from 0 to 1")]
FractionBelow1 = Annotated[float, finite(ge=0, lt=1), allowed("a fraction from 0 to below 1")]
_variance = Annotated[float, finite(ge=0, lt=1)]
Variance = Annotated[_variance, allowed("a variance from 0 to below 1, such as 1e-3")]
Switch = Annotated[bool, Field(strict=True), allowed("true or false")]
Layers = Annotated[Literal["all", "cross_attention"], allowed("all or cross_attention")]
SaveFormat = Annotated[Literal["diffusers", "kohya"], allowed("diffusers or kohya")]
_scale = Annotated[float, finite(ge=0)]
GuidanceScale = Annotated[_scale, allowed("a number of 0 or more, 1 for no guidance")]
MaybeGuidanceScale = Annotated[
    _scale | None, allowed("a number of 0 or more, 1 for no guidance, or null")
]
PriorKind = Annotated[Literal["images", "output", "blank"], allowed("images, output or blank")]
PriorSampler = Annotated[Literal["ancestral", "dpm"] | None, allowed("ancestral, dpm, or null")]
_sampler = Literal["ancestral", "ddim", "dpm", "euler"]
SamplerName = Annotated[_sampler, allowed("ancestral, ddim, dpm or euler")]
MaybeSamplerName = Annotated[_sampler | None, allowed("ancestral, ddim, dpm or euler, or null")]
FromZero = Annotated[int, Field(strict=True, ge=0), allowed("a whole number from 0 up")]
_text = Annotated[str, Field(strict=True, pattern=r"\S")]
Text = Annotated[_text, allowed("text")]
MaybeText = Annotated[_text | None, allowed("text, or null")]
Folders = Annotated[list[_text] | _text | None, allowed("a folder, or several as [DIR1,DIR2]")]
_word = Annotated[str, Field(strict=True, pattern=r"^[^{}]*$")]
Word = Annotated[_word | None, allowed("text without braces, or null")]
_new_word = Annotated[str, Field(strict=True, pattern=r"^<[a-z0-9-]+>$")]
NewToken = Annotated[_new_word, allowed("a new word of small letters in <>, as <subject>")]
Template = Annotated[
    Annotated[str, Field(strict=True), AfterValidator(_template)],
    allowed("a text in which {} stands for the subject, without other braces"),
]
