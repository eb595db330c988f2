"""The random draws of each training sample: which image, which timestep, which noise."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from dreambooth.backbones.stage import Condition, Encoded
from dreambooth.randomness import generator
from dreambooth.schedules import NoiseSchedule, TimestepDistribution


class Draw(NamedTuple):
    """The draws of one term, for one image or for a batch.

    A NamedTuple, because DataLoader's default collate function makes batches of these.
    """

    x: Tensor  # (B, *x_shape)
    eps: Tensor  # (B, *x_shape)
    t: Tensor  # (B,)
    prompt: Tensor  # (B,) int64, an index into the term's prompts
    added: Condition  # the condition besides text


class TrainingDraws(Dataset):
    """The training samples of a stage. Item i is {"subject": Draw, "prior": Draw, "mask": Tensor}.

    Without prior images there is no "prior", and without masks no "mask". The draws are keyed by
    (seed, stage, term, i) alone: they depend neither on the number of processes, nor on the
    batches, nor on a resume. The two terms draw their image, t and eps independently (paper,
    section 3.3).

    `Draw.prompt` is 0, the term's first prompt. Of `num_prompts` prompts of the subject, one is
    drawn uniformly, unless `own_prompts` has the prompt of the photo. In a fraction
    `caption_dropout` of the prior term's samples, evenly spaced, it is 1, the empty prompt.
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
        num_prompts: int = 1,
        own_prompts: Sequence[int | None] = (),
        masks: Tensor | None = None,  # of the photos, (N, 1, *x_shape[1:])
    ):
        self.terms = {"subject": photos} | ({"prior": prior} if prior is not None else {})
        self.schedule, self.timesteps = schedule, timesteps
        self.num_samples, self.seed, self.stage = num_samples, seed, stage
        self.added_condition = added_condition
        self.dropout = {"subject": 0.0, "prior": caption_dropout}
        self.num_prompts = {"subject": num_prompts, "prior": 1}
        self.own_prompts, self.masks = own_prompts, masks

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, i: int) -> dict[str, Draw | Tensor]:
        item: dict[str, Draw | Tensor] = {term: self._draw(term, i) for term in self.terms}
        return (
            item if self.masks is None else {**item, "mask": self.masks[self._index("subject", i)]}
        )

    def _index(self, term: str, i: int) -> int:
        """The image of sample i. Each epoch sees every image once, in a new order."""
        number = len(self.terms[term].mean)
        epoch, position = divmod(i, number)
        order_rng = generator(self.seed, self.stage, term, "order", epoch)
        return int(torch.randperm(number, generator=order_rng)[position])

    def _draw(self, term: str, i: int) -> Draw:
        images, index = self.terms[term], self._index(term, i)
        rng = generator(self.seed, self.stage, term, i)
        t = self.schedule.draw_t(self.timesteps, rng)
        eps = torch.randn(images.mean.shape[1:], generator=rng)
        prompt = int((i + 1) * self.dropout[term]) - int(i * self.dropout[term])
        if (num_prompts := self.num_prompts[term]) > 1:
            prompt_rng = generator(self.seed, self.stage, term, "prompt", i)
            prompt = int(torch.randint(num_prompts, (), generator=prompt_rng))
        if term == "subject" and self.own_prompts:
            own = self.own_prompts[index]
            prompt = prompt if own is None else own
        x = images.sample(index, rng)
        return Draw(x, eps, t, torch.tensor(prompt), self.added_condition(x, rng))


class Batches(Sampler[list[int]]):
    """The sample numbers of each step, starting at step `first_step()`.

    `first_step` is called when iteration begins, because a resume sets it only then. The ranks
    divide the samples of a step equally, in order. The length counts all steps, also after a
    resume, since Lightning counts them from 0.
    """

    def __init__(
        self,
        num_steps: int,
        batch_size: int,
        first_step: Callable[[], int],
        rank: int = 0,
        num_ranks: int = 1,
    ):
        assert batch_size % num_ranks == 0
        self.num_steps, self.batch_size, self.first_step = num_steps, batch_size, first_step
        self.size_per_rank = batch_size // num_ranks
        self.offset = rank * self.size_per_rank

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step(), self.num_steps):
            start = step * self.batch_size + self.offset
            yield list(range(start, start + self.size_per_rank))

    def __len__(self) -> int:
        return self.num_steps
