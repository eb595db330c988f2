"""How much time the training loop adds to the forward pass, backward pass and optimizer step.

    python benchmarks/overhead.py [steps]

Alternates bare steps on prepared batches with complete training loops of the same module (random
draws, Lightning, CSV logging, progress bar). Prints the median ratio loop / bare.
"""

import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import yaml
from hydra import compose, initialize_config_dir
from torch.utils.data import DataLoader

from dreambooth.assemble import assemble
from dreambooth.backbones.stage import Encoded
from dreambooth.experiment import Experiment
from dreambooth.launch.start import plain_config
from dreambooth.methods.two_terms import TwoTermModule
from dreambooth.runs.run import Run
from dreambooth.training.draws import TrainingDraws

CONF = str(Path(__file__).resolve().parents[1] / "conf")
PAIRS = 5


def bare_seconds(
    experiment: Experiment, module: TwoTermModule, prior: Encoded, steps: int
) -> float:
    stage, settings = module.stage, experiment.fine_tuning.stages["base"]
    draws = TrainingDraws(
        stage.encode(experiment.subject.photos(stage.resolution_px)),
        prior,
        stage.schedule,
        experiment.fine_tuning.timesteps,
        steps * settings.batch_size,
        experiment.seed,
        "base",
        partial(stage.added_condition, noise_level=None),
        experiment.prior.caption_dropout,
    )
    batches = list(DataLoader(draws, batch_size=settings.batch_size))
    optimizer = module.optimizer(module.trained.groups, lr=module.learning_rate)
    started = time.perf_counter()
    for batch in batches:
        optimizer.zero_grad()
        module.calc_loss(batch["subject"], batch["prior"]).total.backward()
        optimizer.step()
    return time.perf_counter() - started


def loop_seconds(experiment: Experiment, module: TwoTermModule, prior: Encoded) -> float:
    """Return the time from the first batch to the last, without the set-up, which happens once."""
    times: list[float] = []
    module.on_train_start = lambda: times.append(time.perf_counter())  # type: ignore[method-assign]
    module.on_train_end = lambda: times.append(time.perf_counter())  # type: ignore[method-assign]
    tuning = experiment.fine_tuning
    tuning.fit(module, tuning.trainer("base"), prior)
    return times[1] - times[0]


def main(steps: int = 100) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with initialize_config_dir(CONF, version_base="1.3"):
            overrides = [f"method.max_steps={steps}", "prior.num_images=8", "logger=csv"]
            overrides += [f"method.checkpoint_every={steps + 1}"]  # checkpoints are not timed
            config = plain_config(compose("train", overrides), overrides)
        print(yaml.safe_dump(config["method"]))
        experiment = assemble(Run.create(Path(folder) / "run", config))
        module = experiment.fine_tuning.module(experiment.backbone.stages["base"])
        prior = experiment.encode_prior("base")
        assert prior is not None
        bare_seconds(experiment, module, prior, 10)  # warm up
        ratios = []
        for _ in range(PAIRS):
            bare = bare_seconds(experiment, module, prior, steps)
            loop = loop_seconds(experiment, module, prior)
            ratios.append(loop / bare)
            print(f"bare {1e3 * bare / steps:.1f} ms, loop {1e3 * loop / steps:.1f} ms a step")
        print(f"median ratio {median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
