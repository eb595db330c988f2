"""Pretraining: every part runs from scratch, and a killed one resumes exactly."""

import lightning as L
import pytest
import torch

from dreambooth.backbones.cascade import CascadeBackbone, PromptEncoder
from dreambooth.backbones.stage import Sampling
from dreambooth.metrics.encoders import ClipEncoder, DinoEncoder
from dreambooth.miniature.encoders import ClipPretraining, DinoPretraining, new_clip, new_dino
from dreambooth.miniature.oracle import Oracle
from dreambooth.miniature.pretraining import (
    PARTS,
    SceneBatches,
    fit,
    pretrain,
)
from dreambooth.miniature.scenes import drawn_scenes
from dreambooth.miniature.text import TextPretraining, new_text_encoder
from dreambooth.miniature.tokenizer import MAX_TOKENS, build_tokenizer
from dreambooth.runs.settings import Sampler

pytestmark = pytest.mark.slow

NUM_STEPS = 5


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return drawn_scenes(tmp_path_factory.mktemp("scenes"), 32, seed=3)


def batches_of(scenes, text_encoder):
    tokens = PromptEncoder(build_tokenizer(), text_encoder, MAX_TOKENS).tokens
    return SceneBatches(*scenes, tokens, 4, NUM_STEPS, dropout=0.1, seed=1)


class KilledError(Exception):
    pass


def killed(module_class):
    class Killed(module_class):
        def on_train_batch_start(self, batch, batch_idx):
            if self.trainer.global_step == 3:
                raise KilledError

    return Killed


@pytest.mark.parametrize(
    ("module_class", "new_model"),
    [
        (TextPretraining, new_text_encoder),
        (ClipPretraining, new_clip),
        (DinoPretraining, new_dino),
    ],
)
def test_a_killed_training_resumes_and_ends_with_the_same_weights(
    module_class, new_model, scenes, tmp_path
):
    def trained(module_class, folder):
        L.seed_everything(0, verbose=False)
        module = module_class(new_model(), NUM_STEPS)
        fit(module, batches_of(scenes, new_text_encoder()), NUM_STEPS, folder, 0.9, save_every=2)
        return module.state_dict()

    with pytest.raises(KilledError):
        trained(killed(module_class), tmp_path / "killed")
    resumed = trained(module_class, tmp_path / "killed")
    straight = trained(module_class, tmp_path / "straight")
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)


def test_a_batch_depends_on_seed_and_step_only(scenes):
    a, b = (batches_of(scenes, new_text_encoder())[3] for _ in range(2))
    assert torch.equal(a["images"], b["images"])
    assert torch.equal(a["tokens"], b["tokens"])
    assert not torch.equal(a["tokens"], batches_of(scenes, new_text_encoder())[4]["tokens"])


def test_every_part_is_pretrained_from_scratch_into_weights_that_load_and_run(tmp_path):
    weights, work = tmp_path / "weights", tmp_path / "work"
    for part in PARTS:
        done = pretrain(
            part,
            weights,
            work / part,
            num_steps=2,
            batch_size=2,
            num_scenes=8,
            learning_rate=1e-3,
            ema_decay=0.9,
        )
        assert done
    Oracle.load(weights)
    picture = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    clip = ClipEncoder(weights / "clip")
    assert clip.images(picture).isfinite().all()
    assert clip.texts(["a red dog"]).isfinite().all()
    dino = DinoEncoder(weights / "dino", resize_px=64, crop_px=64)
    assert dino.images(picture).isfinite().all()
    backbone = CascadeBackbone.load(weights)
    sampling = Sampling({name: Sampler("ddim", 1, 1.0) for name in ("base", "sr")})
    images = backbone.generate(["a red dog"], [("key", 0)], sampling)
    assert images.shape == (1, 3, 64, 64)
    assert images.dtype == torch.uint8


def test_a_stage_without_a_text_encoder_and_an_unknown_part_are_refused(tmp_path):
    with pytest.raises(ValueError, match="run part=text first"):
        pretrain("base", tmp_path, tmp_path, 1, 1, 1, 1e-3, 0.9)
    with pytest.raises(ValueError, match="part='tex' is not known; choose one of text, base, sr"):
        pretrain("tex", tmp_path, tmp_path, 1, 1, 1, 1e-3, 0.9)
