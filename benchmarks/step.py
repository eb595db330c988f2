"""How long a training step takes: here, in a bare loop, and in diffusers' train_dreambooth.py.

    python benchmarks/step.py [--script FILE] [--random PX] [--turns 5] [--steps 10] [SETTINGS]

SETTINGS are those of src/train.py; the default is the miniature. FILE trains Stable Diffusion 1.5
or 2.1 only; without it every model can be measured. In turns, in one process:

ours    the training of src/train.py: random draws, Lightning, CSV log, progress bar
bare    the same modules in a plain loop of PyTorch with an unweighted loss, from images and prompts
        that are encoded already
script  FILE, your copy of diffusers' examples/dreambooth/train_dreambooth.py, with the same
        folder, images, prompts, batch size, learning rate and precision

The photos also serve as prior images, because content does not affect speed; they already have the
model's resolution. A step lasts from one step of the optimizer to the next; set-up, checkpoints and
saving are not timed. On a CPU, processor time is measured, which other processes disturb less.
Prints the times of each turn, and the median and range of the ratios script / ours and ours / bare.

--random PX: Stable Diffusion 1.5 with a quarter of its channels, random weights and images of PX
pixels. The U-Net, the VAE and the text encoder have 1.5's share of a step at the same PX.
"""

import argparse
import importlib.util
import os
import runpy
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from types import ModuleType

import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from torch.optim.optimizer import register_optimizer_step_post_hook
from torchvision.transforms.functional import to_pil_image

from dreambooth.assemble import assemble
from dreambooth.backbones.stage import Encoded
from dreambooth.experiment import Experiment
from dreambooth.launch.start import plain_config
from dreambooth.methods.two_terms import TwoTermModule
from dreambooth.runs.run import Run
from dreambooth.subjects.photos import to_uint8

ROOT = Path(__file__).resolve().parents[1]
PRECISIONS = {"32-true": "no", "bf16-mixed": "bf16", "16-mixed": "fp16"}


class FinishedError(Exception):
    """The last step of a turn is done."""


@contextmanager
def step_times(num_steps: int, on_gpu: bool) -> Iterator[list[float]]:
    """When the first and the last step of a turn ended, in seconds; then the turn is stopped."""
    times: list[float] = []
    count = 0

    def after_step(*_: object) -> None:
        nonlocal count
        count += 1
        if count in (1, num_steps):
            if on_gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter() if on_gpu else time.process_time())
        if count == num_steps:
            raise FinishedError

    hook = register_optimizer_step_post_hook(after_step)
    try:
        with suppress(FinishedError):
            yield times
    finally:
        hook.remove()


class Ours:
    """A turn of the training of src/train.py."""

    def __init__(self, experiment: Experiment, module: TwoTermModule, photos: Encoded):
        self.tuning, self.module, self.photos = experiment.fine_tuning, module, photos

    def __call__(self) -> None:
        self.tuning.fit(self.module, self.tuning.trainer("base"), self.photos)


class Bare:
    """A turn of a plain loop over the same modules: no data loader, Lightning, masks or weights.

    Both terms in one forward pass, and the precision, are as in training. It ends by an exception.
    """

    def __init__(
        self, experiment: Experiment, module: TwoTermModule, photos: Encoded, precision: str
    ):
        self.stage, self.trained, self.photos = module.stage, module.trained, photos
        self.prior_weight = module.prior_weight
        self.size = experiment.fine_tuning.stages["base"].batch_size
        self.prompts, self.lr = experiment.fine_tuning.prompts, module.learning_rate
        self.optimizer, self.timesteps = module.optimizer, experiment.fine_tuning.timesteps
        self.device, self.precision = torch.device(experiment.drawing.device), precision

    def __call__(self) -> None:
        stage, schedule, device = self.stage, self.stage.schedule, self.device
        stage.denoiser.to(device).train()
        optimizer = self.optimizer(self.trained.groups, lr=self.lr)
        firsts = (self.prompts.subject[0], self.prompts.prior[0])
        prompts = [prompt for prompt in firsts for _ in range(self.size)]
        rng = torch.Generator().manual_seed(0)
        added = [stage.added_condition(self.photos.mean[0], rng, None) for _ in prompts]
        condition = {k: torch.stack([each[k] for each in added]).to(device) for k in added[0]}
        condition |= {k: v.to(device) for k, v in stage.encode_prompts(prompts).items()}
        mean = self.photos.mean.to(device)
        std = torch.zeros_like(mean) if self.photos.std is None else self.photos.std.to(device)
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        while True:
            index = torch.randint(len(mean), (len(prompts),), generator=rng).to(device)
            x = mean[index] + std[index] * torch.randn(len(index), *mean.shape[1:], device=device)
            eps = torch.randn_like(x)
            t = torch.stack([schedule.draw_t(self.timesteps, rng) for _ in index]).to(device)
            with torch.autocast(device.type, dtype, enabled=self.precision != "no"):
                prediction = stage.predict(schedule.corrupt(x, eps, t), t, condition)
            target = schedule.target(x, eps, t)
            subject, prior = (
                F.mse_loss(p.float(), y)
                for p, y in zip(prediction.split(self.size), target.split(self.size), strict=True)
            )
            scaler.scale(subject + self.prior_weight * prior).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()


