"""What holds for every model. A new one is a line in the list here, and its reference is a function
in tests/plain_models.py; docs/extending.md names these tests."""

import shutil
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from adapters_of_conf import adapter_method
from diffusers import FlowMatchEulerDiscreteScheduler
from kinds import each
from plain_models import (
    plain_cascade,
    plain_flux,
    plain_flux2_klein,
    plain_stable_diffusion,
    plain_stable_diffusion_xl,
)
from safetensors.torch import load_file, save_file
from tiny_flux import flux_folder
from tiny_flux2 import flux2_klein_folder
from tiny_models import cascade_folder, stable_diffusion_folder, stable_diffusion_xl_folder
from torch.nn.modules.module import register_module_forward_hook

from dreambooth.backbones import precision
from dreambooth.backbones.adapters import adapter_state
from dreambooth.backbones.cascade import CascadeBackbone
from dreambooth.backbones.drawing import on_device
from dreambooth.backbones.flux import FluxBackbone
from dreambooth.backbones.flux2_klein import Flux2KleinBackbone
from dreambooth.backbones.stable_diffusion import StableDiffusionBackbone
from dreambooth.backbones.stable_diffusion_xl import StableDiffusionXLBackbone
from dreambooth.backbones.stage import Sampling
from dreambooth.loss import loss_weights, two_term_loss, weighted_mse
from dreambooth.runs.settings import Sampler

sd21_folder = partial(stable_diffusion_folder, v_prediction=True)
MODELS = {  # what makes a tiny folder of it, what loads that, and its stages in plain diffusers
    "cascade": (cascade_folder, CascadeBackbone.load, plain_cascade),
    "sd15": (stable_diffusion_folder, StableDiffusionBackbone.load, plain_stable_diffusion),
    "sd21": (sd21_folder, StableDiffusionBackbone.load, plain_stable_diffusion),
    "sdxl": (stable_diffusion_xl_folder, StableDiffusionXLBackbone.load, plain_stable_diffusion_xl),
    "flux1": (flux_folder, partial(FluxBackbone.load, resolution_px=64), plain_flux),
    "flux2_klein": (
        flux2_klein_folder,
        partial(Flux2KleinBackbone.load, resolution_px=64),
        plain_flux2_klein,
    ),
}
QUICK = ("cascade", "sd15", "flux1")
LATENT = {name: model for name, model in MODELS.items() if name != "cascade"}
PROMPTS = ["a red dog", "a cat in the snow", "a toy"]
KEYS = [("image", prompt, 0) for prompt in PROMPTS]


@pytest.fixture(scope="module", params=each(MODELS, *QUICK))
def model(request, tmp_path_factory):
    """A tiny folder, only to be read, what loads one, and its stages in plain diffusers."""
    make, load, plain = request.param
    return make(tmp_path_factory.mktemp("model") / "tiny"), load, plain


@pytest.fixture
def folder(model):
    return model[0]


@pytest.fixture
def load(model):
    return model[1]


@pytest.fixture
def backbone(load, folder):
    return load(folder)


@pytest.fixture
def copied(folder, tmp_path):
    """To be damaged."""
    return shutil.copytree(folder, tmp_path / "copied")


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weights_of(stage):
    return {name: p.detach().clone() for name, p in stage.denoiser.named_parameters()}


def images_for(stage, count):
    return noise(count, 3, stage.resolution_px, stage.resolution_px).clamp(-1, 1)


def samplers_of(backbone):
    is_flow = backbone.stages["base"].schedule.prediction_type == "flow_prediction"
    return ["euler"] if is_flow else ["dpm", "ancestral", "ddim"]


def sampling_of(backbone, sampler=None):
    name = sampler or samplers_of(backbone)[0]
    return Sampling({stage: Sampler(name, 2, 3.0) for stage in backbone.stages})


