"""DeepFloyd IF against plain diffusers, on a tiny folder of random weights."""

import gc
import weakref
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from adapters_of_conf import adapter_method
from diffusers import DDPMScheduler, UNet2DConditionModel
from tiny_deepfloyd import RARE_TOKEN_IDS, UNET, added, plain, t5_tokenizer
from transformers import T5EncoderModel, T5Tokenizer

from dreambooth.backbones.deepfloyd import DeepFloydBackbone
from dreambooth.backbones.parity import PROMPTS as PARITY_PROMPTS
from dreambooth.backbones.stage import Sampling
from dreambooth.methods.dreambooth import DreamBooth
from dreambooth.methods.method import TermPrompts
from dreambooth.methods.strength import strength_setter
from dreambooth.methods.textual_inversion import TextualInversion
from dreambooth.methods.two_terms import TwoTermModule
from dreambooth.randomness import generator
from dreambooth.runs.settings import Sampler
from dreambooth.subjects.identifiers import rare_token_ids
from dreambooth.training.draws import Draw

PROMPTS = ["a photo of a dog", "A red CLOCK in the snow ", "a cat wearing a hat"]
KEYS = [("test", prompt, 0) for prompt in PROMPTS]
STAGES = ["base", "sr"]


def sampling(name="ancestral", **options):
    samplers = {"base": Sampler(name, 5, 3.0), "sr": Sampler(name, 4, 2.0)}
    return Sampling(samplers, **options)


@pytest.fixture
def folder(deepfloyd) -> Path:
    return Path(deepfloyd[1].partition("=")[2])


@pytest.fixture
def backbone(folder) -> DeepFloydBackbone:
    return DeepFloydBackbone.load(folder, "both are in the first folder")


def randn(*shape: int, key: str) -> torch.Tensor:
    return torch.randn(shape, generator=generator(key))


def photos(count: int, resolution_px: int) -> torch.Tensor:
    images = torch.rand(count, 3, resolution_px, resolution_px, generator=generator("photos"))
    return images * 2 - 1


# --- text -----------------------------------------------------------------------------------------


def test_the_text_is_that_of_the_plain_pipeline(backbone, folder):
    pipeline = plain(folder, "base")
    for stage in backbone.stages.values():
        text = stage.encode_prompts([*PROMPTS, ""])["text"]
        assert text.shape == (4, 77, 32)
        expected, null = pipeline.encode_prompt(PROMPTS, True)
        torch.testing.assert_close(text, torch.cat([expected, null[:1]]))
        assert not text.requires_grad


def test_t5_is_loaded_once_for_all_announced_prompts_and_dropped(folder, monkeypatch):
    loaded, load = [], T5EncoderModel.from_pretrained

    def count(*arguments, **options):
        model = load(*arguments, **options)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(T5EncoderModel, "from_pretrained", count)
    backbone = DeepFloydBackbone.load(folder, "")
    for prompt in PROMPTS:
        backbone.check_prompt(prompt)
    assert not loaded
    backbone.fingerprint()
    for stage in backbone.stages.values():
        stage.encode_prompts(PROMPTS)
    backbone.generate(PROMPTS, KEYS, sampling())
    gc.collect()
    assert [model() for model in loaded] == [None]
    backbone.batch_size = 1
    backbone.generate(["a toy", "a blue toy"], KEYS[:2], sampling())
    gc.collect()
    assert [model() for model in loaded] == [None, None]
    assert not any(isinstance(part, T5EncoderModel) for part in gc.get_objects())


def test_other_strengths_do_not_load_t5(folder, monkeypatch):
    monkeypatch.setattr(T5EncoderModel, "from_pretrained", None)
    trained, pretrained = (DeepFloydBackbone.load(folder, "") for _ in range(2))
    whole, (base, _) = DreamBooth(), trained.stages.values()
    with torch.no_grad():
        for weight in base.denoiser.parameters():
            weight.add_(1)
    whole_setter = strength_setter(whole, lambda: pretrained, trained)
    whole_setter(0.0)
    before = pretrained.stages["base"].denoiser.state_dict()
    assert all(torch.equal(v, before[k]) for k, v in base.denoiser.state_dict().items())
    lora = adapter_method("lora", "model=if")
    for stage in trained.stages.values():
        lora.prepare(stage)
    strength_setter(lora, lambda: pretrained, trained)(0.5)


