from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from torch import Tensor, nn

from dreambooth.randomness import generator
from dreambooth.runs.settings import Sampler
from dreambooth.sampling import sample
from dreambooth.schedules import PREDICTION_TYPES, schedule_of, trailing_timesteps

SAMPLERS = ("ancestral", "ddim", "dpm")
MEAN, STD = 0.3, 0.4
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}  # alpha_T is near 0: no bias from the start


class GaussianStage:
    """The best possible denoiser of data ~ N(condition's mean, STD^2), every pixel by itself.

    E[x | z_t] = mean + alpha_t STD^2 / (alpha_t^2 STD^2 + sigma_t^2) (z_t - alpha_t mean).
    """

    name = "base"

    def __init__(self, prediction_type="v_prediction", betas=COSINE, size=64, clip_sample=False):
        scheduler = DDPMScheduler(**betas, prediction_type=prediction_type, clip_sample=clip_sample)
        self.schedule = schedule_of(scheduler)
        self.x_shape = (3, size, size)
        self.denoiser = nn.Sequential(nn.Linear(1, 1), nn.Dropout(), nn.Dropout())
        self.batch_sizes: list[int] = []
        self.modes: set[bool] = set()
        self.gradients = False

    def predict(self, z_t: Tensor, t: Tensor, condition: dict[str, Tensor]) -> Tensor:
        assert len(z_t) == len(t) == len(condition["mean"])
        self.batch_sizes.append(len(z_t))
        self.gradients |= torch.is_grad_enabled()
        self.modes.update(module.training for module in self.denoiser.modules())
        alpha, sigma = (value[:, None, None, None] for value in self.schedule.alpha_sigma(t))
        mean = condition["mean"][:, None, None, None]
        gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
        x_hat = mean + gain * (z_t - alpha * mean)
        return self.schedule.target(x_hat, (z_t - alpha * x_hat) / sigma, t)


def draw(stage, sampler, keys=(0,), mean=MEAN, null_mean=0.0) -> Tensor:
    return sample(
        stage,
        condition={"mean": torch.full((len(keys),), mean)},
        null_condition={"mean": torch.full((len(keys),), null_mean)},
        generators=[generator("test", key) for key in keys],
        solver=stage.schedule.solver(sampler.name, sampler.num_steps),
        guidance_scale=sampler.guidance_scale,
    )


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize(("name", "num_steps"), [("ancestral", 500), ("ddim", 250), ("dpm", 60)])
def test_samples_have_the_mean_and_deviation_of_the_data(name, num_steps, prediction_type):
    x = draw(GaussianStage(prediction_type), Sampler(name, num_steps, 1.0))
    assert x.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert x.std().item() == pytest.approx(STD, rel=0.05)


@pytest.mark.parametrize("name", SAMPLERS)
def test_guidance_moves_away_from_the_null_condition(name):
    # x_hat is linear in the mean, so that guided samples are of data with the guided mean.
    x = draw(GaussianStage(), Sampler(name, 100, 3.0), mean=0.2, null_mean=-0.1)
    assert x.mean().item() == pytest.approx(-0.1 + 3 * 0.3, abs=0.02)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("name", SAMPLERS)
def test_an_image_does_not_depend_on_its_batch(name, guidance_scale):
    stage = GaussianStage(size=5)  # 75 numbers: vector instructions end within an image
    sampler = Sampler(name, 20, guidance_scale)
    batch = draw(stage, sampler, keys=[7, 8, 9])
    assert not torch.equal(batch[0], batch[1])
    for key, image in zip([7, 8, 9], batch, strict=True):
        assert torch.equal(draw(stage, sampler, keys=[key])[0], image)
    assert torch.equal(draw(stage, sampler, keys=[9, 7]), batch[[2, 0]])


@pytest.mark.parametrize(("guidance_scale", "rows"), [(1.0, 2), (3.0, 4), (0.0, 4)])
def test_guidance_doubles_the_batch_of_one_call_and_no_guidance_does_not(guidance_scale, rows):
    stage = GaussianStage(size=4)
    draw(stage, Sampler("ddim", 5, guidance_scale), keys=[1, 2])
    assert stage.batch_sizes == [rows] * 5


