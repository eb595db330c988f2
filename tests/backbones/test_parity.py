"""Does training see what inference sees? Each known mistake is named by the check that fails."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import command
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from kinds import each
from tiny_flux import flux_folder
from tiny_flux2 import flux2_klein_folder
from tiny_models import stable_diffusion_folder, stable_diffusion_xl_folder

from dreambooth.backbones.cascade import CascadeBackbone
from dreambooth.backbones.flux import FluxBackbone
from dreambooth.backbones.flux2_klein import Flux2KleinBackbone
from dreambooth.backbones.parity import MEANING, check_parity, checks_of, target_check
from dreambooth.backbones.stable_diffusion import StableDiffusionBackbone
from dreambooth.backbones.stable_diffusion_xl import (
    StableDiffusionXLBackbone,
    StableDiffusionXLStage,
)
from dreambooth.backbones.stage import Encoded, Sampling
from dreambooth.runs.settings import Sampler
from dreambooth.schedules import FlowMatching, schedule_of

KINDS = {
    "sd15": (StableDiffusionBackbone, stable_diffusion_folder, {}),
    "sd21": (StableDiffusionBackbone, stable_diffusion_folder, {"v_prediction": True}),
    "sdxl": (StableDiffusionXLBackbone, stable_diffusion_xl_folder, {"latents_mean": True}),
    "sdxl_v": (StableDiffusionXLBackbone, stable_diffusion_xl_folder, {"v_prediction": True}),
    "flux1": (FluxBackbone, flux_folder, {}),
    "flux2_klein": (Flux2KleinBackbone, flux2_klein_folder, {}),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return {
        name: make(tmp_path_factory.mktemp(name), **options)
        for name, (_, make, options) in KINDS.items()
    }


@pytest.fixture
def sdxl(folders) -> StableDiffusionXLBackbone:
    return StableDiffusionXLBackbone.load(folders["sdxl"])


@pytest.fixture
def sd15(folders) -> StableDiffusionBackbone:
    return StableDiffusionBackbone.load(folders["sd15"])


@pytest.fixture
def flux1(folders) -> FluxBackbone:
    return FluxBackbone.load(folders["flux1"], resolution_px=64)


@pytest.fixture
def klein(folders) -> Flux2KleinBackbone:
    return Flux2KleinBackbone.load(folders["flux2_klein"], resolution_px=64)


def failed(backbone) -> list[str]:
    return [check.name for check in backbone.parity() if not check.passed]


@pytest.mark.parametrize("kind", each({name: name for name in KINDS}, "sd15", "flux1"))
def test_a_faithful_model_passes_and_is_left_as_it_was(folders, kind):
    backbone = KINDS[kind][0].load(folders[kind], resolution_px=64)
    sampler = "euler" if kind.startswith("flux") else "ddim"
    sampling = Sampling({"base": Sampler(sampler, 2, 3.0)})
    before = backbone.generate(["a dog"], [("k",)], sampling)
    scheduler = backbone._pipeline.scheduler
    state = {name: repr(value) for name, value in vars(scheduler).items()}
    backbone.stages["base"].denoiser.train()
    checks = backbone.parity()
    assert [check.name for check in checks] == list(MEANING)
    assert all(check.difference < 1e-4 for check in checks), checks
    assert backbone.stages["base"].denoiser.training
    assert not backbone.stages["base"].denoiser._forward_pre_hooks
    assert "decode" not in vars(backbone._pipeline.vae)
    assert backbone._pipeline.scheduler is scheduler
    assert {name: repr(value) for name, value in vars(scheduler).items()} == state
    assert torch.equal(backbone.generate(["a dog"], [("k",)], sampling), before)
    assert check_parity(backbone).startswith("training sees what the model's pipeline sees, to ")


def changed_encoding(change):
    """A mistake in the latents: `change` is given mean, VAE's config, and returns another mean."""

    def inject(stage, patch):
        encode, config = stage.encode, stage._pipeline.vae.config
        patch.setattr(stage, "encode", lambda images: Encoded(change(encode(images).mean, config)))

    return inject


def changed_text(change):
    """A mistake in the text: `change` is given stage, prompt and condition of one prompt."""

    def inject(stage, patch):
        encode = stage._encode_prompt
        patch.setattr(
            stage, "_encode_prompt", lambda p: {**encode(p), **change(stage, p, encode(p))}
        )

    return inject


def changed_input(change):
    """A mistake in what the denoiser is given: `change` is given z_t, t, condition."""

    def inject(stage, patch):
        predict = stage.predict
        patch.setattr(stage, "predict", lambda *given: predict(*change(*given)))

    return inject


def changed_output(change):
    def inject(stage, patch):
        predict = stage.predict
        patch.setattr(stage, "predict", lambda *given: change(predict(*given)))

    return inject


def changed_schedule(change):
    def inject(stage, patch):
        patch.setattr(stage, "schedule", change(stage.schedule))

    return inject


