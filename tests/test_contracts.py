"""What holds for every noise schedule, method and scorer. A new one is added to the list here;
docs/extending.md names these tests."""

from copy import deepcopy

import pytest
import torch
from adapters_of_conf import NAMES, adapter_method
from diffusers import DDPMScheduler
from kinds import each
from test_seams import BiasesOnly, Colourfulness, Trigonometric
from tiny_encoders import miniature_folder

from dreambooth.backbones.cascade import CascadeBackbone
from dreambooth.methods.dreambooth import DreamBooth
from dreambooth.methods.textual_inversion import TextualInversion
from dreambooth.metrics.detail import DetailScorer
from dreambooth.metrics.evaluation import PictureSets
from dreambooth.miniature.scoring import OracleScorer, fidelity_scorer
from dreambooth.miniature.subjects import drawn_subject
from dreambooth.runs.pictures import Picture
from dreambooth.schedules import FlowMatching, TimestepDistribution, VariancePreserving
from dreambooth.subjects.prompts import PromptNames

SCHEDULES = {
    "variance_preserving": VariancePreserving.from_scheduler(DDPMScheduler()),
    "flow_matching": FlowMatching(shift=2.0),
    "trigonometric": Trigonometric(),
}
METHODS = {
    "dreambooth": DreamBooth(),
    "cross_attention": DreamBooth("cross_attention"),
    "biases": BiasesOnly(),
    "textual_inversion": TextualInversion("<subject>", "dog", num_vectors=2),
} | {name: adapter_method(name) for name in NAMES}
QUICK = ("dreambooth", "cross_attention", "biases", "textual_inversion", "lora")
SCORERS = {
    "oracle": lambda _: OracleScorer(),
    "fidelity": lambda tmp_path: fidelity_scorer(miniature_folder(tmp_path)),
    "detail": lambda _: DetailScorer(low_px=32),
    "colourfulness": lambda _: Colourfulness(),
}
SUBJECT = drawn_subject("dog", 7)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def drawn_t(schedule, count):
    generator = torch.Generator().manual_seed(0)
    return torch.stack([schedule.draw_t(TimestepDistribution(), generator) for _ in range(count)])


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
class TestEverySchedule:
    def test_a_perfect_prediction_gives_back_x(self, schedule):
        t, x, eps = drawn_t(schedule, 50), noise(50, 3, 4, 4), noise(50, 3, 4, 4, seed=1)
        x_hat = schedule.to_x(schedule.target(x, eps, t), schedule.corrupt(x, eps, t), t)
        torch.testing.assert_close(x_hat, x, rtol=0, atol=1e-3)

    def test_snr_is_the_ratio_of_signal_to_noise(self, schedule):
        t, one, zero = drawn_t(schedule, 50), torch.ones(50), torch.zeros(50)
        signal, sigma = schedule.corrupt(one, zero, t), schedule.corrupt(zero, one, t)
        torch.testing.assert_close(schedule.snr(t), (signal / sigma) ** 2, rtol=1e-3, atol=1e-6)

    def test_every_image_is_corrupted_by_its_own_t_in_any_number_of_dimensions(self, schedule):
        for shape in [(4, 6), (4, 3, 2, 2), (4, 3, 2, 2, 2)]:
            t, x, eps = drawn_t(schedule, 4), noise(*shape), noise(*shape, seed=1)
            rows = [schedule.corrupt(x[[i]], eps[[i]], t[[i]]) for i in range(4)]
            torch.testing.assert_close(schedule.corrupt(x, eps, t), torch.cat(rows))

    def test_sampling_with_a_perfect_x_hat_ends_at_x(self, schedule):
        x, z = noise(2, 3, 4, 4), noise(2, 3, 4, 4, seed=1)
        generators = [torch.Generator().manual_seed(i) for i in range(2)]
        sampler = "euler" if schedule.prediction_type == "flow_prediction" else "ddim"
        solver = schedule.solver(sampler, 7)
        times = [float(t) for t in solver.timesteps]
        assert len(times) == 7
        assert times == sorted(times, reverse=True)
        for t in solver.timesteps:
            z = solver.step(x, t, z, generator=generators).prev_sample
        torch.testing.assert_close(z, x, rtol=0, atol=1e-3)


@pytest.fixture(scope="module")
def loaded(tiny):
    """Only to be read, or copied: that takes half of the time of loading."""
    return CascadeBackbone.load(tiny)


def weights_of(stage):
    """The weights of the denoiser, and the text of a prompt with a new word."""
    weights = {name: value.clone() for name, value in stage.denoiser.state_dict().items()}
    return weights | stage.encode_prompts(["a <subject>"])


