import json
from dataclasses import replace

import pytest
import torch

from dreambooth.backbones.cascade import (
    CascadeBackbone,
    corrupt_low_resolution,
    log10_uniform,
    noise_level_input,
    save_as,
)
from dreambooth.backbones.stage import Sampling
from dreambooth.runs.settings import Sampler

SAMPLING = Sampling({"base": Sampler("dpm", 2, 3.0), "sr": Sampler("dpm", 2, 1.0)})


@pytest.fixture(scope="module")
def shared(tiny):
    """Only to be read."""
    return CascadeBackbone.load(tiny)


@pytest.fixture
def backbone(tiny):
    return CascadeBackbone.load(tiny)


def noisy(stage, seed=0, size=2):
    return torch.randn(size, *stage.x_shape, generator=torch.Generator().manual_seed(seed))


def sr_condition(stage, level=1e-3, size=2):
    low = torch.rand(size, 3, 32, 32, generator=torch.Generator().manual_seed(5)) * 2 - 1
    text = stage.encode_prompts(["a dog"] * size)
    return {**text, "low_resolution": low, "noise_level": torch.full((size,), level)}


def test_a_cascade_has_a_base_stage_and_then_an_sr_stage(shared):
    assert list(shared.stages) == ["base", "sr"]
    assert [s.x_shape for s in shared.stages.values()] == [(3, 32, 32), (3, 64, 64)]
    assert [s.low_resolution_px for s in shared.stages.values()] == [None, 32]


def test_the_encoding_of_pixels_is_the_pixels(shared):
    stage = shared.stages["base"]
    images = torch.rand(2, *stage.x_shape) * 2 - 1
    encoded = stage.encode(images)
    assert encoded.std is None
    assert torch.equal(encoded.mean, images)


def test_the_sr_stage_sees_the_low_resolution_image_and_its_noise_level(shared):
    stage = shared.stages["sr"]
    z_t, t = noisy(stage), torch.tensor([3, 700])
    condition = sr_condition(stage)
    with torch.no_grad():
        found = stage.predict(z_t, t, condition)
        other_image = stage.predict(
            z_t, t, condition | {"low_resolution": torch.zeros(2, 3, 32, 32)}
        )
        other_level = stage.predict(z_t, t, condition | {"noise_level": torch.full((2,), 0.2)})
    assert found.shape == z_t.shape
    assert not torch.allclose(found, other_image)
    assert not torch.allclose(found, other_level)


def test_the_noise_level_is_passed_on_the_scale_of_timesteps():
    levels = torch.tensor([0.0, 1e-6, 1e-5, 1e-3, 1.0])
    expected = torch.tensor([0, 0, 1000 / 6, 500, 1000])
    torch.testing.assert_close(noise_level_input(levels), expected, rtol=0, atol=1e-3)


def test_the_noise_level_is_the_variance_of_a_variance_preserving_corruption():
    noise = torch.Generator().manual_seed(0)
    low, eps = (torch.randn(3, 3, 64, 64, generator=noise) for _ in range(2))
    level = torch.tensor([0.0, 0.25, 1.0])
    found = corrupt_low_resolution(low, level, eps)
    assert torch.equal(found[0], low[0])
    assert torch.equal(found[2], eps[2])
    torch.testing.assert_close(found[1], 0.75**0.5 * low[1] + 0.5 * eps[1])
    torch.testing.assert_close(found.var(dim=(1, 2, 3)), torch.ones(3), rtol=0, atol=0.05)


