"""The training and calibration of the oracle."""

import math

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dreambooth.miniature import oracle_pretraining
from dreambooth.miniature.oracle import EMBEDDING, OracleNetwork, Outputs
from dreambooth.miniature.oracle_pretraining import (
    RELATIONS,
    OracleBatches,
    OraclePretraining,
    calibrate,
    clean_loss,
    identity_cases,
    logistic_fit,
    read_samples,
    roughen,
    same_individual_loss,
)
from dreambooth.miniature.pretraining import fit


@pytest.fixture(scope="module")
def batch():
    return OracleBatches(2, seed=11, groups=3)[1]


def directions(n: int, seed: int = 0) -> torch.Tensor:
    noise = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, EMBEDDING, generator=noise), dim=-1)


# --- batches -----------------------------------------------------------------------------------


def test_a_batch_has_two_scenes_of_each_individual_and_groups_share_class_and_colour(batch):
    assert batch["images"].shape == (18, 3, 64, 64)
    assert batch["individuals"].tolist() == [n for n in range(9) for _ in range(2)]
    for name in ("class", "colour"):
        groups = batch["labels"][name].view(3, 6)
        assert (groups == groups[:, :1]).all()
    first, second = batch["images"].view(9, 2, 3, 64, 64).unbind(1)
    assert all((a != b).any() for a, b in zip(first, second, strict=True))


def test_a_batch_depends_on_seed_and_step_only(batch):
    again = OracleBatches(9, seed=11, groups=3)[1]
    others = OracleBatches(2, seed=12, groups=3)[1], OracleBatches(2, seed=11, groups=3)[0]
    for name in ("images", "damaged"):
        assert torch.equal(again[name], batch[name])
        assert not any(torch.equal(other[name], batch[name]) for other in others)


def test_there_are_half_as_many_damaged_pictures_and_most_are_labelled_damaged(batch):
    assert batch["damaged"].shape == (9, 3, 64, 64)
    labels = batch["damaged_clean"]
    assert labels.shape == (9,)
    assert labels.dtype == torch.float32
    assert (labels == 0).float().mean() > 0.7
    assert not any((d == i).all() for d in batch["damaged"] for i in batch["images"])


def test_a_quarter_of_the_damaged_pictures_are_samples_if_there_are_any():
    samples = np.full((3, 64, 64, 3), 77, np.uint8)
    batch = OracleBatches(1, seed=11, groups=3, samples=samples)[0]
    flat = batch["damaged"].flatten(2).std(2).amax(1) < 1e-3
    assert flat.tolist() == 7 * [False] + 2 * [True]
    assert (batch["damaged_clean"][flat] == 0).all()


def test_a_file_of_samples_is_checked(tmp_path):
    good, wrong = tmp_path / "good.npy", tmp_path / "wrong.npy"
    np.save(good, np.zeros((2, 64, 64, 3), np.uint8))
    np.save(wrong, np.zeros((2, 3, 64, 64), np.float32))
    assert read_samples(good).shape == (2, 64, 64, 3)
    with pytest.raises(ValueError, match="give one of uint8"):
        read_samples(wrong)
    with pytest.raises(ValueError, match=r"parts\.oracle\.samples=.*give a \.npy file, or null"):
        read_samples(tmp_path / "none.npy")


def test_roughened_images_change_a_little_and_depend_on_the_generator_only(batch):
    images = batch["images"]
    rough = roughen(images, torch.Generator().manual_seed(1))
    assert rough.shape == images.shape
    assert torch.equal(rough, roughen(images, torch.Generator().manual_seed(1)))
    assert not torch.equal(rough, roughen(images, torch.Generator().manual_seed(2)))
    assert 0.01 < (rough - images).abs().mean() < 0.15


# --- losses ------------------------------------------------------------------------------------


def test_the_contrastive_loss_equals_its_formula():
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


def test_the_contrastive_loss_is_low_if_scenes_of_an_individual_agree():
    who = torch.arange(12).repeat_interleave(2)
    aligned, scattered = directions(12).repeat_interleave(2, 0), directions(24)
    # Chance is log(23): 24 embeddings without the one itself.
    assert same_individual_loss(aligned, who, 0.1) < 0.2
    assert same_individual_loss(scattered, who, 0.1) > math.log(23)


