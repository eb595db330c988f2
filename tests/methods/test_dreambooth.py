import math

import lightning as L
import pytest
import torch
import torch.nn.functional as F

from dreambooth.backbones.cascade import CascadeBackbone
from dreambooth.loss import MIN_SNR_GAMMA
from dreambooth.methods.dreambooth import DreamBooth
from dreambooth.methods.method import TermPrompts
from dreambooth.methods.two_terms import DivergedError, TwoTermModule
from dreambooth.training.draws import Draw

PROMPTS = TermPrompts(["a kzn dog"], ["a dog", ""])


@pytest.fixture
def stage(tiny):
    return CascadeBackbone.load(tiny).stages["base"]


def module_of(stage, prior_weight=1.0, train="all", learning_rate=1e-5, **settings):
    settings = {"optimizer": torch.optim.AdamW, "learning_rate": learning_rate, **settings}
    module = TwoTermModule(stage, DreamBooth(train), PROMPTS, prior_weight, **settings)
    module.log = lambda name, value, **_: module.logged.__setitem__(name, float(value.detach()))
    module.logged = {}
    return module


def draw(stage, size, seed):
    noise = torch.Generator().manual_seed(seed)
    return Draw(
        torch.rand(size, *stage.x_shape, generator=noise) * 2 - 1,
        torch.randn(size, *stage.x_shape, generator=noise),
        torch.randint(stage.schedule.num_timesteps, (size,), generator=noise),
        prompt=torch.zeros(size, dtype=torch.long),
        added={},
    )


def plain_term(stage, draw, prompt, weighting):
    """The mean error of one term, image by image, from alpha_t and sigma_t; x-prediction."""
    losses = []
    for x, eps, t in zip(draw.x, draw.eps, draw.t, strict=True):
        alpha = stage.schedule.alphas_cumprod[t].sqrt()
        sigma = (1 - stage.schedule.alphas_cumprod[t]).sqrt()
        z_t = (alpha * x + sigma * eps)[None]
        x_hat = stage.predict(z_t, t[None], stage.encode_prompts([prompt]))[0]
        error = F.mse_loss(x_hat, x)
        snr = (alpha / sigma) ** 2
        weight = torch.minimum(snr, torch.tensor(MIN_SNR_GAMMA))
        losses.append(error * (weight if weighting == "min_snr" else 1))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("weighting", ["uniform", "min_snr"])
