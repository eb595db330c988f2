"""The text encoder: its training data and loss, and that the shipped one preserves every token.

Weights that were trained with the settings of conf/pretrain.yaml (part=text) pass these tests.
"""

import runpy

import numpy as np
import pytest
import torch
from commands import ROOT

from dreambooth import miniature
from dreambooth.backbones.cascade import PromptEncoder
from dreambooth.miniature import world
from dreambooth.miniature.oracle import ATTRIBUTES
from dreambooth.miniature.text import (
    NOUNLESS_SHARE,
    TEXT_IDENTIFIER_SHARE,
    CaptionBatches,
    TextPretraining,
    meaningless_identifier,
    new_text_encoder,
    random_caption,
    token_targets,
)
from dreambooth.miniature.tokenizer import MAX_TOKENS, build_tokenizer, caption_words, rare_tokens
from dreambooth.miniature.world import random_scene

# --- training ----------------------------------------------------------------------------------


def batches(text_encoder, batch_size=16, seed=1):
    tokens = PromptEncoder(build_tokenizer(), text_encoder, MAX_TOKENS).tokens
    return CaptionBatches(tokens, batch_size, 40, seed)


def test_the_targets_of_a_word_are_the_tokens_so_far_and_of_padding_all_tokens():
    targets = token_targets(torch.tensor([[1, 7, 9, 7, 2, 0, 0]]), pad_id=0)[0]
    assert targets.sum(1).tolist() == pytest.approx([1] * 7)

    def target(position):
        return {i: round(p, 4) for i, p in enumerate(targets[position].tolist()) if p}

    assert target(0) == {1: 1.0}
    assert target(1) == {1: 0.25, 7: 0.75}
    assert target(3) == {1: 0.1667, 7: 0.6667, 9: 0.1667}  # a repeated token counts once
    assert target(5) == target(6) == {1: 0.25, 2: 0.25, 7: 0.25, 9: 0.25}


def test_the_loss_of_the_tokens_is_0_if_the_targets_are_predicted():
    model = new_text_encoder()
    module = TextPretraining(model, num_steps=1)
    logged = {}
    module.log_dict = lambda values, **_: logged.update(values)
    batch = batches(model)[0]
    module.training_step(batch, 0)
    assert logged["tokens"] > 1
    targets = token_targets(batch["tokens"], pad_id=0)
    module.tokens = torch.nn.Module()
    module.tokens.forward = lambda _: targets.clamp(min=1e-12).log()
    module.training_step(batch, 0)
    assert logged["tokens"] == pytest.approx(0, abs=1e-5)


def test_half_of_the_captions_have_an_identifier_and_every_rare_token_occurs():
    rng = np.random.default_rng(0)
    scenes = [random_scene(rng) for _ in range(4000)]
    texts = [random_caption(scene, rng) for scene in scenes]
    words = set(caption_words())
    named = [
        (text, scene.individual.class_noun)
        for text, scene in zip(texts, scenes, strict=True)
        if not set(text.split()) <= words
    ]
    assert len(named) / len(texts) == pytest.approx(TEXT_IDENTIFIER_SHARE, abs=0.03)
    nounless = [text for text, noun in named if noun not in text.split()]
    assert len(nounless) / len(named) == pytest.approx(NOUNLESS_SHARE, abs=0.03)
    assert set(rare_tokens()) <= {word for text in texts for word in text.split()}
    assert "" in texts


def test_an_identifier_is_one_to_three_different_rare_tokens_or_a_few_characters():
    rng = np.random.default_rng(0)
    rare, counts, lengths = set(rare_tokens()), set(), set()
    for _ in range(2000):
        words = meaningless_identifier(rng).split()
        if set(words) <= rare:
            assert len(set(words)) == len(words)
            counts.add(len(words))
        else:
            (word,) = words
            lengths.add(len(word))
    assert counts == {1, 2, 3}
    assert lengths == set(range(3, 10))


def test_a_batch_depends_on_seed_and_step_only():
    model = new_text_encoder()
    a, b = (batches(model)[3] for _ in range(2))
    assert a["tokens"].shape == (16, MAX_TOKENS)
    assert torch.equal(a["tokens"], b["tokens"])
    assert all(torch.equal(a["labels"][k], b["labels"][k]) for k in ATTRIBUTES)
    assert not torch.equal(a["tokens"], batches(model)[4]["tokens"])
    assert not torch.equal(a["tokens"], batches(model, seed=2)[3]["tokens"])


@pytest.mark.slow
def test_a_few_steps_lower_both_losses_on_new_captions():
    torch.manual_seed(0)
    model = new_text_encoder()
    module = TextPretraining(model, num_steps=40)
    logged = {}
    module.log_dict = lambda values, **_: logged.update({k: v.item() for k, v in values.items()})
    optimizer = module.configure_optimizers()["optimizer"]
    optimizer.param_groups[0]["lr"] = 2e-3  # skips the warm-up
    data = batches(model)
    module.training_step(data[39], 0)
    before = dict(logged)
    for step in range(39):
        loss = module.training_step(data[step], 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    module.training_step(data[39], 0)
    assert logged["attributes"] < 0.95 * before["attributes"]
    assert logged["tokens"] < 0.6 * before["tokens"]


# --- the shipped weights -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def measurements():
    benchmark = runpy.run_path(str(ROOT / "benchmarks/text_encoder.py"))
    return benchmark["measure"](miniature.WEIGHTS)


@pytest.mark.slow
def test_a_linear_probe_recognizes_the_identifier_at_its_position(measurements):
    assert measurements["identifier probe"] >= 0.99


@pytest.mark.slow
def test_two_rare_tokens_differ_as_two_nouns_do(measurements):
    assert measurements["cosine of two rare tokens"] <= 0.55
    assert measurements["cosine of two rare tokens"] <= measurements["cosine of two nouns"] + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("part", ["mean-state", "full-state", "own-position"])
def test_an_identifier_changes_a_prompt_about_as_much_as_another_noun_does(measurements, part):
    assert 0.75 <= measurements[f"{part} distance"] <= 1.5


@pytest.mark.slow
def test_an_identifier_keeps_the_state_of_the_noun(measurements):
    assert measurements["noun kept"] >= 0.999
    assert measurements["noun distance ratio"] <= 0.8
    assert measurements["nouns apart beside [V]"] >= 0.7


@pytest.mark.slow
@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_a_linear_probe_reads_every_stated_attribute_from_the_mean_state(measurements, attribute):
    assert measurements[attribute] >= 0.995


def test_the_shipped_tokenizer_has_the_vocabulary_of_the_code():
    from transformers import AutoTokenizer

    shipped = AutoTokenizer.from_pretrained(miniature.WEIGHTS / "tokenizer")
    assert shipped.get_vocab() == build_tokenizer().get_vocab()
    assert set(world.CLASSES) < set(shipped.get_vocab())
