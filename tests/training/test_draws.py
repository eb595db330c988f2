import pytest
import torch
from torch.utils.data import DataLoader

from dreambooth.backbones.stage import Encoded
from dreambooth.schedules import FlowMatching, TimestepDistribution, VariancePreserving
from dreambooth.training.draws import Batches, TrainingDraws

PHOTOS = Encoded(torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 2, 2).contiguous())
PRIOR = Encoded(torch.arange(100.0, 107.0).view(7, 1, 1, 1).expand(7, 3, 2, 2).contiguous())


def nothing_added(x, generator):
    return {}


SCHEDULE = VariancePreserving(torch.linspace(0.999, 0.001, 1000))
UNIFORM = TimestepDistribution()


def draws_of(prior=PRIOR, seed=0, stage="base", photos=PHOTOS, dropout=0.0, schedule=SCHEDULE):
    return TrainingDraws(photos, prior, schedule, UNIFORM, 70, seed, stage, nothing_added, dropout)


def image_of(draw):
    return int(draw.x.flatten()[0])


def flat(batches):
    """All draws of some batches, as one tensor a name."""
    batches = list(batches)
    return {
        (term, name): torch.cat([getattr(batch[term], name) for batch in batches])
        for term in batches[0]
        for name in ("x", "eps", "t", "prompt")
    }


def test_the_split_into_batches_does_not_change_a_draw():
    one, five = (flat(DataLoader(draws_of(), batch_size=size)) for size in (1, 5))
    assert all(torch.equal(one[key], five[key]) for key in one)


def test_neither_the_order_of_reading_nor_a_resume_changes_a_draw():
    draws = draws_of()
    backwards = [draws[i] for i in reversed(range(70))][::-1]
    batches = Batches(num_steps=14, batch_size=5, first_step=lambda: 7)
    resumed = flat(DataLoader(draws_of(), batch_sampler=batches))
    assert len(batches) == 14
    for i in range(35, 70):
        for term in ("subject", "prior"):
            for name in ("x", "eps", "t"):
                assert torch.equal(resumed[term, name][i - 35], getattr(backwards[i][term], name))


@pytest.mark.parametrize("num_ranks", [2, 5, 10])
def test_all_ranks_together_draw_what_one_process_draws(num_ranks):
    whole = flat(DataLoader(draws_of(), batch_size=10))
    shares = [Batches(7, 10, lambda: 0, rank, num_ranks) for rank in range(num_ranks)]
    ranks = [DataLoader(draws_of(), batch_sampler=share) for share in shares]
    steps = flat(batch for step in zip(*ranks, strict=True) for batch in step)
    assert all(torch.equal(values, steps[key]) for key, values in whole.items())


def test_every_image_is_seen_once_in_each_pass_in_changing_orders():
    draws = draws_of()
    for term, count, first in (("subject", 5, 0), ("prior", 7, 100)):
        seen = [image_of(draws[i][term]) - first for i in range(70)]
        passes = [tuple(seen[i : i + count]) for i in range(0, 70, count)]
        assert all(sorted(order) == list(range(count)) for order in passes)
        assert len(set(passes)) > len(passes) // 2


def test_the_subject_draws_are_the_same_with_and_without_a_prior():
    with_prior, without = draws_of(), draws_of(prior=None)
    assert set(without[0]) == {"subject"}
    for i in range(10):
        for name in ("x", "eps", "t"):
            assert torch.equal(
                with_prior[i]["subject"]._asdict()[name], without[i]["subject"]._asdict()[name]
            )


def test_both_terms_draw_timestep_and_noise_independently():
    drawn = flat(DataLoader(draws_of(), batch_size=70))
    assert (drawn["subject", "t"] != drawn["prior", "t"]).float().mean() > 0.9
    eps = torch.stack([drawn["subject", "eps"].flatten(), drawn["prior", "eps"].flatten()])
    assert torch.corrcoef(eps)[0, 1].abs() < 0.15


