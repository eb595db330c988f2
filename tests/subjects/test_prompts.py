import re

import pytest

from dreambooth.miniature.tokenizer import caption_words
from dreambooth.miniature.world import COLOURS, CONTEXTS, STYLES
from dreambooth.subjects.prompts import (
    DREAMBENCH,
    DREAMBENCH_CLASSES,
    MINIBENCH,
    class_prompt,
    subject_phrase,
)


@pytest.mark.parametrize("prompts", [*DREAMBENCH.values(), *MINIBENCH.values()])
def test_each_set_has_25_different_prompts_with_one_place_for_the_subject(prompts):
    assert len(prompts) == len(set(prompts)) == 25
    for prompt in prompts:
        assert prompt.count("{}") == 1
        assert re.fullmatch(r"[A-Za-z{} ]+", prompt)
        assert "  " not in prompt


def test_dreambench_has_its_15_classes_and_shares_what_fits_both_kinds():
    assert len(set(DREAMBENCH_CLASSES)) == 15
    assert len(set(DREAMBENCH["live"]) & set(DREAMBENCH["object"])) == 15
    assert all("wearing" not in prompt for prompt in DREAMBENCH["object"])


def test_minibench_uses_no_word_that_the_world_lacks():
    words = {word for prompts in MINIBENCH.values() for p in prompts for word in p.split()}
    assert words - {"{}"} <= set(caption_words())


def test_minibench_asks_for_every_context_and_style():
    for prompts in MINIBENCH.values():
        for phrase in (*CONTEXTS.values(), *STYLES.values()):
            assert any(phrase in prompt for prompt in prompts)
        assert sum(prompt.split()[1] in COLOURS for prompt in prompts) >= 3


def test_the_subject_is_its_identifier_and_its_noun_if_it_has_one():
    assert subject_phrase("sks", "dog") == "sks dog"
    assert subject_phrase("sks", None) == "sks"
    assert class_prompt("dog") == "a dog"
