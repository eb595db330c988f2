"""Draw pictures from a finished run.

    python src/generate.py run=DIR 'prompts=["a {} on the beach", "a {} wearing a hat"]'

{} stands for the run's subject; a prompt without {} is used as it is.
"""

import sys

import hydra
from omegaconf import DictConfig

MIN_BATCH_SIZE = 8  # smaller batches round differently (measured)


@hydra.main(version_base="1.3", config_path="../conf", config_name="generate")
def main(cfg: DictConfig) -> None:
    from pathlib import Path

    from dreambooth.assemble import reload
    from dreambooth.backbones.drawing import draw_pictures
    from dreambooth.launch.start import plain_config
    from dreambooth.runs.image_sets import check_new_set
    from dreambooth.runs.run import Run
    from dreambooth.runs.settings import check_count

    try:
        config = plain_config(cfg, [])
        check_count("images_per_prompt", config["images_per_prompt"])
        check_new_set(str(config["image_set"]))
        run = Run.load_finished(Path(str(config["run"])))
        model = reload(run)
        backbone, names = model.backbone, model.names
        templates = config["prompts"]
        templates = [templates] if isinstance(templates, str) else templates
        if not templates:
            raise ValueError(
                "prompts is empty: give at least one, as in 'prompts=[\"a {} on the beach\"]'"
            )
        templates_by_prompt = {str(t).replace("{}", names.subject): str(t) for t in templates}
        if names.class_prompt in templates_by_prompt:
            # Noise follows from the template. With this one it is that of the run's class images.
            templates_by_prompt[names.class_prompt] = "a {}"
        for prompt in templates_by_prompt:
            backbone.check_prompt(prompt, names.identifier)
        start = config["first_index"]
        indices = range(start, start + config["images_per_prompt"])
        jobs = [(t, prompt, i) for prompt, t in templates_by_prompt.items() for i in indices]
        # Repeat the last job, so that an image has the same bits as in the larger batches of a run.
        padded = jobs + jobs[-1:] * (MIN_BATCH_SIZE - len(jobs))
        pictures = draw_pictures(backbone, padded, model.sampling)[: len(jobs)]
        for path in run.images.save(config["image_set"], pictures):
            print(path)
    except ValueError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
