"""What each training sample sees: which photo, which timestep, which noise."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from dreambooth.backbones.stage import Condition, Encoded
from dreambooth.randomness import generator


class TrainingDraws(Dataset):
    """Sample number i of a run: the draws of both terms, keyed by (seed, stage, term, i) alone.

    Neither the number of processes, nor the split into batches, nor a resume changes them. The two
    terms draw their image, t and eps independently (paper, section 3.3). An item is
    {"subject": {"x", "eps", "t", "row", "added"}, "prior": ...}, with no "prior" where there are no
    prior images. `row` is 1, for the empty prompt, in a share `caption_dropout` of the prior term's
    samples, evenly spread; else 0. `added` is what the stage's condition has beside text.
    """

    def __init__(
        self,
        photos: Encoded,
        prior: Encoded | None,
        num_timesteps: int,
        num_samples: int,
        seed: int,
        stage: str,
        added_condition: Callable[[Tensor, torch.Generator], Condition],
        caption_dropout: float = 0.0,
    ):
        self.terms = {"subject": photos} | ({"prior": prior} if prior is not None else {})
        self.num_timesteps, self.num_samples = num_timesteps, num_samples
        self.seed, self.stage = seed, stage
        self.added_condition = added_condition
        self.dropout = {"subject": 0.0, "prior": caption_dropout}

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, i: int) -> dict[str, dict[str, Tensor]]:
        return {term: self._draw(term, images, i) for term, images in self.terms.items()}

    def _draw(self, term: str, images: Encoded, i: int) -> dict[str, Any]:
        # Each pass over the images sees every image once, in an order of its own.
        passes, place = divmod(i, len(images.mean))
        order = generator(self.seed, self.stage, term, "order", passes)
        index = int(torch.randperm(len(images.mean), generator=order)[place])
        own = generator(self.seed, self.stage, term, i)
        t = torch.randint(self.num_timesteps, (), generator=own)
        eps = torch.randn(images.mean.shape[1:], generator=own)
        row = int((i + 1) * self.dropout[term]) - int(i * self.dropout[term])
        x = images.sample(index, own)
        added = self.added_condition(x, own)
        return {"x": x, "eps": eps, "t": t, "row": torch.tensor(row), "added": dict(added)}


class Batches(Sampler[list[int]]):
    """The numbers of the samples of each step, from step `first()` on, which is asked for as they
    begin. Of the samples of a step, each of `num_ranks` processes has an equal share, in order.

    The length is that of all steps: Lightning counts a resumed training's from 0.
    """

    def __init__(
        self,
        num_steps: int,
        batch_size: int,
        first: Callable[[], int],
        rank: int = 0,
        num_ranks: int = 1,
    ):
        assert batch_size % num_ranks == 0
        self.num_steps, self.batch_size, self.first = num_steps, batch_size, first
        self.share = batch_size // num_ranks
        self.offset = rank * self.share

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first(), self.num_steps):
            start = step * self.batch_size + self.offset
            yield list(range(start, start + self.share))

    def __len__(self) -> int:
        return self.num_steps
