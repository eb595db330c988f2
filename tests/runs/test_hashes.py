from hashlib import sha256

import numpy as np
import torch

from dreambooth.runs.hashes import sha256_of


def test_a_hash_is_that_of_texts_bytes_and_weights_as_float32_one_after_the_other():
    weights = torch.tensor([[1, 2], [3, 4]]).T
    plain = "ä".encode() + b"\0" + np.array([[1, 3], [2, 4]], np.float32).tobytes()
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        assert sha256_of(["ä", b"\0", weights.to(dtype)]) == sha256(plain).hexdigest()


def test_a_number_outside_of_a_layer_counts_too():
    assert sha256_of([torch.tensor(1.5)]) == sha256(np.float32(1.5).tobytes()).hexdigest()
