"""The DreamBooth objective: Ruiz et al., arXiv 2208.12242, section 3.3, equation 2.

    L =            w_t  || x_hat(alpha_t  x    + sigma_t  eps , c   ) - x    ||^2    subject term
      + lambda  *  w_t' || x_hat(alpha_t' x_pr + sigma_t' eps', c_pr) - x_pr ||^2    prior term

x is a photo of the subject and c = "a [V] [class noun]"; x_pr is a sample of the frozen, pretrained
model under c_pr = "a [class noun]". Each image has its own t and eps. With prior=output or blank,
x_pr is a photo instead, and the frozen model's prediction is the target. For a batch:

    loss = two_term_loss(
        subject=weighted_mse(prediction, target, weights),
        prior=weighted_mse(prediction_pr, target_pr, weights_pr),
        prior_weight=prior_weight,  # lambda
    ).total

where `prediction` and `target` are in the model's parametrisation (see schedules.py), and `weights`
are loss_weights(weighting, snr(t), prediction_type); the prior term's are from t'.
"""

from typing import NamedTuple

import torch
from torch import Tensor

WEIGHTINGS = ("uniform", "min_snr")
MIN_SNR_GAMMA = 5.0


class Losses(NamedTuple):
    """Scalars. `prior` is not yet multiplied by lambda; it is None if there is no prior term."""

    total: Tensor
    subject: Tensor
    prior: Tensor | None


def two_term_loss(subject: Tensor, prior: Tensor | None, prior_weight: float) -> Losses:
    """subject + lambda * prior. With lambda = 0 there is no prior term, and `prior` is None."""
    assert (prior is None) == (prior_weight == 0), "a prior term if and only if lambda > 0"
    if prior is None:
        return Losses(subject, subject, None)
    return Losses(subject + prior_weight * prior, subject, prior)


def weighted_mse(
    prediction: Tensor, target: Tensor, weights: Tensor, mask: Tensor | None = None
) -> Tensor:
    """One of the two terms: the mean of weight * mean squared error over the batch, a scalar.

    prediction and target (B, C, H, W); weights (B,), from this term's timesteps. With a mask in
    [0, 1], (B, 1, H, W), the mean squared error of an image is over the area of its mask:
    sum(mask * error) / (C * sum(mask)).
    """
    assert prediction.shape == target.shape, "a difference that broadcasts is not the error"
    assert weights.shape == prediction.shape[:1], "one weight for each image of this term"
    square = (prediction - target).square()
    if mask is None:
        mean_square = square.flatten(start_dim=1).mean(dim=1)  # (B,)
    else:  # where the mask is 1 everywhere, the same bits
        mean_square = (square * mask).flatten(start_dim=1).mean(dim=1)
        mean_square = mean_square / mask.flatten(start_dim=1).mean(dim=1)
    return (weights * mean_square).mean()


def loss_weights(weighting: str, snr: Tensor, prediction_type: str) -> Tensor:
    """Weights (B,) of the squared error in the model's parametrisation, from snr(t) (B,).

    `uniform`: 1, the plain mean squared error of pretraining.
    `min_snr`: w_t = min(snr, gamma) on || x_hat - x ||^2, gamma = 5 (Hang et al., arXiv 2303.09556,
    section 3.4), converted: || eps_hat - eps ||^2 = snr * || x_hat - x ||^2, || v_hat - v ||^2 =
    (snr + 1) * || x_hat - x ||^2, and for flow matching (1 + sqrt(snr))^2 * || x_hat - x ||^2.
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting {weighting!r} is unknown: give {' or '.join(WEIGHTINGS)}")
    if weighting == "uniform":
        return torch.ones_like(snr)
    w = snr.clamp(max=MIN_SNR_GAMMA)
    if prediction_type == "epsilon":
        return (MIN_SNR_GAMMA / snr).clamp(max=1)  # = w / snr, and its limit 1 at snr = 0
    if prediction_type == "v_prediction":
        return w / (snr + 1)
    if prediction_type == "flow_prediction":
        return w / (1 + snr.sqrt()).square()  # sigma = 1 / (1 + sqrt(snr))
    assert prediction_type == "sample", prediction_type
    return w