def test_a_prompt_of_more_than_77_tokens_says_how_many(backbone):
    backbone.check_prompt("dog " * 76)
    message = r"78 tokens, .* takes 77: shorten it by 1$"
    with pytest.raises(ValueError, match=message):
        backbone.check_prompt("dog " * 77)
    with pytest.raises(ValueError, match=message):
        backbone.stages["base"].encode_prompts(["dog " * 77])
    with pytest.raises(ValueError, match=message):
        backbone.generate(["a dog", "dog " * 77], KEYS[:2], sampling())


def test_a_rare_identifier_has_no_capital_because_prompts_have_none(backbone):
    assert len(rare_token_ids(t5_tokenizer(), RARE_TOKEN_IDS)) == 130
    ids = rare_token_ids(backbone.tokenizer, RARE_TOKEN_IDS)
    assert len(ids) == 130 - 2 * 26
    assert all(backbone.tokenizer.decode([i]).islower() for i in ids)


def test_the_text_encoder_is_kept_for_a_method_that_trains_its_words(backbone):
    method, stage = TextualInversion("<subject>", "dog", num_vectors=2), backbone.stages["base"]
    method.prepare(stage)
    (vectors,) = method.trained(stage).parameters
    text = stage.encode_prompts(["a photo of <subject>"], with_gradient=True)
    stage.predict(randn(1, 3, 16, 16, key="z"), torch.tensor([500]), text).square().sum().backward()
    assert vectors.grad.abs().max() > 0
    assert stage.text_encoder is stage.text_encoder
    before = stage.encode_prompts(["a <subject>"])["text"]
    with torch.no_grad():
        vectors.add_(1)
        stage.encode_prompts([""], with_gradient=True)
    assert not torch.equal(before, stage.encode_prompts(["a <subject>"])["text"])


# --- one stage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STAGES)
def test_predict_is_the_plain_unets_output_without_the_variance(backbone, folder, name):
    stage, unet = (
        backbone.stages[name],
        UNet2DConditionModel.from_pretrained(folder / name / "unet"),
    )
    z_t, t = randn(3, *stage.x_shape, key="z"), torch.tensor([0, 500, 999])
    condition = {"text": randn(3, 77, 32, key="c"), **added(stage, z_t.clamp(-1, 1), 0.1)}
    inputs, labels = z_t, None
    if name == "sr":
        inputs, labels = torch.cat([z_t, condition["low_resolution"]], 1), condition["noise_level"]
    with torch.no_grad():
        ours = stage.predict(z_t, t, condition)
        output = unet(inputs, t, condition["text"], class_labels=labels).sample
        assert output.shape[1] == 6
        assert torch.equal(ours, output[:, :3])
        for key, value in condition.items():
            other = condition | {key: value.flip(0) if value.ndim > 1 else value + 500}
            assert not torch.allclose(ours, stage.predict(z_t, t, other)), f"{key} is ignored"


