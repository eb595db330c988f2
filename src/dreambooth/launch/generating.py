"""Drawing more images with a finished run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.runs.checks import adapter_scale
from dreambooth.runs.configs import with_batch_size
from dreambooth.runs.image_sets import check_new_set
from dreambooth.runs.run import Run
from dreambooth.runs.settings import NewImages, Settings, read
from dreambooth.subjects.prompt_sets import APPLICATIONS

if TYPE_CHECKING:
    from dreambooth.assemble import FinishedModel
    from dreambooth.runs.pictures import Picture


def draw_more(config: Mapping[str, Any]) -> None:
    """Draw images with the finished run `run`, save them in its folder, and print their paths.

    ValueError, before the model is loaded, for settings that it cannot honour; afterwards, for a
    sampler that it lacks.
    """
    application = config["application"]
    if application is not None:
        _check_application(config)
    wanted = read(NewImages, dict(config) | {"prompts": _prompts(config)})
    check_new_set(wanted.image_set)
    run = Run.load_finished(Path(wanted.run))
    batch_size = config["model"]["backbone"]["batch_size"]
    run = replace(run, config=with_batch_size(run.config, batch_size))
    sampler = wanted.sampler_for(read(Settings, run.config).model.sampling.images["base"])
    scale = adapter_scale(run.config, config["adapter"]["scale"])

    from dreambooth.assemble import load_finished_model  # here, because these are slow to import
    from dreambooth.backbones.drawing import noise_key
    from dreambooth.launch.applications import Applications

    applications = None if application is None else Applications.of(run, application)
    model = load_finished_model(run, wanted.size_px)
    # Only a check: a latent model draws with a scheduler of diffusers.
    model.backbone.stages["base"].schedule.solver(sampler.name, sampler.num_steps)
    sampling = replace(
        model.sampling,
        samplers={**model.sampling.samplers, "base": sampler},
        negative_prompt=wanted.negative_prompt,
        adapter_scale=scale,
    )

    def draw(prompts: Sequence[str]) -> list[Picture]:
        return model.draw(_jobs(model, wanted, prompts), sampling, wanted.seed)

    if applications is not None:
        applications.save(
            {n: draw(texts) for n, texts in applications.prompts.items()}, model.names
        )
        return
    pictures = draw(wanted.prompts)
    replaced = sum(
        run.images.has_picture(wanted.image_set, p.prompt, p.index, p.template) for p in pictures
    )
    for path in run.images.save(wanted.image_set, pictures):
        print(path)
    if replaced:
        print(
            f"{replaced} of these replaced earlier images of the same prompt and index; "
            "to keep both, give another image_set"
        )
    print(f"contact sheet: {run.images.save_contact_sheet(wanted.image_set, pictures)}")

    def recipe(picture: Picture) -> str:
        key = noise_key(picture.template, picture.index, wanted.seed)
        return model.backbone.recipe(run.weights.resolve(), picture.prompt, key, sampling)

    _print_recipe(pictures, [recipe(picture) for picture in pictures])


def _check_application(config: Mapping[str, Any]) -> None:
    """ValueError for an unknown application, and for settings that it sets itself."""
    application = config["application"]
    if application not in (*APPLICATIONS, "all"):
        raise ValueError(f"application={application}: give all or one of {', '.join(APPLICATIONS)}")
    for key in ("prompts", "prompts_file", "image_set"):
        if any(text.startswith(f"{key}=") for text in config["overrides"]):
            raise ValueError(
                f"application={application} has its own prompts and image sets: leave {key} out"
            )


def _prompts(config: Mapping[str, Any]) -> Any:
    """The value of `prompts`, or the lines of `prompts_file`."""
    if config["prompts_file"] is None:
        given = config["prompts"]
        return [given] if isinstance(given, str) else given
    path = Path(str(config["prompts_file"])).expanduser()
    if any(text.startswith("prompts=") for text in config["overrides"]):
        raise ValueError("prompts and prompts_file are both given: give one of them")
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"prompts_file={path} cannot be read ({error}): give a text file with a prompt on "
            "each line"
        ) from None
    if not any(line.strip() for line in lines):
        raise ValueError(f"prompts_file={path} is empty: give a file with a prompt on each line")
    return [line.strip() for line in lines if line.strip()]


def _jobs(
    model: FinishedModel, wanted: NewImages, prompts: Sequence[str]
) -> list[tuple[str, str, int]]:
    """(template, prompt, index) of each image. ValueError if the model cannot take a prompt."""
    names = model.names
    by_prompt = {text.replace("{}", names.subject): text for text in prompts}
    if names.class_prompt in by_prompt:
        # Noise follows from the template. With this one it is that of the run's class images.
        by_prompt[names.class_prompt] = "a {}"
    for prompt in [*by_prompt, *([wanted.negative_prompt] if wanted.negative_prompt else [])]:
        model.backbone.check_prompt(prompt, names.identifier)
    indices = range(wanted.first_index, wanted.first_index + wanted.images_per_prompt)
    return [(template, prompt, i) for prompt, template in by_prompt.items() for i in indices]


def _print_recipe(pictures: list[Picture], recipes: list[str]) -> None:
    """Print the recipe of the first image, and the lines in which those of the others differ."""
    if not recipes[0]:
        return
    print("\nThe first image with plain diffusers (pixels within 1/255, after a run in float32):\n")
    print(recipes[0])
    if len(recipes) > 1:
        print("\nThe others have the same recipe with their prompts and these seeds:")
    for picture, recipe in zip(pictures[1:], recipes[1:], strict=True):
        seeds = ", ".join(re.findall(r"manual_seed\((\d+)\)", recipe))  # of each stage
        print(f"  {picture.prompt!r}, number {picture.index}: {seeds}")
