"""What the training loop costs beyond forward, backward and optimizer step.

    python benchmarks/overhead.py [steps]

Alternates bare steps on fixed batches with whole training loops (drawing the samples, Lightning,
logging to a CSV file, progress bar) of the same module, and prints the median ratio of the pairs.
"""

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import yaml
from hydra import compose, initialize_config_dir
from torch.utils.data import DataLoader

from dreambooth.assemble import assemble, plain_config
from dreambooth.experiment import Experiment
from dreambooth.module import DreamBooth
from dreambooth.run import Run
from dreambooth.subjects.draws import TrainingDraws

CONF = str(Path(__file__).resolve().parents[1] / "conf")
PAIRS = 5


def prepared(experiment: Experiment) -> tuple[DreamBooth, TrainingDraws]:
    stage, names = experiment.backbone.stages["base"], experiment.names
    draws = TrainingDraws(
        stage.encode(experiment.subject.photos(stage.resolution_px)),
        experiment.encode_prior("base"),
        stage.schedule.num_timesteps,
        experiment.max_steps * experiment.batch_size,
        experiment.seed,
        "base",
    )
    module = experiment.module(
        stage=stage,
        subject_condition=stage.condition([names.subject_prompt]),
        prior_condition=stage.condition([names.class_prompt]),
        prior_weight=experiment.prior.weight,
    )
    return module, draws


def bare_seconds(module: DreamBooth, draws: TrainingDraws, batch_size: int, steps: int) -> float:
    batches = list(DataLoader(draws, batch_size=batch_size))[:steps]
    optimizer = module.configure_optimizers()
    started = time.perf_counter()
    for batch in batches:
        optimizer.zero_grad()
        module.calc_loss(batch["subject"], batch["prior"]).total.backward()
        optimizer.step()
    return time.perf_counter() - started


def loop_seconds(experiment: Experiment, module: DreamBooth, draws: TrainingDraws) -> float:
    """From the first batch to the last: not the set-up, which a run pays once."""
    marks: list[float] = []
    module.on_train_start = lambda: marks.append(time.perf_counter())  # type: ignore[method-assign]
    module.on_train_end = lambda: marks.append(time.perf_counter())  # type: ignore[method-assign]
    trainer = experiment.trainer(
        callbacks=[c for c in experiment.callbacks if type(c).__name__ != "Checkpoints"],
        logger=experiment.logger,
        max_steps=experiment.max_steps,
    )
    trainer.fit(module, DataLoader(draws, batch_size=experiment.batch_size))
    return marks[1] - marks[0]


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory() as folder:
        with initialize_config_dir(CONF, version_base="1.3"):
            overrides = [f"method.max_steps={steps}", "prior.num_images=8", "logger=csv"]
            config = plain_config(compose("train", overrides), overrides)
        print(yaml.safe_dump(config["method"]))
        experiment = assemble(Run.create(Path(folder) / "run", config))
        module, draws = prepared(experiment)
        bare_seconds(module, draws, experiment.batch_size, 10)  # warm up
        ratios = []
        for _ in range(PAIRS):
            bare = bare_seconds(module, draws, experiment.batch_size, steps)
            loop = loop_seconds(experiment, module, draws)
            ratios.append(loop / bare)
            print(f"bare {1e3 * bare / steps:.1f} ms, loop {1e3 * loop / steps:.1f} ms a step")
        print(f"median ratio {median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()
