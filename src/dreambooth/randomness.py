"""Random numbers named by a key instead of drawn from one stream.

Every draw has its own key, such as (seed, stage, step, sample index): neither the number of
processes, nor the split into batches, nor a resume, nor any other draw changes it.
"""

import json
from hashlib import blake2b

import torch


def seed_of(*key: int | str) -> int:
    """A seed in [0, 2^63) from a key: the same one on every machine and in every Python.

    Different keys give different seeds, ("1",) and (1,), ("ab", "c") and ("a", "bc") included, but
    for chance: JSON encodes a list of integers and strings without ambiguity.
    """
    digest = blake2b(json.dumps(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*key: int | str) -> torch.Generator:
    """A fresh CPU generator seeded by `seed_of(*key)`; CPU, so that a GPU sees the same numbers."""
    return torch.Generator().manual_seed(seed_of(*key))
