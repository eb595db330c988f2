"""Images of a run: drawn by all ranks, batch by batch, and saved as they come."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from dreambooth.backbones import precision as precisions
from dreambooth.backbones.stage import Backbone, Sampling
from dreambooth.distributed.preemption import stop_if_requested
from dreambooth.distributed.ranks import batches, map_over_ranks, num_ranks, on_rank_zero
from dreambooth.runs.pictures import Picture
from dreambooth.runs.run import Run
from dreambooth.subjects.photos import from_uint8, to_uint8

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """An image to draw."""

    image_set: str  # the folder below images/
    template: str
    prompt: str
    index: int


@dataclass(frozen=True)
class Drawing:
    """Draws the images that a run folder lacks."""

    run: Run
    backbone: Backbone
    sampling: Sampling
    device: torch.device
    precision: str = "32-true"  # in Lightning's words

    def draw(self, jobs: Sequence[Job]) -> None:
        """Draw and save the images that are missing.

        The ranks draw one batch each at a time, and rank 0 saves the images. A batch with a
        missing image is drawn as a whole, since the bits of an image may depend on the size of
        its batch.
        """
        every = batches(jobs, self.backbone.batch_size)
        unfinished = on_rank_zero(
            lambda: [batch for batch in every if not all(map(self._is_drawn, batch))]
        )
        log.info("generating %d of %d images", sum(map(len, unfinished)), len(jobs))
        with self.ready():
            for batch_per_rank in batches(unfinished, num_ranks()):
                stop_if_requested()
                chunk = [job for batch in batch_per_rank for job in batch]
                jobs_of_batch = [(job.template, job.prompt, job.index) for job in chunk]
                pictures = draw_pictures(self.backbone, jobs_of_batch, self.sampling)
                on_rank_zero(partial(self._save, chunk, pictures))

    @contextmanager
    def ready(self) -> Iterator[Backbone]:
        """Inside the context, the model is on its device, in the precision of drawing."""
        with on_device(self.backbone, self.device, self.precision):
            yield self.backbone

    def restore(self, originals: Sequence[Picture]) -> None:
        """Shrink images to the base stage's resolution and restore them with the SR stage, as the
        image set `restored`."""
        self.run.images.save("originals", originals)
        # As they are read again, in the order of their file names.
        originals = self.run.images.read("originals")
        jobs = [Job("restored", p.template, p.prompt, p.index) for p in originals]
        if all(map(self._is_drawn, jobs)):
            return
        images = from_uint8(torch.stack([p.pixels for p in originals]))
        with self.ready() as backbone:
            restored = backbone.super_resolve(
                F.adaptive_avg_pool2d(images, backbone.stages["base"].resolution_px),
                [p.prompt for p in originals],
                [("restored", p.index) for p in originals],
                self.sampling,
            )
        pairs = zip(originals, restored, strict=True)
        self.run.images.save("restored", [replace(p, pixels=pixels) for p, pixels in pairs])

    def _save(self, jobs: Sequence[Job], pictures: Sequence[Picture]) -> None:
        for image_set in dict.fromkeys(job.image_set for job in jobs):
            of_set = [
                p for p, job in zip(pictures, jobs, strict=True) if job.image_set == image_set
            ]
            self.run.images.save(image_set, of_set)

    def _is_drawn(self, job: Job) -> bool:
        return self.run.images.has_picture(job.image_set, job.prompt, job.index, job.template)


def to_device(backbone: Backbone, device: torch.device | str) -> Backbone:
    """Move all stages to a device.

    Lightning moves only the stage that it trains, and moves it back to the CPU afterwards.
    """
    for stage in backbone.stages.values():
        stage.denoiser.to(device)
    return backbone


@contextmanager
def on_device(backbone: Backbone, device: torch.device, precision: str) -> Iterator[None]:
    """Inside the context, the denoisers of all stages are on a device, in a precision of Lightning
    (`precision.denoiser_on_device`)."""
    with ExitStack() as stack:
        for stage in backbone.stages.values():
            stack.enter_context(precisions.denoiser_on_device(stage.denoiser, device, precision))
        yield


def release(backbone: Backbone) -> None:
    """Move what a training step does not need to the CPU, if the backbone can."""
    getattr(backbone, "release", lambda: None)()


def noise_key(template: str, index: int, seed: int | None = None) -> tuple:
    """The key of an image's noise; with a seed, one other than that of the run's own images."""
    return ("image", template, index) if seed is None else ("image", template, index, seed)


def draw_pictures(
    backbone: Backbone,
    jobs: Sequence[tuple[str, str, int]],
    sampling: Sampling,
    seed: int | None = None,
) -> list[Picture]:
    """Draw one image for each (template, prompt, index).

    The noise follows from template, index and seed alone: all runs of a sweep, whatever they call
    the subject, are compared on the same noise. The bits of an image follow from its batch too
    (docs/runs.md). The ranks share the batches, and each returns all images.
    """

    def draw_batch(batch: Sequence[tuple[str, str, int]]) -> Tensor:
        noise_keys = [noise_key(template, index, seed) for template, _, index in batch]
        return backbone.generate([prompt for _, prompt, _ in batch], noise_keys, sampling)

    drawn_batches = map_over_ranks(draw_batch, batches(jobs, backbone.batch_size))
    images = [image for drawn in drawn_batches for image in drawn]
    return [
        Picture(image, prompt, index, template)
        for image, (template, prompt, index) in zip(images, jobs, strict=True)
    ]


def pictures_of(images: Tensor, prompt: str) -> list[Picture]:
    """Turn images [-1, 1] (N, 3, H, W) into `Picture`s of one prompt."""
    return [Picture(image, prompt, index) for index, image in enumerate(to_uint8(images))]
