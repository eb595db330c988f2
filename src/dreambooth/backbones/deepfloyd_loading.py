"""The parts of DeepFloyd IF, from folders or from the Hub."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from dreambooth.runs.hub import absence_of, problem_of

T = TypeVar("T")

INDEX = "model_index.json"
_REMEDY = (
    "give model.backbone.{key}=/path/to/folder with a DeepFloyd IF {part} in the diffusers layout "
    "with safetensors weights"
)
_PARTS = {
    "pretrained": f"stage I ({INDEX}, unet/, scheduler/, tokenizer/, text_encoder/)",
    "pretrained_sr": f"stage II ({INDEX}, unet/, scheduler/, image_noising_scheduler/)",
    "text_encoder": "text encoder (tokenizer/, text_encoder/)",
}
_WITHOUT = ("tokenizer", "text_encoder", "safety_checker", "feature_extractor", "watermarker")


def if_sources(pretrained: str | Path, pretrained_sr: str | Path | None) -> tuple[str, str | None]:
    """Where stages I and II are: folders or ids on the Hub; None for a model without stage II.

    A folder that has base/ has stage II in sr/. ValueError if that is missing.
    """
    folder = Path(pretrained).expanduser()
    if not (folder / "base").is_dir():
        sr = None if pretrained_sr is None else _existing(pretrained_sr) or str(pretrained_sr)
        return _existing(pretrained) or str(pretrained), sr
    if pretrained_sr is None:
        return str(folder / "base"), None
    if not (folder / "sr").is_dir():
        raise ValueError(
            f"model {str(pretrained)!r} has stage I in base/, but no stage II in sr/: add it, or "
            "give model.backbone.pretrained_sr=null for a model without stage II"
        )
    return str(folder / "base"), str(folder / "sr")


def _existing(source: str | Path) -> str:
    folder = Path(source).expanduser()
    return str(folder) if folder.exists() else ""


def load_if_pipeline(source: str, family: str, key: str) -> Any:
    """Load a pipeline of diffusers in float32, without text encoder, safety checker and watermark.

    `family`: its class. `key`: of the config, for messages. ValueError if there is no such model,
    or if it is of another family or damaged.
    """
    import diffusers

    kind = getattr(diffusers, family)

    def load(offline: bool) -> Any:
        index = kind.load_config(source, local_files_only=offline)
        if index.get("_class_name") != family:
            raise ValueError(f"it is of another family, {index.get('_class_name')}")
        pipeline = kind.from_pretrained(
            source,
            local_files_only=offline,
            use_safetensors=True,
            requires_safety_checker=False,
            **dict.fromkeys(_WITHOUT),
        )
        # The loss does not train the predicted variance.
        scheduler = pipeline.scheduler
        pipeline.scheduler = scheduler.from_config(scheduler.config, variance_type="fixed_small")
        return pipeline

    return _sentence_of_errors(source, key, load)


def load_tokenizer(source: str, pipelines: Mapping[str, Any]) -> Any:
    """Load the tokenizer of the pipeline `source`, and check that it has T5.

    ValueError if T5 is missing, or if it is another one than that of the tokenizer or the U-Nets.
    """
    from transformers import T5Config, T5Tokenizer

    def load(offline: bool) -> Any:
        options = {"local_files_only": offline}
        config, _ = T5Config.get_config_dict(source, subfolder="text_encoder", **options)
        if config.get("model_type") != "t5":
            raise ValueError("it has no T5 in text_encoder/")
        try:
            tokenizer = T5Tokenizer.from_pretrained(source, subfolder="tokenizer", **options)
        except ValueError as error:
            if "tiktoken" in str(error):  # to which transformers turns without sentencepiece
                reason = "its tokenizer cannot be read without sentencepiece: pip install it"
                raise ValueError(reason) from error
            raise
        # T5's vocabulary is padded to a multiple of 128. If its files are missing, transformers
        # makes an empty tokenizer without any error.
        if len(tokenizer) + 128 <= config["vocab_size"]:
            raise ValueError("its tokenizer has fewer tokens than its text encoder")
        for pipeline in pipelines.values():
            if (width := pipeline.unet.config.encoder_hid_dim) != config["d_model"]:
                raise ValueError(
                    f"its text encoder has {config['d_model']} channels, and the U-Net of "
                    f"{pipeline.name_or_path} takes {width}"
                )
        return tokenizer

    return _sentence_of_errors(source, "text_encoder", load)


def load_text_encoder(source: str) -> Any:
    """Load T5 of the pipeline `source` in float32, frozen. ValueError if it is damaged."""
    from transformers import T5EncoderModel

    def load(offline: bool) -> Any:
        model = T5EncoderModel.from_pretrained(
            source,
            subfolder="text_encoder",
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=offline,
        )
        return model.eval().requires_grad_(False)

    return _sentence_of_errors(source, "text_encoder", load)


def _sentence_of_errors(source: str, key: str, load: Callable[[bool], T]) -> T:
    """Call `load(offline)`, and raise what goes wrong as a ValueError of one sentence."""
    remedy = _REMEDY.format(key=key, part=_PARTS[key])
    if absence := absence_of(source, INDEX):
        raise ValueError(f"{absence}; {remedy}")
    # In the cache, without a network: the Hub is not asked whether there is a newer version.
    offline = not _existing(source) and bool(problem_of(source))
    try:
        return load(offline)
    except Exception as error:  # the libraries raise OSError, SafetensorError or a bare Exception
        reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
        raise ValueError(f"model {source!r} cannot be used ({reason}); {remedy}") from error
