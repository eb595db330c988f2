"""Draw pictures from a finished run.

    python src/generate.py run=DIR 'prompts=["a {} on the beach", "a {} wearing a hat"]'

{} stands for the run's subject; a prompt without it is drawn as it is.
"""

import sys

import hydra
from omegaconf import DictConfig

SAME_BITS = 8  # pictures at once, from which on a picture is the same to the bit (found by trying)


@hydra.main(version_base="1.3", config_path="../conf", config_name="generate")
def main(cfg: DictConfig) -> None:
    from pathlib import Path

    from dreambooth.assemble import reload
    from dreambooth.experiment import draw_pictures
    from dreambooth.launch.start import plain_config
    from dreambooth.runs.run import Run
    from dreambooth.runs.settings import check_count

    try:
        wanted = plain_config(cfg, [])
        check_count("images_per_prompt", wanted["images_per_prompt"])
        run = Run.load_finished(Path(str(wanted["run"])))
        model = reload(run)
        backbone, names = model.backbone, model.names
        templates = wanted["prompts"]
        templates = [templates] if isinstance(templates, str) else templates
        if not templates:
            raise ValueError("prompts is empty: give some, as in 'prompts=[\"a {} on the beach\"]'")
        prompts = {str(t).replace("{}", names.subject): str(t) for t in templates}
        if names.class_prompt in prompts:  # from the noise of the run's own pictures of its class
            prompts[names.class_prompt] = "a {}"
        for prompt in prompts:
            backbone.check_prompt(prompt, names.identifier)
        indices = range(wanted["first_index"], wanted["first_index"] + wanted["images_per_prompt"])
        jobs = [(template, prompt, i) for prompt, template in prompts.items() for i in indices]
        # The smallest batches are rounded otherwise than those of 8 and more that runs draw in.
        filled = jobs + jobs[-1:] * (SAME_BITS - len(jobs))
        pictures = draw_pictures(backbone, filled, model.sampling)[: len(jobs)]
        for path in run.save_images(wanted["image_set"], pictures):
            print(path)
    except ValueError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
