"""Loading a pipeline of diffusers, from a folder or the Hub; a mistake is one sentence."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dreambooth.runs.hub import absence_of, problem_of, sources_of

CheckConfigs = Callable[[Mapping[str, Any], Callable[[str], Mapping[str, Any]]], None]


def load_pipeline(
    pretrained: str | Path,
    class_name: str,
    title: str,
    parts: Sequence[str],
    text_encoders: Mapping[str, str],
    arguments: Mapping[str, Any],
    check_configs: CheckConfigs,
    revision: str | None = None,
    config: str | Path | None = None,
) -> Any:
    """Load a pipeline of the class `class_name` of diffusers, in float32.

    `pretrained`: a folder, an id on the Hub (there at `revision`: a branch, tag or commit), or one
    .safetensors file with the weights of all parts. The configs and tokenizers are then those of
    `config`, a folder or an id on the Hub.

    `title`: of its family, with its article. `parts`: those that it needs besides `text_encoders`,
    from text encoder to tokenizer. `arguments`: of `from_pretrained`. `check_configs`: called with
    the pipeline's own config and a function from the name of a part to its config, before any
    weights are read; it may raise ValueError. ValueError if there is no such model, or if it is of
    another family or damaged.
    """
    import diffusers

    pipeline_class = getattr(diffusers, class_name)
    file = Path(pretrained).expanduser()
    (described,) = sources_of({"pretrained": pretrained, "config": config}).values()
    folder = Path(described).expanduser()
    source = str(folder if folder.exists() else described)
    needed = (*parts, *text_encoders, *text_encoders.values())
    remedy = (
        f"give model.backbone.pretrained=/path/to/folder with {title} in the diffusers "
        "layout with safetensors weights (model_index.json, "
        f"{', '.join(f'{part}/' for part in needed)})"
    )
    if absence := absence_of(source, "model_index.json", revision):
        raise ValueError(f"{absence}; {remedy}")
    # In the cache, without a network: the Hub is not asked whether there is a newer version.
    offline = not folder.exists() and bool(problem_of(source, revision))
    where = {"local_files_only": offline, "revision": revision}

    def config_of(part: str) -> Mapping[str, Any]:
        part_class = getattr(diffusers, index[part][1])
        config: Mapping[str, Any] = part_class.load_config(source, subfolder=part, **where)
        return config

    try:
        index = pipeline_class.load_config(source, **where)
        if index.get("_class_name") != class_name:
            raise ValueError(f"it is of another family, {index.get('_class_name')}")
        check_configs(index, config_of)
        if file.is_file():
            pipeline = pipeline_class.from_single_file(
                str(file), config=source, torch_dtype=torch.float32, **where, **arguments
            )
            pipeline.register_to_config(_name_or_path=str(file))
        else:
            pipeline = pipeline_class.from_pretrained(
                source, use_safetensors=True, **where, **arguments
            )
        for encoder, tokenizer in text_encoders.items():
            text_encoder = getattr(pipeline, encoder)
            # If its files are missing, transformers makes an empty tokenizer, without an error.
            # An embedding may have a few rows more than there are tokens, as that of T5.
            if len(getattr(pipeline, tokenizer)) < 0.99 * text_encoder.config.vocab_size:
                raise ValueError(f"its {tokenizer} has fewer tokens than its {encoder}")
            # diffusers loads in float32, but transformers in the precision of the file.
            text_encoder.float()
        pipeline.revision = revision
    except Exception as error:  # the libraries raise OSError, SafetensorError or Exception
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise ValueError(
            f"model {str(pretrained)!r} cannot be used ({reason}); {remedy}"
        ) from error
    return pipeline
