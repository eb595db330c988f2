"""Textual Inversion: what trains, what is kept, and that diffusers draws the same with it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from commands import command, stopped_before_step, train
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from dreambooth.assemble import load_finished_model
from dreambooth.backbones.cascade import CascadeBackbone
from dreambooth.backbones.new_word import embedding_of, new_word_of
from dreambooth.backbones.stable_diffusion import StableDiffusionBackbone
from dreambooth.backbones.stage import Sampling
from dreambooth.methods.method import TermPrompts
from dreambooth.methods.textual_inversion import EMBEDDINGS_FILE, TEMPLATES, TextualInversion
from dreambooth.methods.two_terms import TwoTermModule
from dreambooth.miniature.subjects import drawn_subject
from dreambooth.runs.run import Run
from dreambooth.runs.settings import Sampler
from dreambooth.subjects.prompts import PromptNames
from dreambooth.training.draws import Draw

SUBJECT = drawn_subject("dog", 7)
NAMES = PromptNames("kzn", "dog", "dog")
PROMPT = "a <subject> in the snow"
SAMPLING = Sampling({"base": Sampler("ddim", num_steps=4, guidance_scale=3.0)})
KEY = ("t", 0)


def method(num_vectors=1):
    return TextualInversion("<subject>", "dog", num_vectors)


def latent(stable_diffusion):
    return StableDiffusionBackbone.load(stable_diffusion[1].partition("=")[2])


@pytest.fixture(params=["cascade", "latent"])
def backbone(request, tiny, stable_diffusion):
    return CascadeBackbone.load(tiny) if request.param == "cascade" else latent(stable_diffusion)


def module_of(stage, num_vectors=1, prompts=("a <subject>",)):
    terms = TermPrompts(prompts, [])
    return TwoTermModule(stage, method(num_vectors), terms, 0, 1e-2, torch.optim.AdamW)


def draw_of(stage, prompts=(0, 0)):
    noise = torch.Generator().manual_seed(0)
    x, eps = (torch.randn(2, *stage.x_shape, generator=noise) for _ in range(2))
    return Draw(x, eps, torch.tensor([100, 700]), torch.tensor(prompts), {})


def text_of(stage, prompt):
    return stage.encode_prompts([prompt], with_gradient=True)["text"].detach()


def test_before_training_the_word_is_read_as_the_word_it_starts_from(backbone):
    stage = backbone.stages["base"]
    expected = [text_of(stage, text) for text in ("a dog in the snow", "a dog dog in the snow")]
    method().prepare(stage)
    torch.testing.assert_close(text_of(stage, PROMPT), expected[0])
    torch.testing.assert_close(text_of(stage, "a dog dog in the snow"), expected[1])
    (token,) = stage.tokenizer("dog", add_special_tokens=False).input_ids
    word = new_word_of(stage)
    assert torch.equal(word.vectors[0], word.vocabulary.weight[token])


def test_several_vectors_are_several_tokens(backbone):
    stage = backbone.stages["base"]
    expected = text_of(stage, "a dog dog dog in the snow")
    method(3).prepare(stage)
    torch.testing.assert_close(text_of(stage, PROMPT), expected)
    backbone.check_prompt(PROMPT, "<subject>")
    too_long = " ".join(["a"] * (stage.tokenizer.model_max_length - 4)) + " <subject>"
    with pytest.raises(ValueError, match=r"shorten it by 1$"):
        backbone.check_prompt(too_long)


def test_the_mean_embedding_stands_for_a_noun_of_several_tokens(stable_diffusion):
    stage = latent(stable_diffusion).stages["base"]
    ids = stage.tokenizer("red dog", add_special_tokens=False).input_ids
    assert len(ids) == 2
    rows = stage.text_encoder.get_input_embeddings().weight[ids]
    torch.testing.assert_close(embedding_of(stage, "red dog"), rows.mean(0))


def test_the_loss_and_its_gradient_are_those_of_a_plain_recomputation(backbone):
    stage = backbone.stages["base"]
    module, draw = module_of(stage, 2, ("a <subject>", "a red <subject>")), draw_of(stage, (0, 1))
    (vectors,) = module.trained.parameters
    loss = module.calc_loss(draw, None).total
    (found,) = torch.autograd.grad(loss, vectors)

    # Plainly: rows of a whole table of embeddings.
    word = new_word_of(stage)
    table = torch.cat([word.vocabulary.weight, vectors]).detach().requires_grad_()
    plain = torch.nn.Embedding.from_pretrained(table, freeze=False)
    plain.weight = torch.nn.Parameter(table.detach())
    stage.text_encoder.set_input_embeddings(plain)
    text = stage.encode_prompts(["a <subject>", "a red <subject>"], with_gradient=True)
    z_t = stage.schedule.corrupt(draw.x, draw.eps, draw.t)
    target = stage.schedule.target(draw.x, draw.eps, draw.t)
    expected = F.mse_loss(stage.predict(z_t, draw.t, text), target)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(found, plain.weight.grad[word.first_id :], rtol=1e-3, atol=1e-6)
    assert found.abs().max() > 0
    assert not torch.equal(found[0], found[1])


def test_a_step_changes_the_vectors_alone_and_keeps_their_scale(backbone):
    stage = backbone.stages["base"]
    module = module_of(stage, 2)
    modules = (stage.denoiser, stage.text_encoder)
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in modules]
    (vectors,) = module.trained.parameters
    optimizer = torch.optim.SGD([vectors], lr=1.0)
    module.calc_loss(draw_of(stage), None).total.backward()
    optimizer.step()
    after = [m.state_dict() for m in modules]
    changed = [k for a, b in zip(before, after, strict=True) for k in b if not a[k].equal(b[k])]
    assert [name.rpartition(".")[2] for name in changed] == ["vectors"]

    std = new_word_of(stage).vocabulary.weight.std()
    with torch.no_grad():
        vectors.mul_(16 * std / vectors.std())
    module.trained.after_step()
    torch.testing.assert_close(vectors.std(), std * 16**0.9, rtol=1e-4, atol=0)


def test_a_checkpoint_has_the_vectors_alone(backbone):
    state = module_of(backbone.stages["base"], 2).state_dict()
    assert [name.rpartition(".")[2] for name in state] == ["vectors"]


@pytest.mark.parametrize("num_vectors", [1, 3])
def test_plain_diffusers_draws_the_same_pictures_with_the_saved_word(
    stable_diffusion, tmp_path, num_vectors
):
    backbone, inversion = latent(stable_diffusion), method(num_vectors)
    stage = backbone.stages["base"]
    inversion.prepare(stage)
    before = backbone.generate([PROMPT], [KEY], SAMPLING)[0]
    vectors = new_word_of(stage).vectors.detach()
    noise = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(0))
    inversion.load_state(stage, {"<subject>": vectors + 3 * noise * vectors.std()})
    ours = backbone.generate([PROMPT], [KEY], SAMPLING)[0]
    assert (ours.int() - before.int()).abs().max() > 10
    inversion.save(backbone, tmp_path)
    assert {k: v.shape[0] for k, v in load_file(tmp_path / EMBEDDINGS_FILE).items()} == {
        "<subject>": num_vectors
    }
    drawn = {}
    exec(backbone.recipe(tmp_path, PROMPT, KEY, SAMPLING), drawn)
    assert isinstance(drawn["pipeline"], StableDiffusionPipeline)
    theirs = torch.from_numpy(np.array(drawn["image"])).permute(2, 0, 1)
    assert (theirs.int() - ours.int()).abs().max() <= 1


def test_the_templates_are_the_papers_where_the_model_knows_their_words(tiny, stable_diffusion):
    assert len(set(TEMPLATES)) == 27
    names = method().names(NAMES, SUBJECT, CascadeBackbone.load(tiny))
    assert (names.subject, names.class_prompt, names.in_text) == (
        "<subject>",
        "a dog",
        "dog",
    )
    assert method().prompts(names, CascadeBackbone.load(tiny)).subject == ["a <subject>"]
    every = method().prompts(names, latent(stable_diffusion)).subject
    assert every == [template.format("<subject>") for template in TEMPLATES]


def run_of(tmp_path, name, *overrides):
    return command(
        *("train", "experiment=smoke", "trainer=cpu", "logger=csv", "method=textual_inversion"),
        *("method.max_steps=4", f"hydra.run.dir={tmp_path}/{name}", *overrides),
    )


@pytest.mark.slow
@pytest.mark.parametrize("model", ["cascade", "latent"])
def test_a_stopped_run_goes_on_to_the_same_vectors(tiny, stable_diffusion, tmp_path, model):
    own = stable_diffusion if model == "latent" else (f"model.backbone.pretrained={tiny}",)
    own = (*own, "metrics=none", "method.num_vectors=2")
    ended = run_of(tmp_path, "whole", *own)
    assert ended.code == 0, ended.output
    with stopped_before_step(2):
        assert run_of(tmp_path, "stopped", *own).code != 0
    checkpoint = tmp_path / "stopped/checkpoints/base-00000002.ckpt"
    assert checkpoint.stat().st_size < 50_000
    assert run_of(tmp_path, "stopped", *own).code == 0
    whole, resumed = (
        load_file(tmp_path / n / "weights" / EMBEDDINGS_FILE) for n in ("whole", "stopped")
    )
    assert torch.equal(whole["<subject>"], resumed["<subject>"])

    run = Run.load_finished(tmp_path / "whole")
    again = load_finished_model(run)
    vectors = new_word_of(again.backbone.stages["base"]).vectors
    assert torch.equal(vectors, whole["<subject>"])
    assert any(p.prompt == "a <subject> on the beach" for p in run.images.read("prompts"))
    ended = command("generate", f"run={run.folder}", "prompts=['a red {}']", "images_per_prompt=1")
    assert ended.code == 0, ended.output
    (drawn,) = run.images.read("generated")
    (first,) = [p for p in run.images.read("prompts") if p.prompt == drawn.prompt]
    assert (drawn.pixels.int() - first.pixels.int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["adapter=lora"], "this method trains no adapter: give adapter=none"),
        (["prior.lambda=0.5"], "prior.lambda=0.5: this method has no prior term, give prior=off"),
        (["sr=noise_1e-5"], "this method does not fine-tune the SR stage, give sr=frozen"),
        (["method.num_vectors=0"], "method.num_vectors=0: give a whole number from 1 up"),
        (["method.num_vectors=30"], "method.num_vectors=30: the subject's longest prompt has room"),
        (["method.tuning.token=subject"], "method.tuning.token=subject: give a new word of small"),
        (["method.tuning.like=doggo"], "the word 'doggo' of 'a doggo' is outside the vocabulary"),
    ],
)
def test_what_it_does_not_have_is_refused(tiny, tmp_path, overrides, said):
    ended = train(tiny, tmp_path / "run", "method=textual_inversion", *overrides)
    assert said in ended.sentence
    assert not (tmp_path / "run/images").exists()