class Script:
    """A turn of diffusers' script, with the settings of the experiment."""

    def __init__(self, script: ModuleType, experiment: Experiment, folder: Path, precision: str):
        stage, tuning = experiment.backbone.stages["base"], experiment.fine_tuning
        photos, run = folder / "photos", experiment.run
        photos.mkdir()
        images = to_uint8(experiment.subject.photos(stage.resolution_px))
        for number, image in enumerate(images):
            to_pil_image(image).save(photos / f"{number}.png")
        arguments = {
            "pretrained_model_name_or_path": run.config["model"]["backbone"]["pretrained"],
            "instance_data_dir": photos,
            "class_data_dir": photos,
            "num_class_images": len(images),
            "instance_prompt": tuning.prompts.subject[0],
            "class_prompt": tuning.prompts.prior[0],
            "prior_loss_weight": tuning.prior.weight,
            "resolution": stage.resolution_px,
            "train_batch_size": tuning.stages["base"].batch_size,
            "learning_rate": run.config["method"]["module"]["learning_rate"],
            "max_train_steps": 10**6,
            "checkpointing_steps": 10**7,
            "mixed_precision": precision,
            "output_dir": folder / "script",
        }
        words = [f"--{key}={value}" for key, value in arguments.items()]
        self.main, self.arguments = (
            script.main,
            script.parse_args([*words, "--with_prior_preservation"]),
        )

    def __call__(self) -> None:
        self.main(self.arguments)


def random_folder(folder: Path, size_px: int) -> Path:
    """Stable Diffusion 1.5 with a quarter of its channels and random weights."""
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline
    from diffusers import UNet2DConditionModel as UNet
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    tiny_models = runpy.run_path(str(ROOT / "tests" / "tiny_models.py"))
    vocabulary = tiny_models["clip_tokenizer_folder"](folder / "tokenizer")
    blocks = ("EncoderBlock2D", "DecoderBlock2D")
    down, up = ((f"{way}{block}",) * 4 for way, block in zip(("Down", "Up"), blocks, strict=True))
    StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(32, 64, 128, 128),
            down_block_types=down,
            up_block_types=up,
            layers_per_block=2,
            latent_channels=4,
            norm_num_groups=8,
            sample_size=size_px,
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(vocabulary),
                hidden_size=192,
                intermediate_size=768,
                num_attention_heads=12,
                bos_token_id=vocabulary["<|startoftext|>"],
                eos_token_id=vocabulary["<|endoftext|>"],
            )
        ),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=UNet(
            sample_size=size_px // 8,
            block_out_channels=(80, 160, 320, 320),
            cross_attention_dim=192,
            norm_num_groups=16,
        ),
        scheduler=PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def script_of(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_dreambooth", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measure(systems: dict[str, Callable[[], None]], turns: int, steps: int, on_gpu: bool) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for turn in range(turns):
        for name in list(systems)[:: 1 if turn % 2 == 0 else -1]:
            with step_times(steps, on_gpu) as times:
                systems[name]()
            seconds[name].append((times[-1] - times[0]) / (steps - 1))
        print(", ".join(f"{name} {1e3 * took[-1]:.1f} ms" for name, took in seconds.items()))
    for name in [name for name in seconds if name != "ours"]:
        above, below = ("ours", name) if name == "bare" else (name, "ours")
        ratios = [a / b for a, b in zip(seconds[above], seconds[below], strict=True)]
        print(
            f"{above} / {below}: median ratio {median(ratios):.3f}, from {min(ratios):.3f} to "
            f"{max(ratios):.3f} ({turns} turns of {steps} steps)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--script", type=Path)
    parser.add_argument("--random", type=int, metavar="PX")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("settings", nargs="*")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, random_model = Path(name), []
        if given.random:
            model = random_folder(folder / "model", given.random)
            pretrained = f"model.backbone.pretrained={model}"
            random_model = ["model=sd15", pretrained, "identifier.text=sks"]
        overrides = [*random_model, "metrics=none", "logger=csv", *given.settings]
        overrides += [f"method.max_steps={given.steps + 1}", "method.checkpoint_every=1000000"]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = plain_config(compose("train", overrides), overrides)
        if (
            given.script
            and ".StableDiffusionBackbone." not in config["model"]["backbone"]["_target_"]
        ):
            parser.error("--script trains Stable Diffusion only: add --random PX or model=sd15")
        experiment = assemble(Run.create(folder / "run", config))
        device = torch.device(experiment.drawing.device)
        if device.type == "cpu":
            os.environ["ACCELERATE_USE_CPU"] = "true"
        module = experiment.fine_tuning.module(experiment.backbone.stages["base"])
        precision = PRECISIONS[config["trainer"]["precision"]]
        photos = module.stage.encode(experiment.subject.photos(module.stage.resolution_px))
        systems: dict[str, Callable[[], None]] = {
            "ours": Ours(experiment, module, photos),
            "bare": Bare(experiment, module, photos, precision),
        }
        if given.script:
            systems["script"] = Script(script_of(given.script), experiment, folder, precision)
        trained = sum(p.numel() for p in module.trained.parameters)
        print(f"{trained:,} parameters train, x is {module.stage.x_shape}, {device.type}")
        measure(systems, given.turns, given.steps, device.type == "cuda")


if __name__ == "__main__":
    main()
