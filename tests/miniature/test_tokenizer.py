"""The miniature's tokenizer."""

import itertools
import string

import numpy as np
import pytest

from dreambooth.miniature import world
from dreambooth.miniature.scenes import nth_scene
from dreambooth.miniature.tokenizer import (
    MAX_TOKENS,
    RARE_IDS,
    VOCABULARY_SIZE,
    build_tokenizer,
    caption_words,
    rare_tokens,
)
from dreambooth.miniature.world import caption
from dreambooth.subjects.prompt_sets import MINIBENCH
from dreambooth.subjects.prompts import class_prompt

TOKENIZER = build_tokenizer()
BOS, EOS = TOKENIZER.bos_token_id, TOKENIZER.eos_token_id


def ids(text: str) -> list[int]:
    return TOKENIZER(text).input_ids


def test_the_ids_are_those_that_the_shipped_weights_were_trained_on():
    """The ids are rows of the text encoder's embedding: if this fails, undo the change of the
    vocabulary, or pretrain again."""
    assert len(TOKENIZER) == VOCABULARY_SIZE == RARE_IDS[1] == 456
    assert (TOKENIZER.pad_token_id, BOS, EOS, TOKENIZER.unk_token_id) == (0, 1, 2, 3)
    words = [1, 57, 200, 40, 18, 54, 57, 25, 26, 50, 45, 2]
    assert ids("a sks red dog wearing a hat in the snow") == words
    assert rare_tokens()[:3] == ["sks", "zmb", "fdz"]
    assert TOKENIZER.convert_ids_to_tokens(list(range(*RARE_IDS))) == rare_tokens()


def test_every_word_of_a_caption_is_one_token():
    rng = np.random.default_rng(0)
    for i in range(200):
        scene = nth_scene(i, 6)
        for text in (caption(scene), caption(scene, rng)):
            assert TOKENIZER.convert_ids_to_tokens(ids(text)[1:-1]) == text.split()


def test_caption_words_are_exactly_the_words_of_captions():
    words = {w for i in range(2000) for w in caption(nth_scene(i, 6)).split()}
    assert set(caption_words()) == words | set(world.COMMON_WORDS)


@pytest.mark.parametrize("kind", MINIBENCH)
def test_every_word_of_minibench_is_known(kind):
    noun = {"live": "dog", "object": "car"}[kind]
    for template in (*MINIBENCH[kind], class_prompt("{}")):
        assert set(template.format(noun).split()) <= set(caption_words())


def test_the_longest_caption_with_a_three_token_identifier_fits():
    longest = max(
        (" ".join(p) for p in itertools.product(world.STYLES.values(), ["a"])), key=len
    ).split()
    parts = (world.ACCESSORIES, world.CONTEXTS, world.VIEWS)
    longest += ["sleeping", "special", "purple", "striped", *rare_tokens()[:3], "dog"]
    longest += [w for p in parts for w in max(p.values(), key=lambda v: len(v.split())).split()]
    assert len(longest) + 2 == len(ids(" ".join(longest))) <= MAX_TOKENS
    drawn = [caption(nth_scene(i, 6)) for i in range(2000)]
    # Of the longest, full captions lack the identifier (3 tokens) and "special" (1).
    assert max(len(ids(text)) for text in drawn) == len(longest) + 2 - 4


def test_there_are_256_short_rare_tokens_and_none_is_a_word():
    rare = rare_tokens()
    assert len(set(rare)) == len(rare) == RARE_IDS[1] - RARE_IDS[0] == 256
    assert all(len(token) <= 3 for token in rare)
    assert not set(rare) & set(caption_words())


def test_rare_tokens_survive_encoding_and_decoding():
    for token in rare_tokens():
        (index,) = ids(token)[1:-1]
        assert TOKENIZER.decode([index]) == token
    three = " ".join(rare_tokens()[5:8])
    assert TOKENIZER.decode(ids(three), skip_special_tokens=True) == three


def test_an_unknown_word_is_split_into_characters():
    tokens = TOKENIZER.convert_ids_to_tokens(ids("xxy5syt00")[1:-1])
    assert tokens == ["x", "##x", "##y", "##5", "##s", "##y", "##t", "##0", "##0"]
    assert TOKENIZER.decode(ids("xxy5syt00"), skip_special_tokens=True) == "xxy5syt00"
    for character in string.ascii_lowercase + string.digits:
        assert len(ids(character)) == 3


def test_upper_case_and_spaces_make_no_difference():
    assert ids(" A  Red DOG ") == ids("a red dog")


def test_a_character_outside_the_alphabet_is_unknown():
    assert ids("a dög")[2] == TOKENIZER.unk_token_id


def test_a_saved_tokenizer_is_loaded_by_transformers(tmp_path):
    from transformers import AutoTokenizer

    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    texts = ["a sks dog in the snow", "xxy5syt00", ""]
    padding = {"padding": "max_length", "max_length": MAX_TOKENS}
    assert loaded(texts, **padding).input_ids == TOKENIZER(texts, **padding).input_ids
    assert loaded.get_vocab() == TOKENIZER.get_vocab()
    assert loaded.model_max_length == MAX_TOKENS