def last_layer(stage, prompt, condition):
    """The last hidden layer of the text encoders in place of the penultimate one."""
    pipeline, hidden = stage._pipeline, []
    for part in ("", "_2"):
        tokenizer, encoder = (
            getattr(pipeline, f"{n}{part}") for n in ("tokenizer", "text_encoder")
        )
        ids = tokenizer(prompt, padding="max_length", max_length=77, return_tensors="pt").input_ids
        hidden.append(encoder(ids, output_hidden_states=True).hidden_states[-1][0])
    return {"text": torch.cat(hidden, dim=-1)} if prompt else {}


def empty_text(stage, prompt, condition):
    """The empty prompt, encoded, where the pipeline takes zeros."""
    if prompt:
        return {}
    text, _, pooled, _ = stage._pipeline.encode_prompt("", do_classifier_free_guidance=False)
    return {"text": text[0], "pooled": pooled[0]}


def other_sizes(z_t, t, condition):
    return (
        z_t,
        t,
        condition | {"time_ids": condition["time_ids"] + torch.tensor([0, 0, 8, 0, 0, 0])},
    )


def other_rows(z_t, t, condition):
    """The captions of a shuffled batch beside cached latents."""
    return z_t, t, {key: value.flip(0) for key, value in condition.items()}


def script_layers(stage, prompt, condition):
    """The text of train_dreambooth_lora_flux2_klein.py in diffusers 0.37."""
    layers = (10, 20, 30)
    text, _ = stage._pipeline.encode_prompt(prompt, text_encoder_out_layers=layers)
    return {"text": text[0]}


def other_guidance(stage, patch):
    """FLUX.1 is trained with the scale 1, and its pipeline is called with another one."""
    predict = stage.predict

    def predict_with_1(*given):
        with pytest.MonkeyPatch.context() as inside:
            inside.setattr(stage, "embedded_guidance", 1.0)
            return predict(*given)

    patch.setattr(stage, "predict", predict_with_1)


class Negated(FlowMatching):
    def target(self, x, eps, t):
        return x - eps


def scaled_noise(schedule):
    class Scaled(type(schedule)):
        def corrupt(self, x, eps, t):
            return super().corrupt(x, 1.05 * eps, t)

    return Scaled(schedule.alphas_cumprod, schedule.prediction_type)


MISTAKES = {
    "another scaling factor": (
        "latents",
        changed_encoding(lambda mean, config: mean * 0.2 / config.scaling_factor),
    ),
    "no scaling factor": (
        "latents",
        changed_encoding(lambda mean, config: mean / config.scaling_factor),
    ),
    "no mean of the latents": (
        "latents",
        changed_encoding(
            lambda mean, c: (
                mean + torch.tensor(c.latents_mean or [0.1] * 4).view(4, 1, 1) * c.scaling_factor
            )
        ),
    ),
    "an image scaled in predict": ("latents", changed_input(lambda z, t, c: (0.98 * z, t, c))),
    "t times 1000": ("timestep", changed_input(lambda z, t, c: (z, 1000 * t, c))),
    "t off by one": ("timestep", changed_input(lambda z, t, c: (z, t + 1, c))),
    "a negated output": ("sign", changed_output(lambda output: -output)),
    "an output in other units": ("sign", changed_output(lambda output: 1.01 * output)),
    "captions of other rows": ("text", changed_input(other_rows)),
    "no padding": (
        "text",
        changed_text(lambda stage, prompt, condition: {"text": condition["text"][:8]}),
    ),
    "v for epsilon": (
        "target",
        changed_schedule(lambda schedule: replace(schedule, prediction_type="v_prediction")),
    ),
    "x for epsilon": (
        "target",
        changed_schedule(lambda schedule: replace(schedule, prediction_type="sample")),
    ),
    "more noise": ("target", changed_schedule(scaled_noise)),
    "other betas": (
        "target",
        changed_schedule(lambda s: replace(s, alphas_cumprod=s.alphas_cumprod**0.97)),
    ),
}
OF_SDXL = {
    "another hidden layer": ("text", changed_text(last_layer)),
    "pooled text of another prompt": (
        "text",
        changed_input(lambda z, t, c: (z, t, c | {"pooled": c["pooled"].flip(0)})),
    ),
    "pooled text of the first encoder": (
        "text",
        changed_text(lambda stage, p, c: {"pooled": c["text"][0, :16]}),
    ),
    "other sizes": ("text", changed_input(other_sizes)),
    "the empty prompt encoded": ("guidance", changed_text(empty_text)),
}


