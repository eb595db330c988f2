"""prior=output and blank: the prior term whose target is the frozen model's own prediction."""

import json
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from adapters_of_conf import adapter_method, composed
from commands import same_files, stopped_before_step, train
from diffusers import DDPMScheduler, UNet2DConditionModel

from dreambooth.backbones.cascade import CascadeBackbone
from dreambooth.backbones.samplers import prior_samplers
from dreambooth.backbones.stable_diffusion import StableDiffusionBackbone
from dreambooth.methods.dreambooth import DreamBooth
from dreambooth.methods.method import TermPrompts
from dreambooth.methods.two_terms import TwoTermModule
from dreambooth.runs.run import Run
from dreambooth.runs.settings import Settings, read
from dreambooth.schedules import FlowMatching, VariancePreserving
from dreambooth.training.draws import Draw

PROMPTS = TermPrompts(["a kzn dog"], ["a dog", ""])
METHODS = {"denoiser": DreamBooth(), "lora": adapter_method("lora"), "dora": adapter_method("dora")}
INDEX = {"output": 0, "blank": 1}


@pytest.fixture(params=["base", "sr", "latent"])
def stage_and_folder(request, tiny, stable_diffusion):
    """A stage, and the folder of its pretrained U-Net."""
    if request.param == "latent":
        folder = stable_diffusion[1].partition("=")[2]
        return StableDiffusionBackbone.load(folder).stages["base"], f"{folder}/unet"
    return CascadeBackbone.load(tiny).stages[request.param], tiny / request.param


def draw(stage, size, seed, prompt=0):
    noise = torch.Generator().manual_seed(seed)
    x, eps = (torch.randn(size, *stage.x_shape, generator=noise) for _ in range(2))
    t = torch.randint(1000, (size,), generator=noise)
    added = [stage.added_condition(image, noise, None) for image in x]
    joined = {key: torch.stack([a[key] for a in added]) for key in added[0]}
    return Draw(x, eps, t, torch.full((size,), prompt), joined)


def module_of(stage, method, kind, prior_weight=0.5):
    optimizer = torch.optim.SGD
    return TwoTermModule(stage, method, PROMPTS, prior_weight, 1e-3, optimizer, prior_kind=kind)


@pytest.mark.parametrize("kind", INDEX)
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_the_term_is_exactly_0_before_training(stage_and_folder, method, kind):
    stage, _ = stage_and_folder
    module = module_of(stage, method, kind)
    losses = module.calc_loss(draw(stage, 2, 1), draw(stage, 2, 2, INDEX[kind]))
    if method is METHODS["dora"]:  # divides by the norm of the same weights, and rounds
        assert losses.prior.item() < 1e-9
    else:
        assert losses.prior.item() == 0
        assert losses.total.item() == losses.subject.item() > 0


@pytest.mark.parametrize("kind", INDEX)
@pytest.mark.parametrize("name", ["denoiser", "lora"])
def test_losses_and_gradients_are_those_of_a_plain_recomputation(stage_and_folder, name, kind):
    stage, folder = stage_and_folder
    module = module_of(stage, METHODS[name], kind)
    noise, scale = torch.Generator().manual_seed(0), 0.02 if name == "denoiser" else 0.2
    with torch.no_grad():
        for parameter in module.trained.parameters:
            parameter.add_(scale * torch.randn(parameter.shape, generator=noise))
    subject, prior = draw(stage, 2, 1), draw(stage, 3, 2, INDEX[kind])
    losses = module.calc_loss(subject, prior)
    losses.total.backward()
    gradients = [p.grad.clone() for p in module.trained.parameters]
    module.zero_grad()

    def terms(draw, prompt):
        z_t = stage.schedule.corrupt(draw.x, draw.eps, draw.t)
        text = stage.encode_prompts([prompt] * len(z_t))
        return z_t, draw.t, {**text, **draw.added}

    target = stage.schedule.target(subject.x, subject.eps, subject.t)
    of_subject = F.mse_loss(stage.predict(*terms(subject, "a kzn dog")), target)
    arguments = terms(prior, PROMPTS.prior[INDEX[kind]])
    found = stage.predict(*arguments)
    trained, stage.denoiser = stage.denoiser, UNet2DConditionModel.from_pretrained(folder)
    of_prior = F.mse_loss(found, stage.predict(*arguments).detach())
    stage.denoiser = trained
    assert of_prior.item() > 1e-4
    assert losses.subject.item() == pytest.approx(of_subject.item(), abs=1e-6)
    assert losses.prior.item() == pytest.approx(of_prior.item(), abs=1e-6)
    (of_subject + 0.5 * of_prior).backward()
    for gradient, parameter in zip(gradients, module.trained.parameters, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-5)


