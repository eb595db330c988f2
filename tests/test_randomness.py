import pytest
import torch

from dreambooth.randomness import generator, seed_of


def test_a_seed_is_the_same_in_every_process_and_on_every_machine():
    assert seed_of(0, "base", 12, 3) == 5962709203195011691


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1,), ("1",)),
        (("ab", "c"), ("a", "bc")),
        (("a", "b"), ("a, b",)),
        (('a", "b',), ("a", "b")),
        ((1, 23), (12, 3)),
        ((0, 1), (1, 0)),
        (("é",), ("e",)),
        ((), ("",)),
    ],
)
def test_different_keys_give_different_seeds(one, other):
    assert seed_of(*one) != seed_of(*other)


def test_seeds_are_63_bits_spread_evenly():
    seeds = [seed_of("spread", i) for i in range(2000)]
    assert len(set(seeds)) == 2000
    assert all(0 <= seed < 2**63 for seed in seeds)
    mean = sum(seed / 2**63 for seed in seeds) / 2000
    assert mean == pytest.approx(0.5, abs=4 * (1 / 12 / 2000) ** 0.5)


def test_what_a_generator_draws_depends_on_its_key_only():
    first = torch.randn(4, generator=generator("noise", 7))
    torch.manual_seed(123)
    assert torch.equal(torch.randn(4, generator=generator("noise", 7)), first)
    assert not torch.equal(torch.randn(4, generator=generator("noise", 8)), first)