SHARED = ("t times 1000", "t off by one", "a negated output", "captions of other rows")
OF_FLUX = {name: MISTAKES[name] for name in (*SHARED, "no padding")} | {
    "another sign of the target": ("target", changed_schedule(lambda schedule: Negated())),
}
OF_FLUX1 = OF_FLUX | {
    "no shift of the latents": (
        "latents",
        changed_encoding(lambda mean, config: mean + config.shift_factor * config.scaling_factor),
    ),
    "another guidance": ("text", other_guidance),
}
OF_KLEIN = OF_FLUX | {
    "other hidden layers": ("text", changed_text(script_layers)),
    "latents that are not normalized": ("latents", changed_encoding(lambda mean, _: 1.1 * mean)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("model", ["sd15", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_a_mistake_is_named_by_the_check_that_fails(model, mistake, request, monkeypatch):
    assert_named(request.getfixturevalue(model), *MISTAKES[mistake], monkeypatch)


@pytest.mark.parametrize("mistake", OF_SDXL)
def test_a_mistake_with_two_text_encoders_is_named_too(sdxl, mistake, monkeypatch):
    assert_named(sdxl, *OF_SDXL[mistake], monkeypatch)


@pytest.mark.parametrize(
    ("model", "mistake"),
    [
        *(("flux1", name) for name in OF_FLUX1),
        *(pytest.param("klein", name, marks=pytest.mark.slow) for name in OF_KLEIN),
    ],
)
def test_a_mistake_in_flow_matching_is_named_too(model, mistake, request, monkeypatch):
    mistakes = {"flux1": OF_FLUX1, "klein": OF_KLEIN}[model]
    assert_named(request.getfixturevalue(model), *mistakes[mistake], monkeypatch)


def assert_named(backbone, name, inject, patch):
    inject(backbone.stages["base"], patch)
    checks = backbone.parity()
    patch.setattr(backbone, "parity", lambda: checks)  # asked twice, made once
    names = failed(backbone)
    # The guidance is of the same text: it fails beside a mistake there, and beside no other.
    assert names == ([name, "guidance"] if name == "text" and len(names) > 1 else [name])
    with pytest.raises(ValueError, match=f"they differ in {name} by ") as error:
        check_parity(backbone)
    assert "\n" not in str(error.value)


def test_flow_matching_has_the_target_of_diffusers():
    x = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    schedule = schedule_of(scheduler)
    assert target_check(schedule, scheduler, x).difference < 1e-6

    assert not target_check(Negated(), scheduler, x).passed
    scheduler = DDPMScheduler()
    assert target_check(schedule_of(scheduler), scheduler, x).passed


def test_a_model_without_a_pipeline_has_nothing_to_check(tiny):
    backbone = CascadeBackbone.load(tiny)
    assert backbone.parity() == []
    assert check_parity(backbone) == ""
    ended = command("check", "model=miniature", f"model.backbone.pretrained={tiny}")
    assert ended.code == 0
    assert "nothing to check" in ended.output


def test_the_command_prints_a_line_for_each_check_and_fails_with_one(folders, monkeypatch):
    words = ("model=sdxl", f"model.backbone.pretrained={folders['sdxl']}", "trainer=cpu")
    ended = command("check", *words)
    assert ended.code == 0, ended.output
    lines = [line.split() for line in ended.output.strip().splitlines()[-6:]]
    assert [line[:2] for line in lines] == [[name, "ok"] for name in MEANING]
    assert all(float(line[2]) < 1e-4 for line in lines)

    predict = StableDiffusionXLStage.predict
    monkeypatch.setattr(StableDiffusionXLStage, "predict", lambda *given: -predict(*given))
    ended = command("check", *words)
    assert ended.code == 1
    assert [line.split()[0] for line in ended.output.splitlines() if "FAILED" in line] == ["sign"]


@pytest.mark.slow
def test_a_run_is_checked_once_at_its_start(stable_diffusion_xl, tmp_path, monkeypatch):
    def run(name, *words):
        own = ("experiment=smoke", "trainer=cpu", "logger=csv", *stable_diffusion_xl, "prior=off")
        folder = f"hydra.run.dir={tmp_path / name}"
        return command("train", *own, "method.max_steps=1", folder, *words)

    said = "training sees what the model's pipeline sees"
    ended = run("checked")
    assert ended.code == 0, ended.output
    assert ended.output.count(said) == 1
    predict = StableDiffusionXLStage.predict
    monkeypatch.setattr(StableDiffusionXLStage, "predict", lambda *given: -predict(*given))
    ended = run("refused")
    assert ended.code == 1
    assert (
        "training does not see what this model's own pipeline sees: they differ in sign"
        in (ended.output.strip().splitlines()[-1])
    )
    ended = run("unchecked", "check=false")
    assert ended.code == 0, ended.output
    assert said not in ended.output


def test_the_checks_take_a_stage_that_packs_its_latents(sd15):
    """As those of FLUX, whose pipeline passes on rows of patches."""
    stage = sd15.stages["base"]
    stage.to_pipeline = lambda x: x.flip(1)
    stage.from_pipeline = lambda x: x.flip(1)
    checks = checks_of(sd15._pipeline_with(sd15._pipeline.scheduler), stage)
    # The pipeline has another layout here than this stage says, so these two must differ.
    assert [check.name for check in checks if not check.passed] == ["latents", "sign"]
