"""The text encoder: what it is trained on, and that the shipped one keeps every token.

The tests of the shipped weights hold for weights of the recipe in conf/pretrain.yaml (part=text).
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
    IDENTIFIER_SHARE,
    NOUNLESS_SHARE,
    CaptionBatches,
    TextPretraining,
    meaningless_identifier,
    new_text_encoder,
    random_caption,
    token_targets,
)
from dreambooth.miniature.tokenizer import MAX_TOKENS, build_tokenizer, caption_words, rare_tokens
from dreambooth.miniature.world import random_scene

# --- the recipe --------------------------------------------------------------------------------


def batches(text_encoder, batch_size=16, seed=1):
    tokens = PromptEncoder(build_tokenizer(), text_encoder, MAX_TOKENS).tokens
    return CaptionBatches(tokens, batch_size, 40, seed)


def test_a_position_must_hold_its_token_and_those_before_it_and_padding_the_caption():
    shares = token_targets(torch.tensor([[1, 7, 9, 7, 2, 0, 0]]), pad_id=0)[0]
    assert shares.sum(1).tolist() == pytest.approx([1] * 7)

    def held(position):
        return {i: round(s, 4) for i, s in enumerate(shares[position].tolist()) if s}

    assert held(0) == {1: 1.0}
    assert held(1) == {1: 0.25, 7: 0.75}
    assert held(3) == {1: 0.1667, 7: 0.6667, 9: 0.1667}  # 7 for the second time: counted once
    assert held(5) == held(6) == {1: 0.25, 2: 0.25, 7: 0.25, 9: 0.25}


def test_the_loss_of_the_tokens_is_nothing_where_the_states_tell_the_shares():
    model = new_text_encoder()
    teacher = TextPretraining(model, num_steps=1)
    logged = {}
    teacher.log_dict = lambda values, **_: logged.update(values)
    batch = batches(model)[0]
    teacher.training_step(batch, 0)
    assert logged["tokens"] > 1
    shares = token_targets(batch["tokens"], pad_id=0)
    teacher.tokens = torch.nn.Module()
    teacher.tokens.forward = lambda _: shares.clamp(min=1e-12).log()
    teacher.training_step(batch, 0)
    assert logged["tokens"] == pytest.approx(0, abs=1e-5)


def test_identifiers_are_in_half_of_the_captions_and_every_rare_token_is_among_them():
    rng = np.random.default_rng(0)
    scenes = [random_scene(rng) for _ in range(4000)]
    texts = [random_caption(scene, rng) for scene in scenes]
    words = set(caption_words())
    named = [
        (text, scene.individual.class_noun)
        for text, scene in zip(texts, scenes, strict=True)
        if not set(text.split()) <= words
    ]
    assert len(named) / len(texts) == pytest.approx(IDENTIFIER_SHARE, abs=0.03)
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


def test_a_batch_follows_from_seed_and_step_alone():
    model = new_text_encoder()
    a, b = (batches(model)[3] for _ in range(2))
    assert a["tokens"].shape == (16, MAX_TOKENS)
    assert torch.equal(a["tokens"], b["tokens"])
    assert all(torch.equal(a["labels"][k], b["labels"][k]) for k in ATTRIBUTES)
    assert not torch.equal(a["tokens"], batches(model)[4]["tokens"])
    assert not torch.equal(a["tokens"], batches(model, seed=2)[3]["tokens"])


def test_a_few_steps_lower_both_losses_on_new_captions():
    torch.manual_seed(0)
    model = new_text_encoder()
    teacher = TextPretraining(model, num_steps=40)
    logged = {}
    teacher.log_dict = lambda values, **_: logged.update({k: v.item() for k, v in values.items()})
    optimizer = teacher.configure_optimizers()["optimizer"]
    optimizer.param_groups[0]["lr"] = 2e-3  # without the warm-up
    data = batches(model)
    teacher.training_step(data[39], 0)
    before = dict(logged)
    for step in range(39):
        loss = teacher.training_step(data[step], 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    teacher.training_step(data[39], 0)
    assert logged["attributes"] < 0.95 * before["attributes"]
    assert logged["tokens"] < 0.6 * before["tokens"]


# --- the shipped weights -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured():
    benchmark = runpy.run_path(str(ROOT / "benchmarks/text_encoder.py"))
    return benchmark["measured"](miniature.WEIGHTS)


def test_a_linear_probe_reads_the_identifier_from_its_position(measured):
    assert measured["identifier probe"] >= 0.99


def test_two_rare_tokens_differ_as_two_nouns_do(measured):
    assert measured["cosine of two rare tokens"] <= 0.55
    assert measured["cosine of two rare tokens"] <= measured["cosine of two nouns"] + 0.1


@pytest.mark.parametrize("part", ["mean-state", "full-state", "own-position"])
def test_an_identifier_changes_a_prompt_about_as_much_as_another_noun_does(measured, part):
    assert 0.75 <= measured[f"{part} distance"] <= 1.5


def test_the_noun_stays_itself_beside_an_identifier(measured):
    assert measured["noun kept"] >= 0.999
    assert measured["noun distance ratio"] <= 0.8
    assert measured["nouns apart beside [V]"] >= 0.7


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_every_attribute_that_a_caption_states_is_read_from_the_mean_state(measured, attribute):
    assert measured[attribute] >= 0.995


def test_the_shipped_tokenizer_is_the_world_s():
    from transformers import AutoTokenizer

    shipped = AutoTokenizer.from_pretrained(miniature.WEIGHTS / "tokenizer")
    assert shipped.get_vocab() == build_tokenizer().get_vocab()
    assert set(world.CLASSES) < set(shipped.get_vocab())
