"""Random numbers from keys instead of from one stream.

Every draw has its own key, such as (seed, stage, term, sample number). It therefore depends neither
on the number of processes, nor on the batches, nor on a resume, nor on any other draw.
"""

import json
from hashlib import blake2b

import torch


def seed_of(*key: int | str) -> int:
    """A seed in [0, 2^63) from a key, the same on every machine and in every version of Python.

    Different keys give different seeds, up to hash collisions. This includes ("1",) and (1,), and
    ("ab", "c") and ("a", "bc"): JSON encodes a list of integers and strings without ambiguity.
    """
    digest = blake2b(json.dumps(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*key: int | str) -> torch.Generator:
    """A new generator seeded with `seed_of(*key)`, on the CPU: a GPU would give other numbers."""
    return torch.Generator().manual_seed(seed_of(*key))
