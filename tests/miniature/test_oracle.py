"""The oracle: what it is asked, how it is trained, and how it answers."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dreambooth.miniature import world
from dreambooth.miniature.oracle import (
    ATTRIBUTES,
    EMBEDDING,
    IdentityBatches,
    Oracle,
    OracleNetwork,
    OraclePretraining,
    calibrate,
    prompted_values,
    roughen,
    same_individual_loss,
    scene_labels,
    scene_values,
)
from dreambooth.miniature.scenes import scene_number
from dreambooth.subjects.prompts import MINIBENCH, subject_phrase


@pytest.fixture(scope="module")
def oracle():
    torch.manual_seed(0)
    return Oracle(OracleNetwork())


@pytest.fixture(scope="module")
def batch():
    return IdentityBatches(2, seed=11, groups=3)[1]


def directions(n: int, seed: int = 0) -> torch.Tensor:
    noise = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, EMBEDDING, generator=noise), dim=-1)


# --- what a prompt asks ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MINIBENCH)
def test_each_minibench_prompt_asks_for_something_that_the_world_has(kind):
    assert len(MINIBENCH[kind]) == len(set(MINIBENCH[kind])) == 25
    for template in MINIBENCH[kind]:
        asked = prompted_values(template)
        assert asked
        assert all(value in ATTRIBUTES[name] for name, value in asked.items())
        noun = "cat" if kind == "live" else "boat"
        full = prompted_values(template.format(subject_phrase("sks", noun)))
        assert full == {**asked, "class": noun}


def test_minibench_asks_for_every_context_accessory_expression_and_style():
    asked = [prompted_values(t) for kind in MINIBENCH for t in MINIBENCH[kind]]
    for name in ("context", "accessory", "expression", "style"):
        wanted = {v for v in ATTRIBUTES[name] if v is not None}
        assert {a[name] for a in asked if name in a} == wanted


def test_a_prompt_is_read_as_the_tokenizer_reads_it():
    assert prompted_values("A  Painting of a Red DOG") == {
        "style": "painting",
        "colour": "red",
        "class": "dog",
    }


@pytest.mark.parametrize("text", ["", "sks", "a redder doghouse", "a scarf", "snow"])
def test_parts_of_words_and_phrases_ask_for_nothing(text):
    assert prompted_values(text) == {}


def test_labels_are_the_scene_s_values_as_numbers():
    for i in range(50):
        scene = scene_number(i, 2)
        labels, values = scene_labels(scene), scene_values(scene)
        assert labels.keys() == values.keys() == ATTRIBUTES.keys()
        assert {k: ATTRIBUTES[k][v] for k, v in labels.items()} == values


# --- the network and its reading ---------------------------------------------------------------


def test_the_parameters_are_those_of_the_shipped_weights():
    """oracle.safetensors holds them by these names: if this fails, train the oracle again."""
    state = OracleNetwork().state_dict()
    assert sum(v.numel() for v in state.values()) == 2_743_248
    assert state["same"].shape == (2,)
    assert state["trunk.1.weight"].shape == (32, 12, 3, 3)
    assert state["trunk.11.layers.5.weight"].shape == (192, 192, 3, 3)
    assert state["embedding.weight"].shape == (EMBEDDING, 192 * 16)
    for name, values in ATTRIBUTES.items():
        assert state[f"heads.{name}.weight"].shape == (len(values), 192 * 16)


def test_embeddings_are_unit_and_every_attribute_is_named(oracle, batch):
    reading = oracle.read(batch["images"])
    n = len(batch["images"])
    torch.testing.assert_close(reading.embeddings.norm(dim=1), torch.ones(n))
    assert len(reading.values) == n
    for row in reading.values:
        assert row.keys() == ATTRIBUTES.keys()
        assert all(value in ATTRIBUTES[name] for name, value in row.items())


def test_a_reading_does_not_depend_on_the_batch_size(oracle, batch):
    whole, parts = oracle.read(batch["images"]), oracle.read(batch["images"], batch_size=5)
    assert whole.values == parts.values
    torch.testing.assert_close(whole.embeddings, parts.embeddings, atol=1e-5, rtol=0)


def test_bytes_and_floats_read_alike(oracle, batch):
    pixels = ((batch["images"] + 1) * 127.5).round().to(torch.uint8)
    as_bytes, as_floats = oracle.read(pixels), oracle.read(batch["images"])
    assert as_bytes.values == as_floats.values
    torch.testing.assert_close(as_bytes.embeddings, as_floats.embeddings, atol=1e-4, rtol=0)


def test_reading_leaves_dropout_and_gradients_off():
    network = OracleNetwork().train()
    assert not Oracle(network).network.training
    assert not Oracle(network).read(torch.zeros(1, 3, 64, 64)).embeddings.requires_grad


def test_a_saved_oracle_comes_back_to_half_precision(oracle, tmp_path):
    oracle.network.same.copy_(torch.tensor([17.3, -9.123456]))
    oracle.save(tmp_path / "new" / "folder")
    loaded = Oracle.load(tmp_path / "new" / "folder")
    assert not loaded.network.training
    assert torch.equal(loaded.network.same, oracle.network.same)  # in full precision
    for name, value in loaded.network.state_dict().items():
        if name != "same":
            assert value.dtype == torch.float32
            assert torch.equal(value, oracle.network.state_dict()[name].half().float())


def test_an_oracle_that_is_not_there_names_the_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"oracle\.safetensors"):
        Oracle.load(tmp_path)


# --- identity ----------------------------------------------------------------------------------


def test_identity_is_near_one_for_the_same_embedding_and_low_for_an_opposite_one():
    oracle, e = Oracle(OracleNetwork()), directions(1)
    assert oracle.identity(e, e.expand(5, -1)).item() > 0.99
    assert oracle.identity(-e, e.expand(5, -1)).item() < 0.01


def test_identity_is_the_mean_over_the_photos_of_a_logistic_curve_of_the_cosine():
    oracle = Oracle(OracleNetwork())
    oracle.network.same.copy_(torch.tensor([8.0, -3.0]))
    a, b = directions(6, seed=1), directions(4, seed=2)
    found = oracle.identity(a, b)
    assert found.shape == (6,)
    assert ((found >= 0) & (found <= 1)).all()
    by_hand = [np.mean([1 / (1 + math.exp(-(8.0 * float(x @ y) - 3.0))) for y in b]) for x in a]
    np.testing.assert_allclose(found.numpy(), by_hand, rtol=1e-5)


def test_the_contrastive_loss_is_its_formula():
    e, who = directions(8), torch.tensor([0, 0, 1, 1, 2, 2, 2, 3])
    who[-1] = 0
    terms = []
    for i in range(8):
        others = [k for k in range(8) if k != i]
        total = sum(math.exp(float(e[i] @ e[k]) / 0.1) for k in others)
        for j in others:
            if who[j] == who[i]:
                terms.append(-math.log(math.exp(float(e[i] @ e[j]) / 0.1) / total))
    assert same_individual_loss(e, who, 0.1).item() == pytest.approx(np.mean(terms), rel=1e-5)


def test_the_contrastive_loss_is_lower_where_individuals_are_aligned():
    who = torch.arange(12).repeat_interleave(2)
    aligned, scattered = directions(12).repeat_interleave(2, 0), directions(24)
    # with itself left out, chance is log(23)
    assert same_individual_loss(aligned, who, 0.1) < 0.2
    assert same_individual_loss(scattered, who, 0.1) > math.log(23)


class _KnowsPairs(torch.nn.Module):
    """Embeds the two scenes of an individual near each other, without a look at them."""

    def __init__(self, spread: float):
        super().__init__()
        self.spread, self.calls = spread, 0
        self.register_buffer("same", torch.tensor([10.0, -5.0]))

    def forward(self, images):
        self.calls += 1
        n = len(images)
        centres = directions(n // 2, seed=self.calls).repeat_interleave(2, 0)
        return {}, F.normalize(centres + self.spread * directions(n, seed=100 + self.calls), dim=-1)


def test_calibration_separates_the_same_from_others():
    network = _KnowsPairs(spread=0.7)
    calibrate(network, seed=0, num_batches=2)
    slope, offset = network.same.tolist()
    assert slope > 0
    same, other = 1 / (1 + 0.7**2), 0.0  # expected cosines
    assert slope * same + offset > 1 > -1 > slope * other + offset
    assert not network.training


def test_calibration_makes_the_probabilities_right_on_average():
    """Where logistic regression has converged, the mean probability is the share of positives."""
    network = _KnowsPairs(spread=3.0)  # so wide that same and other overlap
    calibrate(network, seed=0, num_batches=2)
    slope, offset = network.same.tolist()
    cosines = []
    for call in (1, 2):
        network.calls = call - 1
        e = network(torch.zeros(72, 1))[1].view(12, 3, 2, -1)
        cosines += [(e[:, :, 0] * e[:, :, 1]).sum(-1)]
        cosines += [(e[:, :, 0] * e.roll(1, 1)[:, :, 1]).sum(-1)]
    probability = torch.sigmoid(slope * torch.cat(cosines) + offset)
    assert probability.mean().item() == pytest.approx(0.5, abs=0.005)


# --- training ----------------------------------------------------------------------------------


def test_a_batch_holds_two_scenes_of_each_of_some_individuals_alike_in_class_and_colour(batch):
    assert batch["images"].shape == (18, 3, 64, 64)
    assert batch["individuals"].tolist() == [n for n in range(9) for _ in range(2)]
    for name in ("class", "colour"):
        groups = batch["labels"][name].view(3, 6)
        assert (groups == groups[:, :1]).all()
    first, second = batch["images"].view(9, 2, 3, 64, 64).unbind(1)
    assert all((a != b).any() for a, b in zip(first, second, strict=True))


def test_a_batch_depends_on_its_seed_and_step_alone(batch):
    again = IdentityBatches(9, seed=11, groups=3)[1]
    assert torch.equal(again["images"], batch["images"])
    assert not torch.equal(IdentityBatches(2, seed=12, groups=3)[1]["images"], batch["images"])
    assert not torch.equal(IdentityBatches(2, seed=11, groups=3)[0]["images"], batch["images"])


def test_roughened_images_are_softer_or_noisier_and_come_from_the_generator_alone(batch):
    images = batch["images"]
    rough = roughen(images, torch.Generator().manual_seed(1))
    assert rough.shape == images.shape
    assert torch.equal(rough, roughen(images, torch.Generator().manual_seed(1)))
    assert not torch.equal(rough, roughen(images, torch.Generator().manual_seed(2)))
    assert 0.01 < (rough - images).abs().mean() < 0.15


def test_a_few_steps_teach_the_network(batch):
    torch.manual_seed(0)
    student = OraclePretraining(OracleNetwork(), num_steps=12)
    student.log_dict = lambda *_, **__: None  # there is no trainer
    optimizer = student.configure_optimizers()["optimizer"]
    losses = []
    for _ in range(8):
        loss = student.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        student.on_before_optimizer_step(optimizer)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_the_attributes_are_the_world_s():
    assert ATTRIBUTES["class"] == world.CLASSES
    assert ATTRIBUTES["view"] == tuple(world.VIEWS)
    for name in ("accessory", "expression", "style"):
        assert ATTRIBUTES[name][0] is None
