"""The SR stage is fine-tuned like the base stage, by the same module, at any noise level."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from commands import ROOT, smoke, train
from hydra import compose, initialize_config_dir

from dreambooth.assemble import assemble, load_finished_model
from dreambooth.backbones.cascade import CascadeBackbone
from dreambooth.backbones.stage import Sampling
from dreambooth.launch.start import compose_sr_stage, plain_config
from dreambooth.methods.dreambooth import DreamBooth
from dreambooth.methods.method import TermPrompts
from dreambooth.methods.two_terms import TwoTermModule
from dreambooth.runs.run import Run
from dreambooth.runs.settings import Sampler
from dreambooth.training.draws import Draw

pytestmark = pytest.mark.slow

SAMPLING = Sampling({"base": Sampler("dpm", 2, 1.0), "sr": Sampler("dpm", 2, 1.0)})
BASE_ONLY = replace(SAMPLING, last_stage="base")
BASE = "weights/base/diffusion_pytorch_model.safetensors"
SR = "weights/sr/diffusion_pytorch_model.safetensors"


@pytest.fixture
def backbone(tiny):
    return CascadeBackbone.load(tiny)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def image():
    return torch.rand(3, 64, 64, generator=rng()) * 2 - 1


def batch(stage, level):
    """Two training images of a stage, as the loader gives them."""
    x = torch.stack([image(), image().flip(-1)])
    added = [stage.added_condition(one, rng(i), level) for i, one in enumerate(x)]
    return Draw(
        x,
        eps=torch.randn(x.shape, generator=rng(7)),
        t=torch.tensor([100, 900]),
        prompt=torch.zeros(2, dtype=torch.long),
        added={name: torch.stack([a[name] for a in added]) for name in added[0]},
    )


def test_without_noise_the_condition_is_the_image_shrunk_by_area(backbone):
    stage = backbone.stages["sr"]
    for level, tolerance in ((0.0, 0.0), (1e-8, 1e-3)):
        condition = stage.added_condition(image(), rng(), level)
        shrunk = F.avg_pool2d(image(), 2)
        assert (condition["low_resolution"] - shrunk).abs().max() <= tolerance
        assert condition["noise_level"] == pytest.approx(level)
    assert backbone.stages["base"].added_condition(image(), rng(), 1e-3) == {}


def test_the_noise_of_the_condition_has_the_levels_variance(backbone):
    stage = backbone.stages["sr"]
    noisy = stage.added_condition(torch.zeros(3, 64, 64), rng(), 0.3)["low_resolution"]
    assert noisy.var() == pytest.approx(0.3, rel=0.1)


def test_the_model_receives_the_noise_level(backbone):
    stage = backbone.stages["sr"]
    told = []
    stage.denoiser.class_embedding.register_forward_hook(lambda *a: told.append(a[2]))
    condition = stage.encode_prompts(["a dog"]) | {"low_resolution": torch.zeros(1, 3, 32, 32)}
    for level in (1e-3, 1e-5):
        condition = condition | {"noise_level": torch.tensor([level])}
        stage.predict(torch.zeros(1, 3, 64, 64), torch.tensor([500]), condition)
    assert (told[0] - told[1]).abs().max() > 1e-3


def test_the_loss_is_the_two_terms_of_the_enlarged_image_and_leaves_the_base_alone(backbone):
    stage = backbone.stages["sr"]
    prompts = TermPrompts(["a kzn dog"], ["a dog"])
    module = TwoTermModule(stage, DreamBooth(), prompts, 1.0, 1e-3, torch.optim.AdamW)
    subject, prior = batch(stage, 1e-3), batch(stage, 1e-3)
    losses = module.calc_loss(subject, prior)
    losses.total.backward()
    for found, draw, prompt in (
        (losses.subject, subject, "a kzn dog"),
        (losses.prior, prior, "a dog"),
    ):
        alpha, sigma = (v[:, None, None, None] for v in stage.schedule.alpha_sigma(draw.t))
        condition = stage.encode_prompts([prompt] * 2) | draw.added
        x_hat = stage.predict(alpha * draw.x + sigma * draw.eps, draw.t, condition)
        torch.testing.assert_close(found, F.mse_loss(x_hat, draw.x), rtol=1e-5, atol=1e-6)
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in stage.denoiser.parameters())
    for part in (backbone.stages["base"].denoiser, backbone.prompt_encoder.model):
        assert all(p.grad is None for p in part.parameters())


def test_sr_off_enlarges_the_base_stage_s_picture_without_a_model(backbone):
    jobs = (["a dog", "a cat"], [("x", 0), ("x", 1)])
    base = backbone.generate(*jobs, BASE_ONLY)
    with_sr = backbone.generate(*jobs, SAMPLING)
    found = backbone.generate(*jobs, replace(SAMPLING, super_resolution=False))
    low = base.float() / 127.5 - 1
    plain = F.interpolate(low, 64, mode="bicubic", antialias=True).clamp(-1, 1)
    assert (found.float() - (plain + 1) * 127.5).abs().max() <= 2  # the base's were rounded
    assert (found != with_sr).any()


def test_the_noise_level_of_drawing_can_differ_from_that_of_training(backbone):
    jobs = (["a dog"], [("x", 0)])
    first = backbone.generate(*jobs, SAMPLING)
    assert (backbone.generate(*jobs, replace(SAMPLING, noise_level=0.3)) != first).any()
    assert torch.equal(backbone.generate(*jobs, replace(SAMPLING, noise_level=1e-3)), first)


def test_enlarging_the_bases_own_picture_is_generating(backbone):
    """But for the base's rounding to 8 bits, which the images do not have in between."""
    keys = [("x", 0), ("x", 1)]
    base = backbone.generate(["a dog"] * 2, keys, BASE_ONLY)
    found = backbone.super_resolve(base.float() / 127.5 - 1, ["a dog"] * 2, keys, SAMPLING)
    whole = backbone.generate(["a dog"] * 2, keys, SAMPLING)
    assert (found.float() - whole.float()).abs().mean() < 1