@pytest.mark.parametrize("name", STAGES)
def test_one_step_of_the_pipelines_own_call_sees_what_training_sees(backbone, folder, name):
    """Hooks on the U-Net in the call of a plain pipeline, with a prompt in words."""
    stage, prompt, x = backbone.stages[name], PROMPTS[1], photos(1, 32)[0]
    pipeline, of_sr = plain(folder, name), {}
    if name == "sr":
        text = plain(folder, "base").encode_prompt(prompt, False)[0]
        of_sr = {"image": F.adaptive_avg_pool2d(x[None], 16), "noise_level": 13}
        words = {"prompt_embeds": text}
    else:
        words = {"prompt": prompt, "clean_caption": False}
    calls = []
    pipeline.unet.register_forward_hook(
        lambda _, positional, named, output: calls.append((positional, named, output[0])),
        with_kwargs=True,
    )
    pipeline(
        **words,
        **of_sr,
        num_inference_steps=3,
        guidance_scale=1.0,
        generator=[generator("noise")],
        output_type="pt",
    )

    (sample, t), named, output = calls[0]
    draws = generator("noise")
    z_t = torch.randn(stage.x_shape, generator=draws)[None]
    conditions = [stage.encode_prompts([prompt])]
    if name == "sr":
        of_image = stage.added_condition(x, draws, 1e-3)
        conditions += [{key: value[None] for key, value in of_image.items()}]
        assert torch.equal(sample[:, 3:], conditions[1]["low_resolution"])
        assert torch.equal(named["class_labels"], conditions[1]["noise_level"])
    condition = {key: value for part in conditions for key, value in part.items()}
    assert torch.equal(sample[:, :3], z_t)
    assert int(t) in range(stage.schedule.num_timesteps)
    torch.testing.assert_close(named["encoder_hidden_states"], condition["text"])
    with torch.no_grad():
        ours = stage.predict(z_t, t[None], condition)
    torch.testing.assert_close(ours, output[:, :3], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", STAGES)
def test_losses_and_gradients_are_those_of_a_plain_recomputation(backbone, folder, name):
    stage, prior_weight, level = backbone.stages[name], 0.7, 0.3
    prompts = TermPrompts(["a xq dog"], ["a dog", ""])
    module = TwoTermModule(stage, DreamBooth(), prompts, prior_weight, 1e-3, torch.optim.AdamW)
    x = stage.encode(photos(4, stage.resolution_px)).mean
    eps, t = randn(*x.shape, key="eps"), torch.tensor([20, 700, 400, 900])
    low = added(stage, x, level)
    zero = torch.zeros(2, dtype=torch.long)
    draws = [
        Draw(x[half], eps[half], t[half], zero, {k: v[half] for k, v in low.items()})
        for half in (slice(0, 2), slice(2, 4))
    ]
    losses = module.calc_loss(*draws)
    losses.total.backward()

    pipeline, scheduler = plain(folder, name), DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    text = plain(folder, "base").encode_prompt(["a xq dog"] * 2 + ["a dog"] * 2, False)[0]
    inputs, labels = scheduler.add_noise(x, eps, t), None
    if name == "sr":
        enlarged = F.interpolate(F.avg_pool2d(x, 2), 32, mode="bilinear", align_corners=True)
        noise = torch.stack(
            [torch.randn(3, 32, 32, generator=generator("added", i)) for i in range(4)]
        )
        labels = torch.full((4,), 363)  # the timestep of the variance that is nearest to 0.3
        noised = scheduler.add_noise(enlarged, noise, labels)
        assert (1 - scheduler.alphas_cumprod[363] - level).abs() < 8e-4
        inputs = torch.cat([inputs, noised], 1)
    output = pipeline.unet(inputs, t, text.detach(), class_labels=labels).sample
    error = (output.chunk(2, 1)[0] - eps).square()
    subject, prior = error[:2].mean(), error[2:].mean()
    (subject + prior_weight * prior).backward()

    assert losses.subject.item() == pytest.approx(subject.item(), abs=1e-6)
    assert losses.prior.item() == pytest.approx(prior.item(), abs=1e-6)
    assert losses.total.item() == pytest.approx((subject + 0.7 * prior).item(), abs=1e-6)
    pairs = zip(stage.denoiser.named_parameters(), pipeline.unet.parameters(), strict=True)
    for (key, mine), other in pairs:
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=1e-4, msg=key)


# --- the noise level of stage II ------------------------------------------------------------------


def test_a_variance_is_the_nearest_timestep_and_is_logged_once(backbone, caplog):
    caplog.set_level("INFO")
    level_of = backbone.stages["sr"].level_of
    levels = {s: level_of(s) for s in (0.0, 1e-5, 6e-5, 7e-5, 1e-3, 0.3, 0.9999999)}
    assert list(levels.values()) == [0, 0, 0, 1, 13, 363, 999]
    assert level_of(None) == 250  # the default of the pipeline
    assert level_of(1e-5) == 0
    said = [r.getMessage() for r in caplog.records if r.getMessage().startswith("sr.noise_level")]
    assert said[1] == "sr.noise_level=1e-05 is timestep 0 of this model, of variance 4.13e-05"
    assert said[4] == "sr.noise_level=0.001 is timestep 13 of this model, of variance 0.00102"
    assert len(said) == 7


def test_the_largest_rounding_error_is_the_documented_one(backbone):
    stage = backbone.stages["sr"]
    variances = 1 - stage.pipeline.image_noising_scheduler.alphas_cumprod.double()
    asked = torch.linspace(0, 1, 20_001)[:-1].tolist()
    errors = torch.tensor([abs(float(variances[stage.level_of(s)]) - s) for s in asked])
    assert 0.00077 < errors.max() < 0.00078


