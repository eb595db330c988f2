"""What each training sample sees: which photo, which timestep, which noise."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from dreambooth.backbones.stage import Condition, Encoded
from dreambooth.randomness import generator
from dreambooth.schedules import NoiseSchedule, TimestepDistribution


class Draw(NamedTuple):
    """What one term trains on: one image, or a batch of them with B first. (A NamedTuple, since
    the loader batches these by itself.)"""

    x: Tensor  # (B, *x_shape)
    eps: Tensor  # (B, *x_shape)
    t: Tensor  # (B,)
    prompt: Tensor  # (B,) int64: which one of the term's prompts
    added: Condition  # what the stage's condition has beside text


class TrainingDraws(Dataset):
    """Sample number i of a run: the draws of both terms, keyed by (seed, stage, term, i) alone.

    Neither the number of processes, nor the split into batches, nor a resume changes them. The two
    terms draw their image, t and eps independently (paper, section 3.3). An item is
    {"subject": Draw, "prior": Draw}, with no "prior" where there are no prior images. Its `prompt`
    is 1, for the empty prompt, in a share `caption_dropout` of the prior term's samples, evenly
    spread; else 0.
    """

    def __init__(
        self,
        photos: Encoded,
        prior: Encoded | None,
        schedule: NoiseSchedule,
        timesteps: TimestepDistribution,
        num_samples: int,
        seed: int,
        stage: str,
        added_condition: Callable[[Tensor, torch.Generator], Condition],
        caption_dropout: float = 0.0,
    ):
        self.terms = {"subject": photos} | ({"prior": prior} if prior is not None else {})
        self.schedule, self.timesteps = schedule, timesteps
        self.num_samples, self.seed, self.stage = num_samples, seed, stage
        self.added_condition = added_condition
        self.dropout = {"subject": 0.0, "prior": caption_dropout}

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, i: int) -> dict[str, Draw]:
        return {term: self._draw(term, images, i) for term, images in self.terms.items()}

    def _draw(self, term: str, images: Encoded, i: int) -> Draw:
        # Each pass over the images sees every image once, in an order of its own.
        passes, place = divmod(i, len(images.mean))
        order = generator(self.seed, self.stage, term, "order", passes)
        index = int(torch.randperm(len(images.mean), generator=order)[place])
        own = generator(self.seed, self.stage, term, i)
        t = self.schedule.draw_t(self.timesteps, own)
        eps = torch.randn(images.mean.shape[1:], generator=own)
        prompt = int((i + 1) * self.dropout[term]) - int(i * self.dropout[term])
        x = images.sample(index, own)
        return Draw(x, eps, t, torch.tensor(prompt), self.added_condition(x, own))


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