def test_the_frozen_copy_is_neither_trained_nor_in_a_checkpoint(tiny):
    stage = CascadeBackbone.load(tiny).stages["base"]
    module = module_of(stage, DreamBooth(), "output")
    plain = TwoTermModule(stage, DreamBooth(), PROMPTS, 0.5, 1e-3, torch.optim.SGD)
    assert module.state_dict().keys() == plain.state_dict().keys()
    before = [p.clone() for p in module.frozen.copy.parameters()]
    optimizer = torch.optim.SGD(module.trained.parameters, lr=0.1)
    module.calc_loss(draw(stage, 2, 1), draw(stage, 2, 2)).total.backward()
    optimizer.step()
    for a, b in zip(before, module.frozen.copy.parameters(), strict=True):
        assert torch.equal(a, b)
    assert module.calc_loss(draw(stage, 2, 1), draw(stage, 2, 2)).prior.item() > 0
    assert all(p.requires_grad for p in stage.denoiser.parameters()), "the copy is swapped out"


@pytest.mark.slow
@pytest.mark.parametrize("words", [("prior=output",), ("prior=blank", "adapter=lora")])
def test_a_run_draws_no_prior_images_and_resumes_to_the_same_bits(
    tiny, tmp_path, monkeypatch, words
):
    indices = set()
    calc_loss = TwoTermModule.calc_loss

    def watched(self, subject, prior, mask=None):
        indices.update(prior.prompt.tolist())
        return calc_loss(self, subject, prior, mask)

    monkeypatch.setattr(TwoTermModule, "calc_loss", watched)
    words = (*words, "metrics=none", "method.max_steps=4", "prior.caption_dropout=0")
    assert train(tiny, tmp_path / "whole", *words).code == 0
    assert not (tmp_path / "prior").exists()
    assert indices == {INDEX[words[0].partition("=")[2]]}
    whole = Run.load_finished(tmp_path / "whole")
    losses = [row["loss/prior"] for row in whole.read_history() if "loss/prior" in row]
    assert len(losses) == 4
    assert losses[0] == 0 < losses[-1]

    with stopped_before_step(2):
        assert train(tiny, tmp_path / "stopped", *words).code != 0
    assert train(tiny, tmp_path / "stopped", *words).code == 0
    for file in whole.weights.rglob("*.safetensors"):
        again = tmp_path / "stopped/weights" / file.relative_to(whole.weights)
        assert file.read_bytes() == again.read_bytes()


@pytest.mark.slow
def test_at_lambda_0_every_prior_is_none_to_the_bit(tiny, tmp_path):
    priors = {"off": (), "images": (), "output": (), "blank": ("prior.caption_dropout=0.5",)}
    for name, more in priors.items():
        prior = ("prior=off",) if name == "off" else (f"prior.kind={name}", "prior.lambda=0")
        words = (*prior, *more, "metrics=none", "method.max_steps=3")
        assert train(tiny, tmp_path / name, *words).code == 0
        for pattern in ("weights/**/*.safetensors", "images/**/*.png"):
            assert same_files(tmp_path / "off", tmp_path / name, pattern)
    assert not (tmp_path / "prior").exists()


@pytest.mark.parametrize(
    ("model", "sampler", "expected"),
    [
        ("sd15", "null", ("ancestral", 100)),
        ("sd15", "ancestral", ("ancestral", 100)),
        ("sd15", "dpm", ("dpm", 25)),
        ("miniature", "dpm", ("dpm", 20)),
        ("miniature", "ancestral", ("ancestral", 100)),
    ],
)
def test_the_sampler_of_the_prior_images_is_the_models_or_the_chosen_one(model, sampler, expected):
    diffusion = SimpleNamespace(schedule=VariancePreserving.from_scheduler(DDPMScheduler()))
    settings = read(Settings, composed(f"model={model}", f"prior.sampler={sampler}"))
    base = prior_samplers(settings, {"base": diffusion})["base"]
    assert (base.name, base.num_steps) == expected
    assert base.guidance_scale == settings.model.sampling.prior["base"].guidance_scale


def test_a_sampler_of_prior_images_that_the_model_lacks_is_refused():
    settings = read(Settings, composed("model=flux1", "prior.sampler=dpm"))
    with pytest.raises(ValueError, match=r"prior\.sampler=dpm is none of this model: leave it out"):
        prior_samplers(settings, {"base": SimpleNamespace(schedule=FlowMatching())})


@pytest.mark.slow
def test_a_run_draws_its_prior_images_with_the_chosen_sampler(tiny, tmp_path, stable_diffusion):
    ended = train(tiny, tmp_path / "run", *stable_diffusion, "prior.sampler=dpm")
    assert ended.code == 0, ended.output
    (key,) = (tmp_path / "prior").rglob("manifest.json")
    assert {"sampler": "dpm", "steps": 25}.items() <= json.loads(key.read_text())["key"].items()
    refused = train(tiny, tmp_path / "other", "prior.sampler=heun")
    assert refused.sentence == "prior.sampler=heun: give ancestral, dpm, or null"