def draw(backbone, prompts=PROMPTS, keys=KEYS, sampler=None):
    """As int, so that differences have a sign."""
    return backbone.generate(prompts, keys, sampling_of(backbone, sampler)).int()


def refusal(use, *arguments, match):
    """The message of a ValueError, which is one line."""
    with pytest.raises(ValueError, match=match) as error:
        use(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def plain_times(scheduler):
    """Four timesteps of a scheduler; the same as our schedule has them."""
    i = torch.tensor([20, 700, 400, 900])
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return scheduler.timesteps[i], scheduler.sigmas[i]
    return i, i


def plain_noised(scheduler, x, eps, t):
    """z_t and the target, as diffusers' training scripts have them."""
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return scheduler.scale_noise(x, t, eps), eps - x
    kind = scheduler.config.prediction_type
    velocity = scheduler.get_velocity(x, eps, t)
    targets = {"epsilon": eps, "sample": x, "v_prediction": velocity}
    return scheduler.add_noise(x, eps, t), targets[kind]


class TestEveryModel:
    def test_losses_and_gradients_are_those_of_plain_diffusers(self, model, backbone):
        folder, _, plain_stage = model
        prompts, halves = ["a kzn dog"] * 2 + ["a dog"] * 2, (slice(2), slice(2, 4))
        for name, stage in backbone.stages.items():
            plain, schedule = plain_stage(folder, name), stage.schedule
            encoded = stage.encode(images_for(stage, 4))
            x = torch.stack([encoded.sample(i, torch.Generator()) for i in range(4)])
            eps, (plain_t, t) = noise(*x.shape, seed=1), plain_times(plain.scheduler)
            z_t, target = schedule.corrupt(x, eps, t), schedule.target(x, eps, t)
            plain_z_t, expected = plain_noised(plain.scheduler, x, eps, plain_t)
            torch.testing.assert_close(z_t, plain_z_t)
            torch.testing.assert_close(target, expected)

            rows = [stage.added_condition(row, torch.Generator(), 1e-3) for row in x]
            added = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
            ours = stage.predict(z_t, t, stage.encode_prompts(prompts) | added)
            theirs = plain.predict(z_t, plain_t, prompts, added)
            assert ours.dtype == torch.float32
            assert ours.shape == x.shape
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
            with torch.no_grad():
                other = stage.predict(z_t, t, stage.encode_prompts(prompts[::-1]) | added)
            assert not torch.allclose(ours, other, rtol=1e-4, atol=1e-5), "text has no effect"

            weights = loss_weights("uniform", schedule.snr(t), schedule.prediction_type)
            terms = [weighted_mse(ours[i], target[i], weights[i]) for i in halves]
            losses = two_term_loss(*terms, prior_weight=0.7)
            losses.total.backward()
            subject, prior = (F.mse_loss(theirs[i], expected[i]) for i in halves)
            (subject + 0.7 * prior).backward()
            assert losses.total.item() == pytest.approx((subject + 0.7 * prior).item(), abs=1e-6)
            own, of_plain = (dict(m.named_parameters()) for m in (stage.denoiser, plain.denoiser))
            assert own.keys() == of_plain.keys()
            for key, parameter in own.items():
                torch.testing.assert_close(
                    parameter.grad, of_plain[key].grad, rtol=1e-4, atol=1e-5, msg=key
                )

    def test_training_sees_what_the_models_pipeline_sees(self, backbone):
        """Which mistakes this finds: tests/backbones/test_parity.py."""
        checks = backbone.parity()
        assert [check for check in checks if not check.passed] == []
        assert checks or isinstance(backbone, CascadeBackbone), "a pipeline to compare with"

    def test_it_draws_in_half_precision_from_the_same_noise(self, backbone, monkeypatch):
        full, drawing_in = draw(backbone), partial(on_device, backbone, torch.device("cpu"))
        with drawing_in("32-true"):
            assert torch.equal(draw(backbone), full)
        before = {name: weights_of(stage) for name, stage in backbone.stages.items()}
        with drawing_in("bf16-mixed"):
            autocast = draw(backbone)
        assert 0 < (autocast - full).abs().float().mean() < 20
        # Where the denoiser comes from the CPU, its weights are halved before they are moved.
        monkeypatch.setattr(precision, "_is_on", lambda *_: False)
        with drawing_in("bf16-mixed"):
            for name, stage in backbone.stages.items():
                assert sum(p.nbytes for p in stage.denoiser.parameters()) < 0.75 * sum(
                    weight.nbytes for weight in before[name].values()
                )
            assert torch.equal(draw(backbone), autocast)
            assert [check for check in backbone.parity() if not check.passed] == []
        for name, stage in backbone.stages.items():
            after = weights_of(stage)
            assert all(torch.equal(after[key], weight) for key, weight in before[name].items())
        assert torch.equal(draw(backbone), full)

    @pytest.mark.parametrize("model", each(LATENT, *QUICK[1:]), indirect=True)
    def test_only_a_text_encoder_that_trains_is_where_the_denoiser_is(self, backbone):
        stage = backbone.stages["base"]
        stage.encode_prompts(["a dog"])
        encoders = [getattr(backbone._pipeline, name) for name in stage.text_encoders]
        stage.denoiser.to("meta")
        assert stage.encode_prompts(["a cat"])["text"].is_meta
        assert {encoder.device.type for encoder in encoders} == {"cpu"}
        encoders[0].requires_grad_(True)
        with pytest.raises(RuntimeError, match=r"meta"):  # has no data
            stage.encode_prompts(["a toy"])
        assert encoders[0].device.type == "meta"

    def test_an_encoding_is_frozen_and_does_not_depend_on_its_batch(self, backbone):
        for stage in backbone.stages.values():
            images = images_for(stage, 3)
            together, alone = stage.encode(images), stage.encode(images[1:2])
            assert together.mean.shape == (3, *stage.x_shape)
            assert not together.mean.requires_grad
            assert torch.equal(together.mean[1:2], alone.mean)
            assert (together.std is None) == (alone.std is None)
            assert together.std is None or torch.equal(together.std[1:2], alone.std)

    def test_a_prompt_is_encoded_once_and_frozen(self, backbone):
        for stage in backbone.stages.values():
            first = stage.encode_prompts([PROMPTS[0], PROMPTS[1], PROMPTS[0]])
            calls = []
            hook = register_module_forward_hook(lambda *_, seen=calls: seen.append(1))
            again = stage.encode_prompts([PROMPTS[1], PROMPTS[0]])
            hook.remove()
            assert calls == []
            for key, value in first.items():
                assert not value.requires_grad
                assert torch.equal(value[:2].flip(0), again[key])
                assert torch.equal(value[0], value[2])
            assert not torch.equal(first["text"][0], first["text"][1])

    def test_with_gradient_a_prompt_is_encoded_anew(self, backbone):
        """Of models with one text encoder: others train none."""
        for stage in (s for s in backbone.stages.values() if s.text_encoder is not None):
            before = stage.encode_prompts(PROMPTS[:1])["text"]
            weight = stage.text_encoder.get_input_embeddings().weight.requires_grad_(True)
            found = stage.encode_prompts(PROMPTS[:1], with_gradient=True)["text"]
            torch.testing.assert_close(found.detach(), before, rtol=1e-4, atol=1e-5)
            assert torch.autograd.grad(found.square().sum(), weight)[0].abs().sum() > 0
            with torch.no_grad():
                weight.add_(noise(*weight.shape))
            assert not torch.allclose(stage.encode_prompts(PROMPTS[:1])["text"], before)

    def test_an_image_depends_on_its_prompt_and_key_only(self, backbone):
        for sampler in samplers_of(backbone):
            backbone.batch_size = 4
            together = draw(backbone, sampler=sampler)
            backbone.batch_size = 1
            alone = draw(backbone, PROMPTS[2:], KEYS[2:], sampler)
            assert (together[2:] - alone).abs().max() <= 1
            other_key = draw(backbone, PROMPTS[2:], [("image", PROMPTS[2], 1)], sampler)
            assert (other_key - alone).abs().max() > 10
            other_prompt = draw(backbone, PROMPTS[:1], KEYS[2:], sampler)
            assert (other_prompt - alone).abs().max() > 10

    def test_images_are_8_bit_and_of_the_last_stage(self, backbone):
        last = [*backbone.stages.values()][-1]
        images = backbone.generate(PROMPTS[:1], KEYS[:1], sampling_of(backbone))
        assert images.dtype == torch.uint8
        assert images.shape == (1, 3, last.resolution_px, last.resolution_px)
        assert images.float().std() > 5, "a flat image"

    def test_drawing_leaves_the_training_mode_as_it_was(self, backbone):
        first, *others = backbone.stages.values()
        first.denoiser.train()
        draw(backbone, PROMPTS[:1], KEYS[:1])
        assert first.denoiser.training
        assert not any(stage.denoiser.training for stage in others)

    def test_a_prompt_that_is_too_long_says_by_how_much(self, backbone):
        def generate(prompt):
            backbone.generate([prompt], KEYS[:1], sampling_of(backbone))

        for use in (backbone.check_prompt, generate):
            refusal(use, "dog " * 600, match=r"has 6\d\d tokens.* takes \d+: shorten it by \d+$")

    def test_a_saved_model_loads_to_the_same_model(self, load, backbone, tmp_path):
        before = draw(backbone)
        for stage in backbone.stages.values():
            with torch.no_grad():
                for parameter in stage.denoiser.parameters():
                    parameter.add_(0.01 * noise(*parameter.shape))
        changed = draw(backbone)
        assert (changed - before).abs().max() > 1
        backbone.save(tmp_path / "saved")
        again = load(tmp_path / "saved")
        assert again.fingerprint() == backbone.fingerprint()
        assert torch.equal(draw(again), changed)

    def test_the_fingerprint_changes_with_one_weight_of_any_part(self, load, backbone, copied):
        seen = {backbone.fingerprint()}
        files = sorted(copied.rglob("*.safetensors"))
        assert len(files) > len(backbone.stages), "a file for each stage, and a text encoder"
        for file in files:
            tensors = load_file(file)
            tensors[max(tensors)].view(-1)[0] += 1e-3
            save_file(tensors, file, metadata={"format": "pt"})
            seen.add(load(copied).fingerprint())
        assert len(seen) == 1 + len(files)

    @pytest.mark.parametrize("adapter", ["lora", "loha"])  # as diffusers saves it, and as peft does
    def test_saved_adapters_are_read_again(self, backbone, adapter, tmp_path):
        states = {}
        for name, stage in backbone.stages.items():
            adapter_method(adapter, r"adapter.targets='.*\.to_[qkv]'").prepare(stage)
            states[name] = adapter_state(stage.denoiser)
        backbone.save_adapters(tmp_path, "diffusers")
        found = backbone.read_adapters(tmp_path)
        assert found.keys() == states.keys()
        for name, state in states.items():
            assert found[name].keys() == state.keys()
            assert all(torch.equal(found[name][key], state[key]) for key in state)

    def test_a_missing_or_damaged_part_is_refused_in_one_sentence(self, load, copied, tmp_path):
        refusal(load, tmp_path / "nowhere", match=str(tmp_path / "nowhere"))
        for part in sorted(copied.iterdir()):
            part.rename(tmp_path / "lost")
            refusal(load, copied, match=str(copied))
            (tmp_path / "lost").rename(part)
        for file in sorted(copied.rglob("*.safetensors")):
            content = file.read_bytes()
            file.write_bytes(content[: len(content) // 2])
            refusal(load, copied, match=str(copied))
            file.write_bytes(content)
        load(copied)
