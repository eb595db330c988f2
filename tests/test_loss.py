import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch.nn import functional as F

from dreambooth.loss import WEIGHTINGS, loss_weights, two_term_loss, weighted_mse
from dreambooth.schedules import PREDICTION_TYPES, FlowMatching, VariancePreserving

SHAPE = (4, 3, 8, 8)  # B > 1
T = torch.tensor([3, 150, 500, 990])  # snr from 2,000 to 5e-5: on both sides of gamma
T_PRIOR = torch.tensor([800, 40, 260, 610])


def schedule(prediction_type: str) -> VariancePreserving:
    return VariancePreserving.from_scheduler(DDPMScheduler(prediction_type=prediction_type))


def noise(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def reference_weights(weighting: str, prediction_type: str, t: torch.Tensor) -> np.ndarray:
    """min-SNR from the betas, in float64: min(snr, 5) over what turns the model's error to x's."""
    alpha_squared = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[t.numpy()]
    snr = alpha_squared / (1 - alpha_squared)
    error_over_x_error = {"sample": 1.0, "epsilon": snr, "v_prediction": snr + 1}[prediction_type]
    return np.minimum(snr, 5) / error_over_x_error if weighting == "min_snr" else np.ones(len(t))


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_weights_equal_an_independent_computation(weighting, prediction_type):
    for t in (T, T_PRIOR):
        weights = loss_weights(weighting, schedule(prediction_type).snr(t), prediction_type)
        assert weights.shape == t.shape
        expected = reference_weights(weighting, prediction_type, t)
        np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-3)


def test_min_snr_gives_an_x_hat_the_same_loss_in_all_parametrisations():
    x, eps, x_hat = noise(0), noise(1), noise(0) + 0.1 * noise(2)
    losses = []
    for prediction_type in PREDICTION_TYPES:
        s = schedule(prediction_type)
        z_t = s.corrupt(x, eps, T)
        alpha, sigma = (value[:, None, None, None] for value in s.alpha_sigma(T))
        eps_hat = (z_t - alpha * x_hat) / sigma
        prediction = s.target(x_hat, eps_hat, T)
        weights = loss_weights("min_snr", s.snr(T), prediction_type)
        losses.append(weighted_mse(prediction, s.target(x, eps, T), weights))
    x_space = (schedule("sample").snr(T).clamp(max=5) * ((x_hat - x) ** 2).mean((1, 2, 3))).mean()
    for loss in losses:
        torch.testing.assert_close(loss, x_space, rtol=1e-4, atol=0)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_both_terms_are_weighted_image_by_image(weighting, prediction_type):
    snr = schedule(prediction_type).snr
    subject, prior = (
        weighted_mse(noise(seed), noise(seed + 1), loss_weights(weighting, snr(t), prediction_type))
        for seed, t in ((0, T), (10, T_PRIOR))
    )
    losses = two_term_loss(subject, prior, prior_weight=0.7)

    def reference(seed: int, t: torch.Tensor) -> float:
        error = (noise(seed) - noise(seed + 1)).double().numpy()
        weights = reference_weights(weighting, prediction_type, t)
        return float(np.mean([w * np.mean(e**2) for w, e in zip(weights, error, strict=True)]))

    assert losses.subject.item() == pytest.approx(reference(0, T), rel=1e-3)
    assert losses.prior.item() == pytest.approx(reference(10, T_PRIOR), rel=1e-3)
    total = reference(0, T) + 0.7 * reference(10, T_PRIOR)
    assert losses.total.item() == pytest.approx(total, rel=1e-3)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_weights_of_both_terms_cannot_be_applied_to_one(batch_size):
    prediction, target = noise(0)[:batch_size], noise(1)[:batch_size]
    weights = torch.ones(2 * batch_size)
    with pytest.raises(AssertionError, match="one weight for each image"):
        weighted_mse(prediction, target, weights)


