import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from dreambooth.schedules import PREDICTION_TYPES, NoiseSchedule

T = torch.tensor([0, 1, 250, 700, 998, 999])


def schedule(prediction_type: str = "epsilon", **settings) -> NoiseSchedule:
    return NoiseSchedule.from_scheduler(DDPMScheduler(prediction_type=prediction_type, **settings))


def x_and_eps(size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, eps = torch.randn(2, len(T), 3, size, size, generator=generator)
    return x, eps


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_a_perfect_prediction_gives_back_x_and_eps(prediction_type):
    s = schedule(prediction_type)
    x, eps = x_and_eps()
    z_t = s.corrupt(x, eps, T)
    target = s.target(x, eps, T)
    # One number in float32 is divided by alpha_t or sigma_t, of 0.006 and more.
    torch.testing.assert_close(s.to_x(target, z_t, T), x, rtol=0, atol=1e-4)
    torch.testing.assert_close(s.to_eps(target, z_t, T), eps, rtol=0, atol=1e-4)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_x_hat_and_eps_hat_of_any_prediction_make_up_z_t(prediction_type):
    s = schedule(prediction_type)
    x, eps = x_and_eps()
    z_t = s.corrupt(x, eps, T)
    prediction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    x_hat, eps_hat = s.to_x(prediction, z_t, T), s.to_eps(prediction, z_t, T)
    torch.testing.assert_close(s.corrupt(x_hat, eps_hat, T), z_t, rtol=0, atol=1e-4)


def test_the_corruption_preserves_variance():
    s = schedule()
    alpha, sigma = s.alpha_sigma(T)
    assert alpha.shape == sigma.shape == (len(T), 1, 1, 1)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(len(T), 1, 1, 1))
    x, eps = x_and_eps(size=64)
    variance = s.corrupt(x, eps, T).flatten(1).var(dim=1)
    torch.testing.assert_close(variance, torch.ones(len(T)), rtol=0, atol=0.06)  # 4.7 std errors


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_corruption_and_v_are_those_of_diffusers(beta_schedule):
    reference = DDPMScheduler(beta_schedule=beta_schedule, prediction_type="v_prediction")
    s = NoiseSchedule.from_scheduler(reference)
    x, eps = x_and_eps()
    torch.testing.assert_close(s.corrupt(x, eps, T), reference.add_noise(x, eps, T))
    torch.testing.assert_close(s.target(x, eps, T), reference.get_velocity(x, eps, T))


def test_the_target_of_epsilon_is_eps_and_of_sample_is_x():
    x, eps = x_and_eps()
    assert schedule("epsilon").target(x, eps, T) is eps
    assert schedule("sample").target(x, eps, T) is x


def test_snr_is_the_ratio_of_the_two_variances():
    s = schedule()
    alpha, sigma = (value.double().flatten() for value in s.alpha_sigma(T))
    torch.testing.assert_close(s.snr(T).double(), (alpha / sigma) ** 2, rtol=1e-3, atol=0)
    assert (s.snr(torch.arange(1000)).diff() < 0).all()


@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
def test_a_schedule_that_ends_at_zero_snr_stays_finite_and_exact(prediction_type):
    s = schedule(prediction_type, rescale_betas_zero_snr=True)
    x, eps = x_and_eps()
    z_t = s.corrupt(x, eps, T)
    assert s.snr(T)[-1] == 0
    assert torch.equal(z_t[-1], eps[-1])
    target = s.target(x, eps, T)
    torch.testing.assert_close(s.to_x(target, z_t, T), x, rtol=0, atol=1e-4)
    torch.testing.assert_close(s.to_eps(target, z_t, T), eps, rtol=0, atol=1e-4)


def test_epsilon_at_zero_terminal_snr_is_refused():
    with pytest.raises(ValueError, match="v_prediction"):
        schedule("epsilon", rescale_betas_zero_snr=True)


def test_a_scheduler_of_another_kind_gives_the_same_schedule():
    trained = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    one = NoiseSchedule.from_scheduler(DDPMScheduler(**trained, clip_sample=False))
    other = NoiseSchedule.from_scheduler(EulerDiscreteScheduler(**trained))
    assert torch.equal(one.alphas_cumprod, other.alphas_cumprod)
    assert one.num_timesteps == other.num_timesteps == 1000
    assert not one.clip_sample
    assert not other.clip_sample


def test_clipping_is_taken_from_the_scheduler():
    assert schedule(clip_sample=True).clip_sample
    assert not schedule(clip_sample=False).clip_sample


def test_flow_matching_is_refused_by_name():
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler"):
        NoiseSchedule.from_scheduler(FlowMatchEulerDiscreteScheduler())


def test_an_unknown_prediction_type_names_those_that_work():
    with pytest.raises(ValueError, match=r"'flow_prediction'.*epsilon, v_prediction, sample"):
        NoiseSchedule(torch.linspace(0.99, 0.01, 10), "flow_prediction")
