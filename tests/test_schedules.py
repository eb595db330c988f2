import pytest
import torch
from diffusers import (
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    KarrasVeScheduler,
)

from dreambooth.schedules import (
    PREDICTION_TYPES,
    FlowMatching,
    NoiseSchedule,
    TimestepDistribution,
    VariancePreserving,
    schedule_of,
)

T = torch.tensor([0, 1, 250, 700, 998, 999])


def schedule(prediction_type: str = "epsilon", **settings) -> VariancePreserving:
    return VariancePreserving.from_scheduler(
        DDPMScheduler(prediction_type=prediction_type, **settings)
    )


def to_eps(s: VariancePreserving, x_hat, z_t):
    """The eps_hat that x_hat at z_t means."""
    alpha, sigma = (value.view(-1, 1, 1, 1) for value in s.alpha_sigma(T))
    return (z_t - alpha * x_hat) / sigma


def x_and_eps(size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, eps = torch.randn(2, len(T), 3, size, size, generator=generator)
    return x, eps


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_a_perfect_prediction_gives_back_x(prediction_type):
    s = schedule(prediction_type)
    x, eps = x_and_eps()
    z_t = s.corrupt(x, eps, T)
    target = s.target(x, eps, T)
    # One number in float32 is divided by alpha_t or sigma_t, of 0.006 and more.
    torch.testing.assert_close(s.to_x(target, z_t, T), x, rtol=0, atol=1e-4)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_the_target_of_x_hat_and_its_eps_hat_is_the_prediction(prediction_type):
    s = schedule(prediction_type)
    x, eps = x_and_eps()
    z_t = s.corrupt(x, eps, T)
    prediction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    x_hat = s.to_x(prediction, z_t, T)
    eps_hat = to_eps(s, x_hat, z_t)
    torch.testing.assert_close(s.target(x_hat, eps_hat, T), prediction, rtol=1e-3, atol=1e-3)


def test_the_corruption_preserves_variance():
    s = schedule()
    alpha, sigma = s.alpha_sigma(T)
    assert alpha.shape == sigma.shape == (len(T),)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(len(T)))
    x, eps = x_and_eps(size=64)
    variance = s.corrupt(x, eps, T).flatten(1).var(dim=1)
    torch.testing.assert_close(variance, torch.ones(len(T)), rtol=0, atol=0.06)  # 4.7 std errors


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_corruption_and_v_are_those_of_diffusers(beta_schedule):
    reference = DDPMScheduler(beta_schedule=beta_schedule, prediction_type="v_prediction")
    s = schedule_of(reference)
    x, eps = x_and_eps()
    torch.testing.assert_close(s.corrupt(x, eps, T), reference.add_noise(x, eps, T))
    torch.testing.assert_close(s.target(x, eps, T), reference.get_velocity(x, eps, T))


def test_the_target_of_epsilon_is_eps_and_of_sample_is_x():
    x, eps = x_and_eps()
    assert schedule("epsilon").target(x, eps, T) is eps
    assert schedule("sample").target(x, eps, T) is x


def test_snr_is_the_ratio_of_the_two_variances():
    s = schedule()
    alpha, sigma = (value.double() for value in s.alpha_sigma(T))
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


def test_epsilon_at_zero_terminal_snr_is_refused():
    with pytest.raises(ValueError, match="v_prediction"):
        schedule("epsilon", rescale_betas_zero_snr=True)


def test_a_scheduler_of_another_kind_gives_the_same_schedule():
    trained = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    one = schedule_of(DDPMScheduler(**trained, clip_sample=False))
    other = schedule_of(EulerDiscreteScheduler(**trained))
    assert torch.equal(one.alphas_cumprod, other.alphas_cumprod)
    assert one.num_timesteps == other.num_timesteps == 1000
    assert not one.clip_sample
    assert not other.clip_sample


def test_clipping_is_taken_from_the_scheduler():
    assert schedule(clip_sample=True).clip_sample
    assert not schedule(clip_sample=False).clip_sample


def test_an_unknown_kind_of_scheduler_is_refused_by_name():
    with pytest.raises(ValueError, match="KarrasVeScheduler"):
        schedule_of(KarrasVeScheduler())


def test_an_unknown_prediction_type_names_those_that_work():
    with pytest.raises(ValueError, match=r"'flow_prediction'.*epsilon, v_prediction, sample"):
        VariancePreserving(torch.linspace(0.99, 0.01, 10), "flow_prediction")


SIGMA = torch.tensor([1e-3, 0.25, 0.5, 0.9, 0.999, 1.0])