def test_seed_stage_and_sample_each_change_the_noise():
    noises = [
        draws_of()[0]["subject"].eps,
        draws_of()[1]["subject"].eps,
        draws_of(seed=1)[0]["subject"].eps,
        draws_of(stage="sr")[0]["subject"].eps,
    ]
    assert len({tuple(n.flatten().tolist()) for n in noises}) == 4


def test_timesteps_cover_the_whole_range_and_noise_is_standard_normal():
    drawn = flat(DataLoader(draws_of(), batch_size=70))
    t = torch.cat([drawn["subject", "t"], drawn["prior", "t"]])
    assert t.min() >= 0
    assert t.max() < 1000
    assert all(((t >= low) & (t < low + 250)).sum() > 15 for low in (0, 250, 500, 750))
    eps = torch.cat([drawn["subject", "eps"], drawn["prior", "eps"]])
    assert eps.mean().abs() < 0.1
    assert 0.9 < eps.std() < 1.1


def test_an_encoding_that_is_a_distribution_is_sampled_anew_at_each_step():
    photos = Encoded(PHOTOS.mean, torch.full_like(PHOTOS.mean, 0.1))
    draws = draws_of(photos=photos)
    first = draws[0]["subject"]
    again = next(
        draws[i]["subject"]
        for i in range(1, 70)
        if round(float(draws[i]["subject"].x.mean())) == round(float(first.x.mean()))
    )
    assert not torch.equal(first.x, again.x)
    assert torch.equal(first.x, draws_of(photos=photos)[0]["subject"].x)
    exact = draws_of()[0]["subject"]
    assert torch.equal(first.eps, exact.eps)
    assert torch.equal(first.t, exact.t)


def test_some_prior_samples_have_the_empty_prompt_and_no_subject_sample_has():
    drawn = draws_of(dropout=0.25)
    rows = [drawn[i]["prior"].prompt.item() for i in range(68)]
    assert rows == [0, 0, 0, 1] * 17
    assert not any(drawn[i]["subject"].prompt for i in range(70))
    assert not any(draws_of()[i]["prior"].prompt for i in range(70))
    for name in ("x", "eps", "t"):
        assert torch.equal(
            drawn[3]["prior"]._asdict()[name], draws_of()[3]["prior"]._asdict()[name]
        )


def test_the_schedule_draws_the_timesteps():
    t = flat(DataLoader(draws_of(schedule=FlowMatching()), batch_size=70))["subject", "t"]
    assert t.dtype == torch.float32
    assert ((t > 0) & (t < 1)).all()


def test_a_photo_with_a_prompt_and_a_mask_of_its_own_has_them_in_each_sample():
    masks = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 1, 2, 2)
    own = [None, 2, None, 3, None]
    draws = TrainingDraws(
        *(PHOTOS, PRIOR, SCHEDULE, UNIFORM, 70, 0, "base", nothing_added),
        num_prompts=2,
        own_prompts=own,
        masks=masks,
    )
    plain = TrainingDraws(
        *(PHOTOS, PRIOR, SCHEDULE, UNIFORM, 70, 0, "base", nothing_added), num_prompts=2
    )
    batch = next(iter(DataLoader(draws, batch_size=70)))
    photos = batch["subject"].x[:, 0, 0, 0].long()
    assert torch.equal(batch["mask"], masks[photos])
    assert not batch["prior"].prompt.any()
    for i, photo in enumerate(photos.tolist()):
        drawn, before = draws[i]["subject"], plain[i]["subject"]
        expected = before.prompt.item() if own[photo] is None else own[photo]
        assert drawn.prompt.item() == expected
        assert all(torch.equal(getattr(drawn, n), getattr(before, n)) for n in ("x", "eps", "t"))
        assert "mask" not in plain[i]
    assert {0, 1, 2, 3} == set(batch["subject"].prompt.tolist())