def diffusers_loop(scheduler, stage: GaussianStage, num_steps: int) -> Tensor:
    """Sampling as diffusers' own pipelines write it: the scheduler reads the raw prediction."""
    scheduler.set_timesteps(num_steps)
    noise = generator("test", 0)
    z_t = torch.randn(1, *stage.x_shape, generator=noise)
    for t in scheduler.timesteps:
        prediction = stage.predict(z_t, t[None], {"mean": torch.tensor([MEAN])})
        z_t = scheduler.step(prediction, t, z_t, generator=noise).prev_sample
    return z_t


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize(
    ("name", "scheduler_class", "settings"),
    [
        ("ancestral", DDPMScheduler, {"clip_sample": False}),
        ("ddim", DDIMScheduler, {"clip_sample": False}),
        ("dpm", DPMSolverMultistepScheduler, {}),
    ],
)
def test_samplers_equal_diffusers_own_loop(name, scheduler_class, settings, prediction_type):
    stage = GaussianStage(prediction_type, BETAS, size=16)
    scheduler = scheduler_class(
        **BETAS, **settings, prediction_type=prediction_type, timestep_spacing="trailing"
    )
    expected = diffusers_loop(scheduler, stage, 50)
    x = draw(stage, Sampler(name, 50, 1.0))
    torch.testing.assert_close(x, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("num_steps", [60, 61, 300])  # none divides 1000
def test_ddim_is_exact_for_any_number_of_steps(num_steps):
    stage = GaussianStage("epsilon", BETAS, size=8)
    x = draw(stage, Sampler("ddim", num_steps, 1.0))

    alpha_squared = stage.schedule.alphas_cumprod.double().numpy()
    times = [round(1000 * i / num_steps) - 1 for i in range(num_steps, 0, -1)]
    z = torch.randn(1, 3, 8, 8, generator=generator("test", 0)).double().numpy()
    for t, following in zip(times, [*times[1:], None], strict=True):
        alpha, sigma = np.sqrt(alpha_squared[t]), np.sqrt(1 - alpha_squared[t])
        variance = alpha**2 * STD**2 + sigma**2
        x_hat = MEAN + alpha * STD**2 / variance * (z - alpha * MEAN)
        next_squared = 1.0 if following is None else alpha_squared[following]
        z = np.sqrt(next_squared) * x_hat + np.sqrt(1 - next_squared) * (z - alpha * x_hat) / sigma
    np.testing.assert_allclose(x.numpy(), z, atol=2e-4)


@pytest.mark.parametrize("num_steps", [1, 7, 25, 50, 333, 1000])
def test_timesteps_trail_as_in_diffusers(num_steps):
    scheduler = DDIMScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(num_steps)
    assert trailing_timesteps(1000, num_steps) == scheduler.timesteps.tolist()


@pytest.mark.parametrize("num_timesteps", [100, 1000])
def test_timesteps_fall_from_the_last_in_the_given_number_of_steps(num_timesteps):
    for num_steps in range(1, num_timesteps + 1):
        timesteps = trailing_timesteps(num_timesteps, num_steps)
        assert len(timesteps) == num_steps
        assert timesteps[0] == num_timesteps - 1
        assert timesteps[-1] >= 0
        assert all(t > following for t, following in pairwise(timesteps))


@pytest.mark.parametrize("name", SAMPLERS)
def test_zero_terminal_snr_samples_without_a_bias(name):
    stage = GaussianStage("v_prediction", {**BETAS, "rescale_betas_zero_snr": True})
    x = draw(stage, Sampler(name, 100, 1.0))
    assert x.mean().item() == pytest.approx(MEAN, abs=0.015)


@pytest.mark.parametrize("name", SAMPLERS)
def test_pixels_are_clipped_and_latents_are_not(name):
    sampler = Sampler(name, 20, 1.0)
    clipped = draw(GaussianStage(size=16, clip_sample=True), sampler, mean=1.5)
    free = draw(GaussianStage(size=16, clip_sample=False), sampler, mean=1.5)
    assert clipped.abs().max() <= 1
    assert free.mean().item() == pytest.approx(1.5, abs=0.1)


def test_the_denoiser_is_in_eval_mode_without_gradients_only_while_sampling():
    stage = GaussianStage(size=4)
    stage.denoiser[2].eval()  # a part that the user froze
    modes = [module.training for module in stage.denoiser.modules()]
    draw(stage, Sampler("ddim", 2, 1.0))
    assert stage.modes == {False}
    assert [module.training for module in stage.denoiser.modules()] == modes
    assert modes == [True, True, True, False]
    assert not stage.gradients


def test_modes_are_restored_when_the_denoiser_fails():
    stage = GaussianStage(size=4)
    stage.predict = None
    with pytest.raises(TypeError):
        draw(stage, Sampler("ddim", 2, 1.0))
    assert stage.denoiser.training


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_single_step_is_the_mean_of_the_data(name):
    # At t = T - 1 the noisy image says nearly nothing, so that x_hat is the mean.
    x = draw(GaussianStage(size=16), Sampler(name, 1, 1.0))
    assert x.mean().item() == pytest.approx(MEAN, abs=0.01)


def test_more_steps_than_timesteps_are_refused_before_any_work():
    stage = GaussianStage(size=4)
    with pytest.raises(ValueError, match="1001, more than the 1000 timesteps"):
        draw(stage, Sampler("ddim", 1001, 1.0))
    assert stage.batch_sizes == []