def test_the_clean_loss_weights_drawings_and_damage_equally_and_leaves_out_nan():
    logits = torch.tensor([2.0, 1.0, -3.0, 0.5, 100.0])
    labels = torch.tensor([0.0, 1.0, math.nan])  # of the last three

    def cross_entropy(logit, label):
        return math.log(1 + math.exp(-logit if label else logit))

    drawings = (cross_entropy(2, 1) + cross_entropy(1, 1)) / 2
    damaged = (cross_entropy(-3, 0) + cross_entropy(0.5, 1)) / 2
    assert clean_loss(logits, labels).item() == pytest.approx((drawings + damaged) / 2)
    unknown = clean_loss(logits, torch.full((3,), math.nan))
    assert unknown.item() == pytest.approx(drawings)


@pytest.mark.slow
def test_a_few_steps_lower_the_loss(batch):
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


class KilledError(Exception):
    pass


class Killed(OraclePretraining):
    def on_train_batch_start(self, batch, batch_idx):
        if self.trainer.global_step == 3:
            raise KilledError


@pytest.mark.slow
def test_a_killed_training_resumes_and_ends_with_the_same_weights(tmp_path):
    def trained(module_class, folder):
        L.seed_everything(0, verbose=False)
        student = module_class(OracleNetwork(), num_steps=5)
        fit(student, OracleBatches(5, seed=1, groups=1), 5, folder, 0.9, save_every=2)
        return dict(student.network.named_parameters())

    with pytest.raises(KilledError):
        trained(Killed, tmp_path / "killed")
    resumed = trained(OraclePretraining, tmp_path / "killed")
    straight = trained(OraclePretraining, tmp_path / "straight")
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)


# --- calibration -------------------------------------------------------------------------------


def test_half_of_a_case_s_pictures_show_the_individual():
    three = list(identity_cases(seed=1, count=3))
    for case in three:
        assert case.pictures.shape == (12, 3, 64, 64)
        assert case.references.shape == (16, 3, 64, 64)
        assert {r: case.relations.count(r) for r in RELATIONS} == RELATIONS
        assert case.is_same.tolist() == 6 * [1.0] + 6 * [0.0]
    again = next(identity_cases(seed=1, count=1))
    assert torch.equal(again.pictures, three[0].pictures)
    assert not torch.equal(next(identity_cases(seed=2, count=1)).pictures, three[0].pictures)


def test_the_logistic_fit_recovers_the_weights_that_generated_the_data():
    rng = np.random.default_rng(0)
    x = torch.tensor(np.column_stack([rng.normal(size=(40_000, 2)), np.ones(40_000)]))
    w = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)
    truth = torch.tensor(rng.random(40_000)) < torch.sigmoid(x @ w)
    torch.testing.assert_close(logistic_fit(x, truth.double()), w, atol=0.12, rtol=0)


class _NoisyNetwork(torch.nn.Module):
    """Ignores the images. The embeddings of the 16 references and of the first 6 pictures, which
    show the individual, have one centre, and those of the other 6 have a centre each."""

    def __init__(self, spread: float):
        super().__init__()
        self.spread, self.calls = spread, 0
        self.register_buffer("same", torch.full((3,), math.nan))

    def forward(self, images):
        self.calls += 1
        centre, noise = directions(1, seed=self.calls), directions(28, seed=100 + self.calls)
        centres = torch.cat([centre.expand(22, -1), directions(6, seed=200 + self.calls)])
        embeddings = F.normalize(centres + self.spread * noise, dim=-1)
        return Outputs({}, embeddings, torch.zeros(len(embeddings)))


def test_calibrated_probabilities_are_right_on_average(monkeypatch):
    case = next(identity_cases(seed=1, count=1))
    monkeypatch.setattr(oracle_pretraining, "identity_cases", lambda _, count: [case] * count)
    network = _NoisyNetwork(spread=3.0).train()  # with this spread, same and other overlap
    calibrate(network, seed=0, num_cases=30)
    assert network.same.isfinite().all()
    assert network.same[0] > 0
    assert not network.training
    again = _NoisyNetwork(spread=3.0)
    probability = []
    for _ in range(30):
        e = again(None).embeddings
        features = oracle_pretraining.identity_features(e[16:], e[:16])
        probability.append(torch.sigmoid(features @ network.same))
    identity = torch.stack(probability)
    assert identity.mean().item() == pytest.approx(0.5, abs=0.005)
    assert identity[:, :6].mean() > 0.6 > 0.4 > identity[:, 6:].mean()