def test_an_error_that_would_broadcast_is_refused():
    with pytest.raises(AssertionError, match="broadcasts"):
        weighted_mse(noise(0), noise(1)[:1], torch.ones(4))


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_uniform_is_the_plain_mean_square_error(prediction_type):
    weights = loss_weights("uniform", schedule(prediction_type).snr(T), prediction_type)
    assert weighted_mse(noise(0), noise(1), weights) == pytest.approx(
        F.mse_loss(noise(0), noise(1))
    )


def test_lambda_zero_has_no_prior_branch():
    subject = torch.tensor(0.3)
    losses = two_term_loss(subject, None, prior_weight=0.0)
    assert losses.total is subject
    assert losses.prior is None
    with pytest.raises(AssertionError):
        two_term_loss(subject, torch.tensor(0.1), prior_weight=0.0)
    with pytest.raises(AssertionError):
        two_term_loss(subject, None, prior_weight=1.0)


def test_the_gradient_of_the_prior_term_is_multiplied_by_lambda():
    subject = torch.tensor(0.3, requires_grad=True)
    prior = torch.tensor(0.2, requires_grad=True)
    two_term_loss(subject, prior, prior_weight=0.25).total.backward()
    assert subject.grad == 1
    assert prior.grad == 0.25


@pytest.mark.parametrize(("prediction_type", "at_zero"), [("epsilon", 1), ("v_prediction", 0)])
def test_min_snr_has_its_limit_at_zero_snr(prediction_type, at_zero):
    assert loss_weights("min_snr", torch.zeros(2), prediction_type).tolist() == [at_zero] * 2


def test_an_unknown_weighting_names_those_that_exist():
    with pytest.raises(ValueError, match="'p2' is unknown: give uniform or min_snr"):
        loss_weights("p2", torch.ones(1), "epsilon")


def test_min_snr_of_flow_matching_weighs_the_error_of_x():
    s, sigma = FlowMatching(), torch.tensor([0.05, 0.3, 0.6, 1.0])
    x, eps, velocity = noise(0), noise(1), noise(2)
    z_t = s.corrupt(x, eps, sigma)
    weights = loss_weights("min_snr", s.snr(sigma), s.prediction_type)
    found = weighted_mse(velocity, s.target(x, eps, sigma), weights)
    x_error = (s.to_x(velocity, z_t, sigma) - x).square().mean((1, 2, 3))
    expected = (((1 - sigma) / sigma) ** 2).clamp(max=5) * x_error
    torch.testing.assert_close(found, expected.mean(), rtol=1e-4, atol=0)


def test_a_masked_term_is_the_mean_over_the_area_of_the_mask():
    prediction, target, mask = noise(1).requires_grad_(), noise(2), torch.rand(4, 1, 8, 8)
    mask[0] = 0
    mask[0, 0, 2:4, 3] = 1  # two pixels
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0])
    found = weighted_mse(prediction, target, weights, mask)
    errors = ((prediction - target) ** 2).detach().double().numpy()
    areas = mask.double().numpy()
    each = [(m * e).sum() / (3 * m.sum()) for m, e in zip(areas, errors, strict=True)]
    assert found.item() == pytest.approx(np.mean(weights.numpy() * each), rel=1e-5)
    assert each[0] == pytest.approx(errors[0, :, 2:4, 3].mean())
    found.backward()
    assert ((prediction.grad != 0).any(1, keepdim=True) == (mask > 0)).all()


def test_a_mask_of_ones_changes_no_bit_of_loss_and_gradient():
    plain, masked = noise(1).requires_grad_(), noise(1).requires_grad_()
    target, weights = noise(2), torch.tensor([1.0, 2.0, 0.5, 3.0])
    losses = (
        weighted_mse(plain, target, weights),
        weighted_mse(masked, target, weights, torch.ones(4, 1, 8, 8)),
    )
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    assert torch.equal(plain.grad, masked.grad)
