"""Individuals, scenes and captions."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from dreambooth.miniature import world
from dreambooth.miniature.oracle import prompted_values, scene_values
from dreambooth.miniature.scenes import nth_scene
from dreambooth.miniature.world import caption, individual, kind_of, random_scene, recolour

SCENES = [nth_scene(i, 5) for i in range(600)]


def test_the_world_is_large_enough_for_the_paper_s_applications():
    assert len(world.CLASSES) >= 10
    assert len(world.LIVE) >= 4
    assert len(world.CONTEXTS) >= 8
    assert len(world.COLOURS) >= 8
    assert len(world.PATTERNS) >= 4
    assert len(world.ACCESSORIES) >= 4
    assert len(world.EXPRESSIONS) >= 3
    assert len(world.VIEWS) >= 3
    assert len(world.STYLES) >= 3


def test_the_kind_of_a_class_is_live_or_object():
    assert {kind_of(noun) for noun in world.LIVE} == {"live"}
    assert {kind_of(noun) for noun in world.OBJECTS} == {"object"}


@pytest.mark.parametrize("ask", [kind_of, lambda noun: individual(noun, 0)])
def test_an_unknown_class_is_refused_with_the_list_of_classes(ask):
    with pytest.raises(ValueError, match=r"no class 'horse'; its classes are dog, cat, .*teapot"):
        ask("horse")


def test_an_individual_is_fixed_by_its_class_and_seed():
    assert individual("dog", 123) == individual("dog", 123)
    many = {individual(noun, seed) for noun in world.CLASSES for seed in range(50)}
    assert len(many) == 50 * len(world.CLASSES)


def test_an_individual_s_colours_differ_from_each_other():
    for seed in range(200):
        who = individual("cat", seed)
        assert who.main != who.second
        assert (who.emblem is None) == (who.emblem_colour is None)
        assert who.emblem_colour not in (who.main, who.second)


def test_different_individuals_can_have_the_same_full_caption():
    scene = replace(SCENES[0], individual=individual("dog", 0))
    texts = Counter(
        caption(replace(scene, individual=individual("dog", seed))) for seed in range(200)
    )
    assert len(texts) <= len(world.COLOURS) * len(world.PATTERNS) < 200


@pytest.mark.parametrize("colour", world.COLOURS)
def test_recolouring_changes_the_colours_only(colour):
    for seed in range(20):
        who = individual("bird", seed)
        other = recolour(who, colour)
        assert other.main == colour != other.second
        assert replace(other, main=who.main, second=who.second) == who
        if colour != who.second:
            assert other.second == who.second


def test_recolouring_to_the_current_colour_changes_nothing():
    who = individual("bird", 3)
    assert recolour(who, who.main) == who


def test_random_scenes_have_every_value_of_every_attribute():
    for name, options in {
        "class": world.CLASSES,
        "context": world.CONTEXTS,
        "colour": world.COLOURS,
        "pattern": world.PATTERNS,
        "accessory": (None, *world.ACCESSORIES),
        "expression": (None, *world.EXPRESSIONS),
        "view": world.VIEWS,
        "style": (None, *world.STYLES),
    }.items():
        seen = Counter(scene_values(s)[name] for s in SCENES)
        assert set(seen) == set(options)
        assert min(seen.values()) >= len(SCENES) / 60, (name, seen)


def test_random_scenes_hardly_ever_show_an_individual_twice():
    assert len({s.individual for s in SCENES}) > 0.99 * len(SCENES)


def test_scenes_from_behind_have_neither_an_expression_nor_glasses():
    behind = [s for s in SCENES if s.view == "behind"]
    assert {s.expression for s in behind} == {None}
    assert {s.accessory for s in behind} == {None, "hat", "scarf", "crown"}


def test_objects_wear_nothing_and_have_no_expression():
    objects = [s for s in SCENES if kind_of(s.individual.class_noun) == "object"]
    assert {(s.accessory, s.expression) for s in objects} == {(None, None)}


def test_a_casual_photo_is_plain_and_never_from_behind():
    rng, who = np.random.default_rng(0), individual("dog", 1)
    photos = [random_scene(rng, who, casual=True) for _ in range(60)]
    assert {p.individual for p in photos} == {who}
    assert {(p.accessory, p.expression, p.style) for p in photos} == {(None, None, None)}
    assert {p.view for p in photos} == {"front", "side"}
    assert {p.context for p in photos} == set(world.CONTEXTS)


def test_the_full_caption_states_every_attribute():
    for scene in SCENES:
        true = {name: v for name, v in scene_values(scene).items() if v is not None}
        assert prompted_values(caption(scene)) == true


def test_random_captions_leave_out_attributes_and_are_always_true():
    rng = np.random.default_rng(1)
    stated: Counter[str] = Counter()
    possible: Counter[str] = Counter()
    for scene in SCENES:
        true = {name: v for name, v in scene_values(scene).items() if v is not None}
        values = prompted_values(caption(scene, rng))
        assert values.items() <= true.items()
        stated.update(values.keys())
        possible.update(true.keys())
    share = {name: stated[name] / possible[name] for name in possible}
    assert share.pop("class") == 1.0
    assert share.pop("style") == pytest.approx(0.95, abs=0.04)
    assert share.pop("accessory") == pytest.approx(0.75, abs=0.08)
    assert share.pop("expression") == pytest.approx(0.75, abs=0.08)
    assert all(0.2 < value < 0.6 for value in share.values()), share


def test_a_caption_is_sometimes_the_bare_noun():
    rng = np.random.default_rng(2)
    plain = [s for s in SCENES if s.individual.class_noun == "car" and s.style is None]
    assert "a car" in [caption(s, rng) for s in plain]


def test_only_individuals_with_an_emblem_are_called_special_or_unique():
    rng = np.random.default_rng(3)
    special = [s for s in SCENES if set(caption(s, rng).split()) & set(world.COMMON_WORDS)]
    assert special
    assert all(s.individual.emblem for s in special)


def test_the_identifier_is_right_before_the_noun():
    rng = np.random.default_rng(4)
    for scene in SCENES[:100]:
        for text in (caption(scene, rng, "sks"), caption(scene, identifier="sks")):
            assert f" sks {scene.individual.class_noun}" in text
            assert prompted_values(text) == prompted_values(text.replace(" sks", ""))
