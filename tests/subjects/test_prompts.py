import re

import numpy as np
import pytest

from dreambooth.miniature.oracle import prompted_values, scene_values
from dreambooth.miniature.scenes import casual_photos
from dreambooth.miniature.subjects import drawn_subject
from dreambooth.miniature.tokenizer import caption_words
from dreambooth.miniature.world import COLOURS, CONTEXTS, STYLES, random_scene
from dreambooth.subjects.prompt_sets import (
    APPLICATIONS,
    CONTEXT_OF_PHOTOS,
    DREAMBENCH,
    FREQUENT_CONTEXT,
    LIMITATIONS,
    MINIATURE_SETS,
    MINIBENCH,
    PROMPT_SETS,
    RARE_CONTEXT,
    SEVERAL,
    application_of,
)
from dreambooth.subjects.prompts import DREAMBENCH_CLASSES, class_prompt, subject_phrase

EVERY_SET = [
    pytest.param(prompts, id=f"{name}-{kind}")
    for sets in (PROMPT_SETS, MINIATURE_SETS)
    for name, of_kinds in sets.items()
    for kind, prompts in of_kinds.items()
]
ATTRIBUTES = {  # what each application asks the miniature for
    "recontextualization": {"context"},
    "art_rendition": {"style"},
    "expression": {"expression"},
    "novel_view": {"view"},
    "accessorization": {"accessory"},
    "property_modification": {"colour"},
}


@pytest.mark.parametrize("prompts", [*DREAMBENCH.values(), *MINIBENCH.values()])
def test_each_set_has_25_different_prompts_with_one_place_for_the_subject(prompts):
    assert len(prompts) == len(set(prompts)) == 25
    for prompt in prompts:
        assert prompt.count("{}") == 1
        assert re.fullmatch(r"[A-Za-z{} ]+", prompt)
        assert "  " not in prompt


@pytest.mark.parametrize("prompts", EVERY_SET)
def test_every_prompt_carries_what_it_asks_for(prompts):
    for template, family in prompts.items():
        assert template.count("{}") == 1
        assert family in (*APPLICATIONS, SEVERAL, *LIMITATIONS)


def test_a_prompt_asks_for_the_same_in_every_set():
    for sets in (PROMPT_SETS, MINIATURE_SETS):
        for name, of_kinds in sets.items():
            for template, family in (item for p in of_kinds.values() for item in p.items()):
                assert name == "limitations" or application_of(template) == family
    assert application_of("a {}") == application_of("a {} of nobody") == ""


def test_live_subjects_and_objects_have_the_papers_applications():
    for sets in (PROMPT_SETS, MINIATURE_SETS):
        live, thing = (set(sets["applications"][kind].values()) for kind in ("live", "object"))
        assert live == set(APPLICATIONS)
        assert live - thing == {"expression", "accessorization"}


def test_a_prompt_of_the_miniature_asks_for_its_application_alone():
    for sets in MINIATURE_SETS.values():
        for template, family in (item for prompts in sets.values() for item in prompts.items()):
            asked = set(prompted_values(template))
            assert asked == ATTRIBUTES[family] if family != SEVERAL else len(asked) == 2, template


def test_dreambench_has_its_15_classes_and_shares_what_fits_both_kinds():
    assert len(set(DREAMBENCH_CLASSES)) == 15
    assert len(set(DREAMBENCH["live"]) & set(DREAMBENCH["object"])) == 15
    assert all("wearing" not in prompt for prompt in DREAMBENCH["object"])


def test_the_miniatures_sets_use_no_word_that_the_world_lacks():
    prompts = [p for sets in MINIATURE_SETS.values() for of_kind in sets.values() for p in of_kind]
    prompts += drawn_subject("dog", 7, prompts="limitations").prompts
    assert {word for p in prompts for word in p.split()} - {"{}"} <= set(caption_words())


def test_minibench_asks_for_every_context_and_style():
    for prompts in MINIBENCH.values():
        for phrase in (*CONTEXTS.values(), *STYLES.values()):
            assert any(phrase in prompt for prompt in prompts)
        assert sum(prompt.split()[1] in COLOURS for prompt in prompts) >= 3


def test_limitations_of_a_drawn_subject_know_the_contexts_of_its_photos():
    subject = drawn_subject("dog", 7, prompts="limitations")
    of_photos = {CONTEXTS[scene.context] for scene in casual_photos("dog", 7, 5)}
    for template, group in subject.families.items():
        context = next((words for words in CONTEXTS.values() if words in template), None)
        if group == CONTEXT_OF_PHOTOS:
            assert context in of_photos
        if group == FREQUENT_CONTEXT:
            assert context not in of_photos
    assert set(subject.families.values()) == set(LIMITATIONS)
    assert drawn_subject("car", 7, prompts="limitations").prompts != subject.prompts


def test_what_is_called_rare_is_rare_in_the_drawn_world():
    rng = np.random.default_rng(0)
    scenes = [scene_values(random_scene(rng)) for _ in range(4000)]
    subject = drawn_subject("dog", 7, prompts="limitations")

    def share(group):
        asked = [prompted_values(t) for t, g in subject.families.items() if g == group]
        shown = [[all(s[k] == v for k, v in a.items()) for s in scenes] for a in asked]
        return np.mean(shown)

    assert 0.11 < share(FREQUENT_CONTEXT) < 0.14  # 1 in 8
    assert 0.001 < share(RARE_CONTEXT) < 0.004  # 1 in 400


def test_an_unknown_set_is_refused():
    with pytest.raises(ValueError, match=r"prompts=mine is not known: choose minibench, appl"):
        drawn_subject("dog", 7, prompts="mine")


def test_the_subject_is_its_identifier_and_its_noun_if_it_has_one():
    assert subject_phrase("sks", "dog") == "sks dog"
    assert subject_phrase("sks", None) == "sks"
    assert class_prompt("dog") == "a dog"
