"""The oracle: the attributes of prompts, its network, and what it reads in pictures."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dreambooth.miniature import world
from dreambooth.miniature.drawing import draw
from dreambooth.miniature.oracle import (
    ATTRIBUTES,
    EMBEDDING,
    Oracle,
    OracleNetwork,
    Reading,
    prompted_values,
    scene_labels,
    scene_values,
)
from dreambooth.miniature.scenes import nth_scene, to_tensor
from dreambooth.subjects.prompt_sets import MINIBENCH
from dreambooth.subjects.prompts import subject_phrase


@pytest.fixture
def oracle():
    torch.manual_seed(0)
    network = OracleNetwork()
    network.same.copy_(torch.tensor([8.0, -2.0, -3.0]))
    return Oracle(network)


@pytest.fixture(scope="module")
def images():
    return to_tensor(np.stack([draw(nth_scene(i, 11)) for i in range(18)]))


def directions(n: int, seed: int = 0) -> torch.Tensor:
    noise = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, EMBEDDING, generator=noise), dim=-1)


# --- prompts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MINIBENCH)
def test_each_minibench_prompt_states_attributes_of_the_world(kind):
    assert len(MINIBENCH[kind]) == len(set(MINIBENCH[kind])) == 25
    for template in MINIBENCH[kind]:
        asked = prompted_values(template)
        assert asked
        assert all(value in ATTRIBUTES[name] for name, value in asked.items())
        noun = "cat" if kind == "live" else "boat"
        full = prompted_values(template.format(subject_phrase("sks", noun)))
        assert full == {**asked, "class": noun}


def test_minibench_covers_every_context_accessory_expression_and_style():
    asked = [prompted_values(t) for kind in MINIBENCH for t in MINIBENCH[kind]]
    for name in ("context", "accessory", "expression", "style"):
        wanted = {v for v in ATTRIBUTES[name] if v is not None}
        assert {a[name] for a in asked if name in a} == wanted


def test_upper_case_and_additional_spaces_of_a_prompt_are_ignored():
    assert prompted_values("A  Painting of a Red DOG") == {
        "style": "painting",
        "colour": "red",
        "class": "dog",
    }


@pytest.mark.parametrize("text", ["", "sks", "a redder doghouse", "a scarf", "snow"])
def test_parts_of_words_and_phrases_state_no_attribute(text):
    assert prompted_values(text) == {}


def test_labels_are_the_indices_of_the_scene_s_values():
    for i in range(50):
        scene = nth_scene(i, 2)
        labels, values = scene_labels(scene), scene_values(scene)
        assert labels.keys() == values.keys() == ATTRIBUTES.keys()
        assert {k: ATTRIBUTES[k][v] for k, v in labels.items()} == values


# --- the network and its readings --------------------------------------------------------------


def test_the_parameters_are_those_of_the_shipped_weights():
    """If this fails, oracle.safetensors cannot be loaded: pretrain the oracle again."""
    state = OracleNetwork().state_dict()
    assert sum(v.numel() for v in state.values()) == 2_727_698
    assert 2 * sum(v.numel() for v in state.values()) < 6e6  # bytes
    assert state["same"].shape == (3,)
    assert state["trunk.1.weight"].shape == (32, 12, 3, 3)
    assert state["trunk.11.layers.5.weight"].shape == (192, 192, 3, 3)
    assert state["embedding.weight"].shape == (EMBEDDING, 192 * 16)
    assert state["clean.weight"].shape == (1, 192 * 16)
    for name, values in ATTRIBUTES.items():
        assert state[f"heads.{name}.weight"].shape == (len(values), 192 * 16)


def test_embeddings_have_unit_length_and_every_attribute_has_a_value(oracle, images):
    reading = oracle.read(images)
    n = len(images)
    torch.testing.assert_close(reading.embeddings.norm(dim=1), torch.ones(n))
    assert reading.clean.shape == (n,)
    assert ((reading.clean > 0) & (reading.clean < 1)).all()
    assert len(reading.values) == n
    for row in reading.values:
        assert row.keys() == ATTRIBUTES.keys()
        assert all(value in ATTRIBUTES[name] for name, value in row.items())


def test_a_reading_does_not_depend_on_the_batch_size(oracle, images):
    whole, parts = oracle.read(images), oracle.read(images, batch_size=5)
    assert whole.values == parts.values
    torch.testing.assert_close(whole.embeddings, parts.embeddings, atol=1e-5, rtol=0)
    torch.testing.assert_close(whole.clean, parts.clean, atol=1e-5, rtol=0)


def test_a_reading_of_no_image_is_empty(oracle):
    reading = oracle.read(torch.empty(0, 3, 64, 64))
    assert reading.values == Reading.join([]).values == []
    assert reading.embeddings.shape == Reading.join([]).embeddings.shape == (0, EMBEDDING)
    assert reading.clean.shape == Reading.join([]).clean.shape == (0,)


def test_uint8_and_float_images_give_the_same_reading(oracle, images):
    pixels = ((images + 1) * 127.5).round().to(torch.uint8)
    as_bytes, as_floats = oracle.read(pixels), oracle.read(images)
    assert as_bytes.values == as_floats.values
    torch.testing.assert_close(as_bytes.embeddings, as_floats.embeddings, atol=1e-4, rtol=0)


def test_reading_is_in_eval_mode_and_without_gradients():
    network = OracleNetwork().train()
    assert not Oracle(network).network.training
    assert not Oracle(network).read(torch.zeros(1, 3, 64, 64)).embeddings.requires_grad


def test_a_saved_oracle_is_loaded_with_half_precision(oracle, tmp_path):
    oracle.network.same.copy_(torch.tensor([17.3, -2.0, -9.123456]))
    oracle.save(tmp_path / "new" / "folder")
    loaded = Oracle.load(tmp_path / "new" / "folder")
    assert not loaded.network.training
    assert torch.equal(loaded.network.same, oracle.network.same)  # saved in full precision
    for name, value in loaded.network.state_dict().items():
        if name != "same":
            assert value.dtype == torch.float32
            assert torch.equal(value, oracle.network.state_dict()[name].half().float())


def test_loading_from_an_empty_folder_names_the_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"oracle\.safetensors"):
        Oracle.load(tmp_path)


# --- identity ----------------------------------------------------------------------------------


def test_an_uncalibrated_oracle_is_neither_saved_nor_loaded(oracle, tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(ValueError, match="this oracle is not calibrated"):
        Oracle(OracleNetwork()).save(tmp_path)
    assert not (tmp_path / "oracle.safetensors").exists()
    save_file(OracleNetwork().state_dict(), tmp_path / "oracle.safetensors")
    with pytest.raises(ValueError, match=r"oracle\.safetensors is not calibrated.*part=oracle"):
        Oracle.load(tmp_path)


def test_the_identity_of_an_uncalibrated_oracle_is_nan():
    e = directions(3)
    assert Oracle(OracleNetwork()).identity(e, e).isnan().all()


def test_identity_is_logistic_in_the_mean_cosines(oracle):
    a, b = directions(6, seed=1), directions(4, seed=2)
    identity = oracle.identity(a, b)
    assert identity.shape == (6,)
    among = [float(b[i] @ b[j]) for i in range(4) for j in range(4) if i != j]
    for value, x in zip(identity.tolist(), a, strict=True):
        to_references = sum(float(x @ y) for y in b) / 4
        logit = 8.0 * to_references - 2.0 * sum(among) / len(among) - 3.0
        assert value == pytest.approx(1 / (1 + math.exp(-logit)), rel=1e-5)


def test_identity_is_high_for_the_same_embedding_and_low_for_an_opposite_one(oracle):
    e = directions(1)
    assert oracle.identity(e, e.expand(5, -1)).item() > 0.9
    assert oracle.identity(-e, e.expand(5, -1)).item() < 0.01


def test_the_attributes_are_those_of_the_world():
    assert ATTRIBUTES["class"] == world.CLASSES
    assert ATTRIBUTES["view"] == tuple(world.VIEWS)
    for name in ("accessory", "expression", "style"):
        assert ATTRIBUTES[name][0] is None