def assembled(tiny, folder, *overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", [*smoke(tiny, folder / "prior"), *overrides])
    return assemble(Run.create(folder, plain_config(config, [])))


def test_training_and_drawing_use_the_given_noise_levels(tmp_path, tiny):
    for number, (overrides, trained, drawn) in enumerate(
        [
            (("sr=noise_1e-5",), 1e-5, 1e-5),
            (("sr.noise_level=0.3",), 0.3, 0.3),
            (("sr=noise_1e-5", "sr.inference_noise_level=0.2"), 1e-5, 0.2),
            (("sr.inference_noise_level=0.2",), None, 0.2),  # not trained
            ((), None, None),
        ]
    ):
        experiment = assembled(tiny, tmp_path / str(number), *overrides)
        assert experiment.fine_tuning.sr_noise_level == trained
        assert ("sr" in experiment.fine_tuning.stages) == (trained is not None)
        assert experiment.drawing.sampling.super_resolution
        assert experiment.drawing.sampling.noise_level == drawn


def test_each_stage_is_trained_by_its_own_settings(tmp_path, tiny):
    own = ("sr=noise_1e-5", "sr.learning_rate=0.02", "sr.train=cross_attention", "sr.max_steps=7")
    experiment = assembled(tiny, tmp_path, *own, "method.module.learning_rate=0.01")
    stages = experiment.backbone.stages
    modules = {name: experiment.fine_tuning.module(stage) for name, stage in stages.items()}
    assert {name: module.learning_rate for name, module in modules.items()} == {
        "base": 0.01,
        "sr": 0.02,
    }
    trained, whole = modules["sr"].trained.parameters, modules["sr"].stage.denoiser.parameters()
    assert 0 < len(trained) < len(list(whole))
    assert (modules["base"].fraction_here, modules["sr"].fraction_before) == (2 / 9, 2 / 9)
    assert experiment.fine_tuning.stages["sr"].max_steps == 7


def same(a, b):
    return a.read_bytes() == b.read_bytes()


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, tiny):
    """A run that fine-tunes both stages."""
    folder = tmp_path_factory.mktemp("sr") / "both"
    ended = train(tiny, folder, "sr=noise_1e-3")
    assert ended.code == 0, ended.output
    return folder