def test_a_perfect_velocity_gives_back_x_and_is_that_of_diffusers():
    s = schedule_of(FlowMatchEulerDiscreteScheduler(shift=3.0))
    assert s == FlowMatching(shift=3.0)
    x, eps = x_and_eps()
    z_t = s.corrupt(x, eps, SIGMA)
    torch.testing.assert_close(s.to_x(s.target(x, eps, SIGMA), z_t, SIGMA), x, atol=1e-5, rtol=0)
    reference = FlowMatchEulerDiscreteScheduler()
    times = reference.timesteps[::200]
    torch.testing.assert_close(
        s.corrupt(x[:5], eps[:5], times / 1000), reference.scale_noise(x[:5], times, eps[:5])
    )


def test_the_snr_of_flow_matching_is_the_ratio_of_the_two_variances():
    s = FlowMatching()
    factors = [s.corrupt(*pair, SIGMA) for pair in ((1.0 + 0 * SIGMA, 0 * SIGMA), (0 * SIGMA, 1.0))]
    torch.testing.assert_close(s.snr(SIGMA), (factors[0] / factors[1]) ** 2)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_eulers_steps_are_those_of_diffusers_and_end_at_x(shift):
    s, reference = FlowMatching(shift), FlowMatchEulerDiscreteScheduler(shift=1.0)
    solver = s.solver("euler", 7)
    reference.set_timesteps(sigmas=[float(t) for t in solver.timesteps])
    assert solver.timesteps[0] == 1
    assert solver.timesteps[1] == pytest.approx(shift * 6 / (7 + (shift - 1) * 6))
    x, eps = x_and_eps()
    ours = theirs = eps
    for t, reference_t in zip(solver.timesteps, reference.timesteps, strict=True):
        velocity = eps - torch.tanh(x + ours)  # some model that depends on z_t
        x_hat = s.to_x(velocity, ours, t.expand(len(x)))
        ours = solver.step(x_hat, t, ours, None).prev_sample
        theirs = reference.step(velocity, reference_t, theirs).prev_sample
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours, x_hat)


@pytest.mark.parametrize("dimensions", [1, 2, 4, 5])
@pytest.mark.parametrize(("s", "t"), [(schedule("v_prediction"), T), (FlowMatching(), SIGMA)])
def test_any_number_of_dimensions_is_corrupted_image_by_image(s, t, dimensions):
    x, eps = torch.randn(2, len(t), *[2] * dimensions, generator=torch.Generator().manual_seed(0))
    whole = s.corrupt(x, eps, t)
    rows = torch.cat([s.corrupt(x[i : i + 1], eps[i : i + 1], t[i : i + 1]) for i in range(len(t))])
    torch.testing.assert_close(whole, rows)
    torch.testing.assert_close(s.to_x(s.target(x, eps, t), whole, t), x, rtol=0, atol=1e-4)


def drawn(s: NoiseSchedule, distribution: TimestepDistribution, count: int = 4000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.stack([s.draw_t(distribution, generator) for _ in range(count)])


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("name", ["uniform", "logit_normal"])
def test_timesteps_follow_their_distribution_on_both_schedules(name, shift):
    distribution = TimestepDistribution(name, shift)
    base = torch.distributions.Normal(0, 1) if name == "logit_normal" else None
    for s, scale in ((schedule(), 1000), (FlowMatching(), 1)):
        t = drawn(s, distribution)
        for quantile in (0.1, 0.5, 0.9):
            u = torch.tensor(quantile)
            u = base.icdf(u).sigmoid() if base else u
            expected = shift * u / (1 + (shift - 1) * u)
            assert (t <= expected * scale).float().mean() == pytest.approx(quantile, abs=0.03)


@pytest.mark.parametrize("is_dynamic", [False, True])
def test_flow_matching_is_trained_on_the_sigmas_that_its_scheduler_is_made_with(is_dynamic):
    """As diffusers' training scripts, which draw them uniformly."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=is_dynamic)
    found = drawn(schedule_of(scheduler), TimestepDistribution())
    for quantile in (0.1, 0.5, 0.9):
        expected = scheduler.sigmas.quantile(quantile).item()
        assert found.quantile(quantile).item() == pytest.approx(expected, abs=0.03)


def test_drawn_timesteps_are_whole_numbers_within_a_variance_preserving_schedule():
    t = drawn(schedule(), TimestepDistribution("logit_normal", 1e6), 50)
    assert t.dtype == torch.int64
    assert t.max() <= 999


def test_a_sampler_that_flow_matching_lacks_is_refused():
    with pytest.raises(ValueError, match=r"'dpm' is not available .* give euler"):
        FlowMatching().solver("dpm", 10)