@pytest.mark.parametrize("method", each(METHODS, *QUICK))
class TestEveryMethod:
    @pytest.fixture
    def trained(self, method, loaded):
        """A backbone whose stages are prepared, and trained by a large random step."""
        backbone = deepcopy(loaded)
        for stage in backbone.stages.values():
            method.prepare(stage)
            with torch.no_grad():
                for parameter in method.trained(stage).parameters:
                    parameter.add_(noise(*parameter.shape))
        return backbone

    def test_preparing_changes_no_prediction(self, method, loaded):
        for stage in deepcopy(loaded).stages.values():
            x, t = noise(2, *stage.x_shape), torch.tensor([100, 900])
            added = stage.added_condition(x[0], torch.Generator().manual_seed(0), None)
            condition = {k: v.expand(2, *v.shape) for k, v in added.items()}
            condition |= stage.encode_prompts(["a dog", "a red cat"])
            with torch.no_grad():
                before = stage.predict(x, t, condition)
                method.prepare(stage)
                torch.testing.assert_close(
                    stage.predict(x, t, condition), before, rtol=0, atol=1e-5
                )

    def test_prepare_leaves_only_what_trains_with_a_gradient(self, method, trained):
        for stage in trained.stages.values():
            own = {id(parameter) for parameter in method.trained(stage).parameters}
            assert own
            every = [*stage.denoiser.parameters(), *stage.text_encoder.parameters()]
            modules = method.trained(stage).modules.values()
            assert own == {id(p) for m in modules for p in m.parameters() if p.requires_grad}
            assert own <= {id(p) for p in every if p.requires_grad}
            assert stage.denoiser.training

    def test_the_state_turns_a_pretrained_stage_into_the_trained_one(self, method, trained, loaded):
        stages = deepcopy(loaded).stages
        pretrained = {name: weights_of(stage) for name, stage in stages.items()}
        for name, stage in stages.items():
            before = pretrained[name]
            method.load_state(stage, method.state(trained.stages[name]))
            after, expected = weights_of(stage), weights_of(trained.stages[name])
            assert all(torch.equal(after[key], expected[key]) for key in expected)
            assert after.keys() != before.keys() or any(
                not torch.equal(after[key], before[key]) for key in before
            )

    def test_a_saved_method_loads_to_the_trained_model(self, method, trained, loaded, tmp_path):
        def load(folder=None):
            return CascadeBackbone.load(folder) if folder else deepcopy(loaded)

        method.save(trained, tmp_path)
        found = method.load(load, tmp_path)
        for name, stage in trained.stages.items():
            after, expected = weights_of(found.stages[name]), weights_of(stage)
            assert all(torch.equal(after[key], expected[key]) for key in expected)

    def test_a_dropped_caption_is_the_second_prompt_of_the_prior_if_it_has_one(
        self, method, loaded
    ):
        backbone = deepcopy(loaded)
        names = method.names(PromptNames("kzn", "dog", "dog"), SUBJECT, backbone)
        prompts = method.prompts(names, backbone)
        assert prompts.subject[0]
        assert all(names.subject in prompt for prompt in prompts.subject)
        assert prompts.prior in (["a dog", ""], [])


@pytest.mark.parametrize("make", SCORERS.values(), ids=SCORERS)
def test_every_scorer_has_a_row_for_each_picture_and_a_protocol_for_each_metric(make, tmp_path):
    photos, snow = SUBJECT.originals(), "a {} in the snow"
    prompts = [Picture(p, "a kzn dog in the snow", i, snow) for i, p in enumerate(photos[:3])]
    of_class = [Picture(p, "a dog", i, "a {}") for i, p in enumerate(photos[3:])]
    restored = [Picture(p.flip(-1), "a kzn dog", i, "a {}") for i, p in enumerate(photos[:2])]
    originals = [Picture(p, "a kzn dog", i, "a {}") for i, p in enumerate(photos[:2])]
    sets = PictureSets(SUBJECT, "kzn", prompts, of_class, restored, originals)
    scorer = make(tmp_path)
    scorer.check(SUBJECT)
    scores, enlarged = scorer.score(sets), scorer.score_restored(sets)
    assert len(scores.rows) == len(prompts) + len(of_class)
    assert len(enlarged.rows) == len(restored)
    assert scores.metrics
    for metric in (scores.metrics | enlarged.metrics).values():
        assert metric.count > 0
        assert metric.protocol
    assert all(name.startswith("sr_") for name in enlarged.metrics)
    assert not any(name.startswith("sr_") for name in scores.metrics)
