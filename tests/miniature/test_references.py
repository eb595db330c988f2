"""References show the individual as the prompt asks for it."""

import numpy as np
import pytest
import torch

from dreambooth.miniature import references as module
from dreambooth.miniature.references import draw_as_prompted, prompted_except_class, references
from dreambooth.miniature.subjects import drawn_subject
from dreambooth.miniature.world import individual, recolour
from dreambooth.subjects.prompt_sets import MINIBENCH

DOG, CAR = individual("dog", 7), individual("car", 7)


@pytest.fixture
def scenes(monkeypatch):
    """The list of the scenes that the module draws, in order."""
    drawn = []
    draw = module.draw
    monkeypatch.setattr(module, "draw", lambda scene: drawn.append(scene) or draw(scene))
    return drawn


def test_references_depend_on_the_individual_and_the_prompted_attributes_only():
    images = references(DOG, "a {} in the snow")
    assert images.shape == (16, 3, 64, 64)
    assert images.dtype == torch.float32
    assert -1 <= images.min() < images.max() <= 1
    assert torch.pdist(images.flatten(1)).min() > 1
    assert torch.equal(images, references(DOG, "a kzn dog  in the Snow"))  # same attributes
    assert not torch.equal(images, references(DOG, "a {} on the beach"))
    assert not torch.equal(images, references(individual("dog", 8), "a {} in the snow"))


@pytest.mark.slow
@pytest.mark.parametrize(("who", "kind"), [(DOG, "live"), (CAR, "object")])
def test_references_have_every_attribute_that_a_minibench_prompt_states(who, kind, scenes):
    for template in MINIBENCH[kind]:
        scenes.clear()
        references(who, template)
        asked = prompted_except_class(template)
        as_asked = recolour(who, asked.pop("colour")) if "colour" in asked else who
        assert len(scenes) == 16
        for scene in scenes:
            assert scene.individual == as_asked
            assert {name: getattr(scene, name) for name in asked} == asked
            assert not (scene.expression and scene.view == "behind")  # it would be invisible


def test_attributes_that_the_prompt_does_not_state_are_random(scenes):
    references(DOG, "a {}")
    for name, least in {"context": 4, "view": 2, "expression": 2, "style": 2}.items():
        assert len({getattr(scene, name) for scene in scenes}) >= least
    assert {scene.individual for scene in scenes} == {DOG}


def test_the_class_noun_of_a_prompt_is_ignored():
    assert prompted_except_class("a red cat") == {"colour": "red"}
    assert torch.equal(references(DOG, "a dog"), references(DOG, ""))


def test_attributes_that_the_world_never_combines_are_set(scenes):
    asked = {"expression": "happy", "view": "behind"}
    draw_as_prompted(np.random.default_rng(0), DOG, asked, 2)
    assert [(scene.expression, scene.view) for scene in scenes] == 2 * [("happy", "behind")]


def test_references_differ_from_the_input_photos():
    subject = drawn_subject("dog", 7)
    distances = torch.cdist(references(DOG).flatten(1), subject.photos(64).flatten(1))
    assert distances.min() > 1