@pytest.mark.parametrize("prior_weight", [0, 0.5, 1])
def test_losses_and_gradients_are_those_of_a_plain_recomputation(stage, weighting, prior_weight):
    module = module_of(stage, prior_weight, weighting=weighting)
    subject = draw(stage, 2, seed=1)
    prior = draw(stage, 3, seed=2) if prior_weight else None
    losses = module.calc_loss(subject, prior)
    losses.total.backward()
    gradients = [p.grad.clone() for p in module.trained.parameters]
    module.zero_grad()

    expected = [plain_term(stage, subject, "a kzn dog", weighting)]
    if prior is not None:
        expected.append(plain_term(stage, prior, "a dog", weighting))
    total = expected[0] + (prior_weight * expected[1] if prior_weight else 0)
    total.backward()
    torch.testing.assert_close(losses.subject, expected[0], rtol=1e-5, atol=1e-6)
    assert (losses.prior is None) == (prior is None)
    if prior is not None:
        torch.testing.assert_close(losses.prior, expected[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(losses.total, total, rtol=1e-5, atol=1e-6)
    for gradient, parameter in zip(gradients, module.trained.parameters, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-5)


def test_a_prior_sample_with_a_dropped_caption_has_the_empty_prompt(stage):
    module = module_of(stage)
    subject, prior = draw(stage, 2, seed=1), draw(stage, 3, seed=2)
    found = module.calc_loss(subject, prior._replace(prompt=torch.tensor([0, 1, 0]))).prior
    parts = [Draw(*(value[i : i + 1] for value in prior[:4]), {}) for i in range(3)]
    terms = [
        plain_term(stage, part, prompt, "uniform")
        for part, prompt in zip(parts, ["a dog", "", "a dog"], strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(terms).mean(), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found, module.calc_loss(subject, prior).prior, rtol=1e-4)


def test_the_prior_branch_is_rows_of_the_same_forward_and_absent_at_lambda_0(stage, monkeypatch):
    rows = []
    predict = stage.predict

    def counted(z_t, t, condition):
        rows.append((len(z_t), len(t), len(condition["text"])))
        return predict(z_t, t, condition)

    monkeypatch.setattr(stage, "predict", counted)
    module_of(stage, 0).training_step({"subject": draw(stage, 2, 1)}, 0)
    module_of(stage, 1).training_step({"subject": draw(stage, 2, 1), "prior": draw(stage, 2, 2)}, 0)
    assert rows == [(2, 2, 2), (4, 4, 4)]


def test_both_terms_are_logged_separately_and_lambda_multiplies_the_prior_term(stage):
    module = module_of(stage, 0.5)
    total = module.training_step({"subject": draw(stage, 2, 1), "prior": draw(stage, 2, 2)}, 0)
    logged = module.logged
    assert set(logged) == {"loss/subject", "loss/prior"}
    assert total.item() == pytest.approx(logged["loss/subject"] + 0.5 * logged["loss/prior"])
    alone = module_of(stage, 0)
    alone.training_step({"subject": draw(stage, 2, 1)}, 0)
    assert set(alone.logged) == {"loss/subject"}
    assert alone.logged["loss/subject"] == pytest.approx(logged["loss/subject"], rel=1e-5)


@pytest.mark.parametrize("policy", ["all", "cross_attention"])
def test_a_step_changes_only_the_parameters_that_the_policy_names(stage, policy):
    module = module_of(stage, train=policy, learning_rate=1e-2)
    module.trainer = L.Trainer(max_steps=10, logger=False, enable_checkpointing=False)
    before = {name: p.detach().clone() for name, p in stage.denoiser.named_parameters()}
    optimizer = module.configure_optimizers()["optimizer"]
    module.calc_loss(draw(stage, 2, 1), draw(stage, 2, 2)).total.backward()
    optimizer.step()
    after = dict(stage.denoiser.named_parameters())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    named = {name for name in before if policy == "all" or ".attn2." in name}
    assert changed == named
    assert named
    assert {name for name in before if after[name].grad is not None} == named
    assert all(p.grad is None for p in stage.prompt_encoder.model.parameters())


@pytest.mark.parametrize(
    ("share", "rates"),
    [(0, [1, 1, 1, 1]), (0.5, [1, 1, 1, 0.5]), (1, [1, 0.75, 0.5, 0.25])],
)
def test_the_learning_rate_falls_to_0_over_the_cooldown(stage, share, rates):
    module = module_of(stage, learning_rate=1e-3, cooldown_fraction=share)
    module.trainer = L.Trainer(max_steps=4, logger=False, enable_checkpointing=False)
    configured = module.configure_optimizers()
    found = []
    for _ in range(4):
        found.append(configured["optimizer"].param_groups[0]["lr"])
        configured["optimizer"].step()
        configured["lr_scheduler"]["scheduler"].step()
    assert found == pytest.approx([1e-3 * rate for rate in rates])
    assert configured["lr_scheduler"]["interval"] == "step"


def test_the_denoiser_trains_in_training_mode(stage):
    assert module_of(stage).stage.denoiser.training


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_nan_loss_stops_the_training_and_reports_step_and_learning_rate(stage, value):
    module = module_of(stage, 0, learning_rate=0.25)
    batch = draw(stage, 2, 1)
    batch.x[0, 0, 0, 0] = value
    with pytest.raises(DivergedError, match=r"step 0: lower .*learning_rate \(it is 0.25\)"):
        module.training_step({"subject": batch}, 0)
