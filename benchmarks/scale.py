"""Estimates GPU-hours, storage, files and load of the whole paper on 8, 64 and 512 GPUs.

    python benchmarks/scale.py

This is a model, not a measurement. Replace the inputs by your own: train.log and the folder of your
first run have them. docs/scale.md draws the conclusions.
"""

from math import ceil

# The runs
SUBJECTS, CLASSES, SEEDS = 30, 15, 1
PROMPTS, IMAGES_PER_PROMPT, CLASS_IMAGES = 25, 4, 100
# Settings per subject and seed; the default, which several ablations share, is counted once.
ABLATIONS = {
    "lambda x class noun": 6,
    "super-resolution: off, frozen, 1e-3, 1e-5": 3,
    "1 to 5 photos": 4,
    "identifier: rare, common, random": 2,
}

# One run of Stable Diffusion 1.5 on one A100. The training time is the paper's (section 4). The
# other times are GUESSES: replace them by measured ones.
TRAIN_SECONDS = 300.0
PICTURE_SECONDS = 1.5  # 25 steps with guidance, in batches
PRIOR_PICTURE_SECONDS = 6.0  # 100 ancestral steps
START_SECONDS = 60.0  # imports, weights into memory
SCORE_SECONDS = 20.0
PRIOR_IMAGES = 1000  # per class; the paper uses about 200 per photo, with 3 to 5 photos

# What a run writes: sizes of the float32 model; numbers of files, rounded up from the 131 and 4,800
# that were counted in a run of the miniature
WEIGHTS_GB = 4.3
CHECKPOINT_GB = 10.3  # weights, and two moments for each parameter of the U-Net, which is trained
CHECKPOINT_EVERY_SECONDS = 60.0  # 200 steps of 0.3 s
PICTURE_MB = 0.45
FILES_BESIDE_PICTURES = 150  # weights 20, W&B offline 110, others 20
MODULES = 5000  # files that Python opens to start
STATUS_SECONDS = 5.0  # between two writes of status.json
WANDB_SECONDS = 15.0  # between two uploads of an online run; also a guess

RUNS = SUBJECTS * SEEDS * sum(ABLATIONS.values())
PICTURES = PROMPTS * IMAGES_PER_PROMPT + CLASS_IMAGES


def main() -> None:
    drawing = PICTURES * PICTURE_SECONDS
    seconds = START_SECONDS + TRAIN_SECONDS + drawing + SCORE_SECONDS
    prior_hours = CLASSES * PRIOR_IMAGES * PRIOR_PICTURE_SECONDS / 3600
    print(f"{RUNS} runs, {RUNS * PICTURES:,} images")
    print(
        f"a run: {seconds / 60:.0f} min (training {TRAIN_SECONDS / 60:.0f}, drawing "
        f"{drawing / 60:.0f}, start and scores {(START_SECONDS + SCORE_SECONDS) / 60:.0f})"
    )
    print(
        f"GPU-hours: {RUNS * seconds / 3600:.0f}, and {prior_hours:.0f} for the prior images, "
        "made once for each class"
    )
    gigabytes = RUNS * (WEIGHTS_GB + PICTURES * PICTURE_MB / 1000)
    print(
        f"stored: {gigabytes / 1000:.1f} TB ({RUNS * WEIGHTS_GB / 1000:.1f} of weights), "
        f"{RUNS * (PICTURES + FILES_BESIDE_PICTURES):,} files"
    )
    print()
    heading = (
        "GPUs",
        "hours",
        "idle for priors",
        "checkpoints",
        "written",
        "starts",
        "status",
        "W&B",
    )
    print(("{:>16}" * len(heading)).format(*heading))
    for gpus in (8, 64, 512):
        at_once = min(gpus, RUNS)
        waves = ceil(RUNS / gpus)
        # One run of each class draws the prior images; runs that start with it wait for them.
        drawing_runs = min(CLASSES, at_once)
        wait = PRIOR_IMAGES * PRIOR_PICTURE_SECONDS * ceil(CLASSES / drawing_runs) / 3600
        idle = (at_once - drawing_runs) * wait
        row = (
            f"{gpus}",
            f"{waves * seconds / 3600 + wait:.1f}",
            f"{idle:.0f} GPU-h",
            f"{2 * at_once * CHECKPOINT_GB / 1000:.1f} TB",
            f"{at_once * CHECKPOINT_GB / CHECKPOINT_EVERY_SECONDS:.1f} GB/s",
            f"{at_once * MODULES / 1e6:.2f} M opens",
            f"{at_once / STATUS_SECONDS:.0f}/s",
            f"{at_once / WANDB_SECONDS:.0f}/s",
        )
        print(("{:>16}" * len(row)).format(*row))


if __name__ == "__main__":
    main()
