"""References show the individual as the prompt asks for it, and nobody else."""

import numpy as np
import pytest
import torch

from dreambooth.miniature import references as module
from dreambooth.miniature.references import draw_as_prompted, prompted_except_class, references
from dreambooth.miniature.subjects import drawn_subject
from dreambooth.miniature.world import individual, recolour
from dreambooth.subjects.prompts import MINIBENCH

DOG, CAR = individual("dog", 7), individual("car", 7)


@pytest.fixture
def scenes(monkeypatch):
    """The scenes that are drawn, in order."""
    found = []
    draw = module.draw
    monkeypatch.setattr(module, "draw", lambda scene: found.append(scene) or draw(scene))
    return found


def test_the_same_individual_and_prompt_are_the_same_drawings_and_others_are_not():
    images = references(DOG, "a {} in the snow")
    assert images.shape == (16, 3, 64, 64)
    assert images.dtype == torch.float32
    assert -1 <= images.min() < images.max() <= 1
    assert torch.pdist(images.flatten(1)).min() > 1
    assert torch.equal(images, references(DOG, "a kzn dog  in the Snow"))  # asks for the same
    assert not torch.equal(images, references(DOG, "a {} on the beach"))
    assert not torch.equal(images, references(individual("dog", 8), "a {} in the snow"))


@pytest.mark.parametrize(("who", "kind"), [(DOG, "live"), (CAR, "object")])
def test_they_have_all_that_a_prompt_of_minibench_asks_for(who, kind, scenes):
    for template in MINIBENCH[kind]:
        scenes.clear()
        references(who, template)
        asked = prompted_except_class(template)
        as_asked = recolour(who, asked.pop("colour")) if "colour" in asked else who
        assert len(scenes) == 16
        for scene in scenes:
            assert scene.individual == as_asked
            assert {name: getattr(scene, name) for name in asked} == asked
            assert not (scene.expression and scene.view == "behind")  # nobody could see it


def test_what_the_prompt_leaves_open_is_as_random_as_in_the_world(scenes):
    references(DOG, "a {}")
    for name, least in {"context": 4, "view": 2, "expression": 2, "style": 2}.items():
        assert len({getattr(scene, name) for scene in scenes}) >= least
    assert {scene.individual for scene in scenes} == {DOG}


def test_the_class_noun_asks_for_nothing():
    assert prompted_except_class("a red cat") == {"colour": "red"}
    assert torch.equal(references(DOG, "a dog"), references(DOG, ""))


def test_what_the_world_never_draws_is_set_as_asked(scenes):
    asked = {"expression": "happy", "view": "behind"}
    draw_as_prompted(np.random.default_rng(0), DOG, asked, 2)
    assert [(scene.expression, scene.view) for scene in scenes] == 2 * [("happy", "behind")]


def test_references_are_no_input_photos():
    subject = drawn_subject("dog", 7)
    distances = torch.cdist(references(DOG).flatten(1), subject.photos(64).flatten(1))
    assert distances.min() > 1