def test_the_noise_level_reaches_the_corruption_and_the_model(backbone):
    stage, x = backbone.stages["sr"], photos(1, 32)[0]
    conditions = {s: stage.added_condition(x, generator("g"), s) for s in (0.0, 1e-3, 0.5)}
    clean = F.interpolate(F.avg_pool2d(x[None], 2), 32, mode="bilinear", align_corners=True)[0]
    for s, condition in conditions.items():
        level = int(condition["noise_level"])
        assert level == stage.level_of(s)
        variance = 1 - float(stage.pipeline.image_noising_scheduler.alphas_cumprod[level])
        noise = condition["low_resolution"] - (1 - variance) ** 0.5 * clean
        assert noise.var().item() == pytest.approx(variance, rel=0.1)


def test_drawing_takes_the_noise_level_of_the_settings(backbone):
    seen = []
    backbone.stages["sr"].denoiser.register_forward_pre_hook(
        lambda _, __, named: seen.append(named["class_labels"].tolist()), with_kwargs=True
    )
    pictures = [
        backbone.generate(PROMPTS[:1], KEYS[:1], sampling(noise_level=s))
        for s in (None, 1e-3, 1e-5)
    ]
    assert [labels[0] for labels in seen[::4]] == [250, 13, 0]
    assert all(len(set(labels)) == 1 for labels in seen)
    assert not torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[1], pictures[2])


# --- the checks of src/check.py -------------------------------------------------------------------


def failed(backbone) -> set[str]:
    checks = backbone.parity()
    assert [check.name for check in checks[:6]] == [check.name for check in checks[6:]]
    assert {check.where.rpartition(" ")[2] for check in checks} == set(STAGES)
    return {check.name for check in checks if not check.passed}


def test_training_sees_what_the_pipelines_see(backbone):
    assert failed(backbone) == set()


def test_a_mistake_is_named_by_its_check(backbone, monkeypatch):
    sr, base = backbone.stages["sr"], backbone.stages["base"]
    added_condition, predict, text = sr.added_condition, base.predict, backbone._text

    def clean(x, generator, noise_level):
        return added_condition(x, generator, 0.0) | {"noise_level": torch.tensor(250)}

    def wrong_level(x, generator, noise_level):
        return added_condition(x, generator, noise_level) | {"noise_level": torch.tensor(3)}

    for part, name, mistake, named in (
        (sr, "added_condition", clean, {"latents"}),
        (sr, "added_condition", wrong_level, {"text", "guidance"}),
        (base, "predict", lambda *arguments: -predict(*arguments), {"sign"}),
        (base, "predict", lambda z, t, c: predict(z, t + 1, c), {"timestep"}),
        (
            text,
            "_cache",
            {p: torch.zeros(77, 32) for p in ("", *PARITY_PROMPTS)},
            {"text", "guidance"},
        ),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(part, name, mistake)
            assert failed(backbone) == named


# --- the true size --------------------------------------------------------------------------------


def test_the_u_net_of_true_size_has_the_published_number_of_parameters():
    """IF-I-XL: 4.3 billion by its model card; its file in float16 has 8.61 GB."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            in_channels=3,
            layers_per_block=3,
            block_out_channels=(704, 1408, 2112, 2816),
            cross_attention_dim=2816,
            encoder_hid_dim=4096,
            attention_head_dim=64,
            down_block_types=("ResnetDownsampleBlock2D", *("SimpleCrossAttnDownBlock2D",) * 3),
            up_block_types=(*("SimpleCrossAttnUpBlock2D",) * 3, "ResnetUpsampleBlock2D"),
            **UNET,
        )
    count = sum(p.numel() for p in unet.parameters())
    assert round(count / 1e9, 1) == 4.3
    assert round(2 * count / 1e9, 2) == 8.61


def test_the_tokenizer_of_the_tests_is_read_like_the_published_one(folder):
    tokenizer = T5Tokenizer.from_pretrained(folder / "base", subfolder="tokenizer")
    ids = tokenizer("a photo of a dog").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == [*"▁a", "▁photo", "▁of", *"▁a", "▁dog", "</s>"]
