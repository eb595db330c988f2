"""The file of a LoRA, in each format: what plain diffusers draws with it, and how it is read."""

import pytest
import torch
from adapters_of_conf import adapter_method
from safetensors.torch import load_file
from test_adapters import KEY, SAMPLING, drawn_by, shifted

from dreambooth.backbones.lora_files import FILE, read_lora
from dreambooth.backbones.stable_diffusion import StableDiffusionBackbone

TEXT = "method.train_text_encoder=true"
KOHYA = "adapter.save_format=kohya"
CASES = {
    "kohya": ("lora", KOHYA),
    "kohya_alpha": ("lora", KOHYA, "adapter.config.lora_alpha=2"),
    "kohya_rslora": ("lora", KOHYA, "+adapter.config.use_rslora=true"),
    "kohya_text": ("lora", KOHYA, TEXT),
    "diffusers_text": ("lora", TEXT),
    "dora_text": ("dora", TEXT),
}


def loaded(stable_diffusion):
    return StableDiffusionBackbone.load(stable_diffusion[1].partition("=")[2])


@pytest.mark.slow
@pytest.mark.parametrize("words", CASES.values(), ids=CASES)
def test_plain_diffusers_draws_the_same_picture_and_the_run_reads_it_again(
    stable_diffusion, tmp_path, words
):
    backbone, method = loaded(stable_diffusion), adapter_method(*words)
    stage = backbone.stages["base"]
    plain = backbone.generate(["a dog"], [KEY], SAMPLING)[0]
    shifted(stage, method)
    ours = backbone.generate(["a dog"], [KEY], SAMPLING)[0]
    assert (ours.int() - plain.int()).abs().max() > 10
    method.save(backbone, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    theirs = drawn_by(backbone.recipe(tmp_path, "a dog", KEY, SAMPLING))
    assert (theirs.int() - ours.int()).abs().max() <= 1

    again = method.load(lambda: loaded(stable_diffusion), tmp_path)
    expected, found = method.state(stage), method.state(again.stages["base"])
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert any(name.startswith("text_encoder.") for name in found) == (TEXT in words)


def test_kohyas_names_have_one_alpha_for_each_layer(stable_diffusion, tmp_path):
    backbone = loaded(stable_diffusion)
    method = adapter_method("lora", KOHYA, TEXT, "adapter.config.lora_alpha=2")
    shifted(backbone.stages["base"], method)
    method.save(backbone, tmp_path)
    tensors = load_file(tmp_path / FILE)
    stems = {name.partition(".")[0] for name in tensors}
    assert "lora_te_text_model_encoder_layers_0_self_attn_q_proj" in stems
    assert "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0" in stems
    assert tensors.keys() == {
        f"{stem}.{end}" for stem in stems for end in ("lora_down.weight", "lora_up.weight", "alpha")
    }
    assert {value.item() for name, value in tensors.items() if name.endswith("alpha")} == {2.0}


@pytest.mark.parametrize("save_format", ["diffusers", "kohya"])
def test_the_file_of_another_model_is_one_sentence(stable_diffusion, tmp_path, save_format):
    backbone, method = (
        loaded(stable_diffusion),
        adapter_method("lora", f"adapter.save_format={save_format}"),
    )
    method.prepare(backbone.stages["base"])
    method.save(backbone, tmp_path)
    smaller = adapter_method("lora", "adapter.targets='.*attn1.to_q'")
    with pytest.raises(ValueError, match="adapter's file is of another model: its base_model"):
        smaller.load(lambda: loaded(stable_diffusion), tmp_path)
    thicker = adapter_method("lora", "adapter.config.r=2")
    with pytest.raises(
        ValueError, match=r"of another model: .*\(8, 16\), and this model's is \(2, 16"
    ):
        thicker.load(lambda: loaded(stable_diffusion), tmp_path)
    with pytest.raises(ValueError, match="is of another model"):
        read_lora({"text_encoder": torch.nn.Linear(1, 1)}, tmp_path)


def test_a_format_that_does_not_fit_is_refused(tiny, stable_diffusion):
    from dreambooth.backbones.cascade import CascadeBackbone

    method = adapter_method("lora", KOHYA)
    with pytest.raises(ValueError, match="save_format=kohya: an adapter of tiny has no such"):
        method.names(None, None, CascadeBackbone.load(tiny))
    with pytest.raises(ValueError, match="save_format=kohya is for adapter=lora: give "):
        adapter_method("dora", KOHYA).names(None, None, loaded(stable_diffusion))