def test_log_uniform_levels_are_within_their_bounds_and_uniform_in_the_logarithm():
    levels = log10_uniform(1e-6, 1.0, torch.linspace(0, 1, 7))
    expected = torch.tensor([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    torch.testing.assert_close(levels, expected, rtol=1e-4, atol=0)


def test_a_saved_cascade_keeps_its_name_and_its_rule_on_words(backbone, tmp_path):
    backbone.save(tmp_path)
    again = CascadeBackbone.load(tmp_path)
    assert (again.name, again.known_words_only) == ("tiny", True)


def test_half_precision_is_half_as_large_and_loads_in_float32(backbone, tmp_path):
    backbone.save(tmp_path / "full")
    backbone.save(tmp_path / "half")
    for part, stage in backbone.stages.items():
        save_as(stage.denoiser, tmp_path / "half" / part, torch.float16)
    name = "base/diffusion_pytorch_model.safetensors"
    full, half = ((tmp_path / f / name).stat().st_size for f in ("full", "half"))
    assert half < 0.7 * full
    again = CascadeBackbone.load(tmp_path / "half")
    for ours, theirs in zip(backbone.stages.values(), again.stages.values(), strict=True):
        assert theirs.denoiser.dtype == ours.denoiser.dtype == torch.float32
        for a, b in zip(ours.denoiser.parameters(), theirs.denoiser.parameters(), strict=True):
            assert torch.equal(a.half().float(), b)


def test_a_cascade_without_an_sr_stage_draws_images_of_the_base_stage(backbone, tmp_path):
    backbone.save(tmp_path)
    about = json.loads((tmp_path / "cascade.json").read_text())
    del about["stages"]["sr"]
    (tmp_path / "cascade.json").write_text(json.dumps(about))
    alone = CascadeBackbone.load(tmp_path)
    keys = [("image", "a {}", 0)]
    found = alone.generate(["a dog"], keys, SAMPLING)
    assert found.shape == (1, 3, 32, 32)
    assert torch.equal(
        found, backbone.generate(["a dog"], keys, replace(SAMPLING, last_stage="base"))
    )
    with pytest.raises(ValueError, match=r"has no SR stage$"):
        alone.super_resolve(torch.zeros(1, 3, 32, 32), ["a dog"], keys, SAMPLING)


@pytest.mark.parametrize("prompt", ["a red striped dog", "a kzn dog in the snow", "a dog dog"])
def test_words_of_the_world_are_known(shared, prompt):
    shared.check_prompt(prompt)


@pytest.mark.parametrize("word", ["doggo", "Snö", "dog,", "hund!", "{}", "狗"])
def test_a_word_outside_the_vocabulary_is_named_with_the_nearest(shared, word):
    with pytest.raises(ValueError, match="is outside the vocabulary of model tiny") as caught:
        shared.check_prompt(f"a {word} in the snow")
    assert repr(word) in str(caught.value)
    assert str(caught.value).count(", ") >= 2
    assert ("dog" in str(caught.value).partition("nearest")[2]) or word not in ("doggo", "dog,")


def test_an_identifier_may_be_outside_the_vocabulary(shared):
    shared.check_prompt("a xxy5syt00 dog", identifier="xxy5syt00")
    with pytest.raises(ValueError, match="'xxy5syt00'"):
        shared.check_prompt("a xxy5syt00 dog", identifier="kzn")


def test_a_prompt_that_is_too_long_says_how_many_tokens_it_has(shared):
    shared.check_prompt(" ".join(["a"] * 22))
    for use in (
        shared.check_prompt,
        lambda p: shared.generate([p], [("image", p, 0)], SAMPLING),
    ):
        with pytest.raises(ValueError, match=r"has 25 tokens, .* takes 24: shorten it by 1"):
            use(" ".join(["a"] * 23))


def test_a_folder_without_a_cascade_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"there is no cascade in .*no cascade\.json"):
        CascadeBackbone.load(tmp_path)


@pytest.mark.parametrize(
    "lost", ["sr/config.json", "sr/scheduler_config.json", "tokenizer/tokenizer.json"]
)
def test_a_missing_file_of_a_cascade_is_refused_in_one_sentence(backbone, tmp_path, lost):
    backbone.save(tmp_path)
    (tmp_path / lost).rename(tmp_path / "lost")
    with pytest.raises(ValueError, match="is damaged") as caught:
        CascadeBackbone.load(tmp_path)
    assert "\n" not in str(caught.value)