def test_a_run_fine_tunes_both_stages(tuned, finished, tiny):
    assert same(tuned / BASE, finished / BASE)  # which does not depend on SR
    assert not same(tuned / SR, finished / SR)
    assert same(finished / SR, tiny / "sr/diffusion_pytorch_model.safetensors")
    metrics = Run.load_finished(tuned).read_metrics()
    assert {"detail", "sr_psnr", "sr_ssim", "sr_identity", "sr_layout_error"} <= set(metrics)
    assert metrics["sr_psnr"].count == 16


def test_the_sr_stage_alone_is_fine_tuned_on_from_a_runs_base_stage(tuned, tmp_path, tiny):
    ended = train(tiny, tmp_path / "base", "stage=base", "sr=noise_1e-3")
    assert ended.code == 0, ended.output
    assert same(tmp_path / "base" / BASE, tuned / BASE)
    ended = train(tiny, tmp_path / "sr", "stage=sr", f"run={tmp_path / 'base'}")
    assert ended.code == 0, ended.output
    assert same(tmp_path / "sr" / BASE, tuned / BASE)
    assert same(tmp_path / "sr" / SR, tuned / SR)


@pytest.mark.parametrize(
    ("earlier", "again", "level"),
    [
        ("sr.noise_level=1e-5", ("sr=noise_1e-3",), 1e-3),
        ("sr.noise_level=1e-5", ("sr=frozen",), None),
        ("sr.noise_level=1e-5", ("sr=off",), None),
        ("sr=off", ("sr.noise_level=1e-3",), 1e-3),
        ("sr=noise_1e-5", (), 1e-5),
        ("sr=noise_1e-5", ("sr.max_steps=1",), 1e-5),
    ],
)
def test_sr_settings_of_the_new_run_replace_those_of_the_base_stage_s_run(
    tmp_path, earlier, again, level
):
    run = Run.create(tmp_path, {"overrides": ["subject=olive", earlier, "sr.max_steps=9"]})
    run.weights.mkdir()
    run.set_status("finished")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config, overrides = compose_sr_stage(str(tmp_path), ["stage=sr", *again])
    assert config.sr.noise_level == level
    assert config.sr.enabled == (again != ("sr=off",))
    assert config.sr.max_steps == {"sr.noise_level=1e-3": 9, "sr.max_steps=1": 1}.get(
        again[0] if again else "", 200 if again else 9
    )
    assert "subject=olive" in overrides


def test_a_runs_base_stage_is_drawn_again_without_super_resolution(tmp_path, tiny, finished):
    ended = train(tiny, tmp_path / "whole", "sr=off")
    assert ended.code == 0, ended.output
    ended = train(tiny, tmp_path / "again", "stage=sr", "sr=off", f"run={finished}")
    assert ended.code == 0, ended.output
    assert same(tmp_path / "again/scores.csv", tmp_path / "whole/scores.csv")
    assert not same(tmp_path / "again/scores.csv", finished / "scores.csv")
    off, frozen = (Run.load_finished(f).read_metrics() for f in (tmp_path / "again", finished))
    assert off["sr_psnr"].protocol == frozen["sr_psnr"].protocol  # they stand in one table


def test_a_run_is_reloaded_as_it_drew(tmp_path, tiny, finished):
    ended = train(tiny, tmp_path / "off", "sr=off")
    assert ended.code == 0, ended.output
    assert not load_finished_model(Run.load_finished(tmp_path / "off")).sampling.super_resolution
    ended = train(tiny, tmp_path / "level", "sr.inference_noise_level=0.2")
    assert ended.code == 0, ended.output
    assert load_finished_model(Run.load_finished(tmp_path / "level")).sampling.noise_level == 0.2
    assert not same(tmp_path / "level/scores.csv", finished / "scores.csv")
    assert load_finished_model(Run.load_finished(finished)).sampling.noise_level is None
