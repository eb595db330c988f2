"""What the oracle says of a run: is it the subject, in the class and context that was asked for?"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dreambooth.distributed.ranks import batches, map_over_ranks
from dreambooth.metrics.detail import enlarged_photos
from dreambooth.metrics.evaluation import PictureSets, Scores
from dreambooth.metrics.intervals import mean, mean_of_pairs
from dreambooth.metrics.scoring import FidelityScorer, sizes
from dreambooth.miniature import WEIGHTS
from dreambooth.miniature.canvas import INK
from dreambooth.miniature.drawing import SIZE_PX, draw
from dreambooth.miniature.oracle import EMBEDDING, Oracle, Reading, prompted_values
from dreambooth.miniature.scenes import to_tensor
from dreambooth.miniature.world import COLOURS, Individual, random_scene
from dreambooth.runs.files import Score
from dreambooth.runs.pictures import Picture
from dreambooth.runs.records import Metric
from dreambooth.subjects.subject import Subject

_NUM_REFERENCES = 16
_BATCH_SIZE = 64
_REFERENCES = f"mean over {_NUM_REFERENCES} drawings of it ({SIZE_PX}x{SIZE_PX} px, 8 bits)"


class OracleScorer:
    """Identity against fresh drawings of the true individual; attributes against the prompt."""

    def __init__(self) -> None:
        self.oracle = Oracle.load(WEIGHTS)

    def check(self, subject: Subject) -> None:
        if not isinstance(subject.truth, Individual):
            raise ValueError(
                f"metrics=miniature knows drawn subjects only, and {subject.name} is none: "
                "take metrics=paper, or metrics=none for pictures only"
            )

    def score(self, sets: PictureSets) -> Scores:
        subject = sets.subject
        assert isinstance(subject.truth, Individual), "checked before"
        truth = self.oracle.read(reference_images(subject.truth)).embeddings
        pictures = [*sets.prompts, *sets.class_prompts]
        reading = self._read(pictures)
        identity = self.oracle.identity(reading.embeddings, truth).tolist()
        rows: list[dict[str, Score]] = []
        for picture, seen, same in zip(pictures, reading.values, identity, strict=True):
            asked = prompted_values(picture.template or picture.prompt)
            asked["class"] = subject.class_noun
            right = {f"{name}_right": int(seen[name] == value) for name, value in asked.items()}
            rows.append({"identity": same, **{f"seen_{k}": v for k, v in seen.items()}, **right})
        n = len(sets.prompts)
        for row, distance in zip(rows[n:], mean_distances(reading.embeddings[n:]), strict=True):
            row["diversity"] = distance
        return Scores(rows, summary(rows[:n], rows[n:], reading.embeddings[n:]))

    def score_restored(self, sets: PictureSets) -> Scores:
        subject = sets.subject
        assert isinstance(subject.truth, Individual), "checked before"
        truth = self.oracle.read(reference_images(subject.truth)).embeddings
        identity = self.oracle.identity(self._read(sets.restored).embeddings, truth)
        wrong = [
            layout_error(one.pixels, other.pixels, subject.truth)
            for one, other in zip(sets.restored, sets.originals, strict=True)
        ]
        rows: list[dict[str, Score]] = [
            {"sr_identity": float(same), "sr_layout_error": error}
            for same, error in zip(identity, wrong, strict=True)
        ]
        says = {
            "sr_identity": f"P(same individual), oracle, {_REFERENCES}",
            "sr_layout_error": "share of the original's pixels of one of the individual's colours "
            "that show another of them, or its outline's",
        }
        photos = enlarged_photos(subject)
        metrics = {name: mean(rows, name, f"{says[name]}; {photos}") for name in says}
        return Scores(rows, metrics)

    def _read(self, pictures: Sequence[Picture]) -> Reading:
        def read(batch: Sequence[Picture]) -> Reading:
            pixels = [p.pixels for p in batch]
            for image in pixels:
                if image.shape != (3, SIZE_PX, SIZE_PX):
                    raise ValueError(
                        f"the oracle of metrics=miniature reads images of {SIZE_PX}x{SIZE_PX} px, "
                        f"and one is of {sizes([image])}: resize it"
                    )
            return self.oracle.read(torch.stack(pixels))

        parts = [Reading([], torch.empty(0, EMBEDDING))]
        parts += map_over_ranks(read, batches(pictures, _BATCH_SIZE))  # each by one of the ranks
        values = [value for part in parts for value in part.values]
        return Reading(values, torch.cat([part.embeddings for part in parts]))


def layout_error(image: Tensor, original: Tensor, who: Individual) -> float | None:
    """Share of the pixels that have one of the individual's colours in `original` and are nearer to
    another one, or to the outline's, in `image`; None where the original shows none of them.

    uint8 (3, H, W) both. A pixel has a colour if it differs by at most 40 of 255 (Euclidean).
    """
    names = [name for name in (who.main, who.second, who.emblem_colour) if name]
    palette = torch.tensor([*(COLOURS[name] for name in names), INK]).float()

    def distances(pixels: Tensor) -> Tensor:
        return torch.cdist(pixels.float().flatten(1).T, palette)  # (H * W, colours)

    there = distances(original)
    known = (there.min(1).values <= 40) & (there.argmin(1) < len(names))
    if not known.any():
        return None
    return float((distances(image).argmin(1) != there.argmin(1))[known].float().mean())


def fidelity_scorer(weights: str | None = None, keep_identifier: bool = False) -> FidelityScorer:
    """The field's scores by the miniature's own DINO and CLIP; DIV by 1 - cosine of the former.

    `weights`: a folder that holds `dino` and `clip`; None: those shipped with the project.
    `keep_identifier`: whether [V] stays in the text of CLIP-T. ValueError where there are no such
    weights.
    """
    from dreambooth.metrics.encoders import ClipEncoder, DinoEncoder

    folder = Path(weights or WEIGHTS)
    for part in ("dino", "clip"):
        if not (folder / part).is_dir():
            raise ValueError(
                f"the miniature's {part} encoder is not in {folder}: make it by "
                f"python src/pretrain.py part={part}, or take metrics=oracle"
            )
    return FidelityScorer(
        DinoEncoder(folder / "dino", resize_px=SIZE_PX, crop_px=SIZE_PX),
        ClipEncoder(folder / "clip"),
        keep_identifier=keep_identifier,
    )


def summary(
    prompts: Sequence[dict[str, Score]], of_class: Sequence[dict[str, Score]], drawn: Tensor
) -> dict[str, Metric]:
    """Means over the rows; `drawn`: embeddings (N, 64) of the class prompt's images."""
    metrics = {
        "identity": mean(prompts, "identity", f"P(same individual), oracle, {_REFERENCES}"),
        "class_accuracy": mean(
            prompts,
            "class_right",
            "share that shows the subject's true class, oracle",
            share=True,
        ),
        "context_accuracy": mean(
            prompts, "context_right", "share in the prompted context, oracle", share=True
        ),
        "drift": mean(
            of_class, "identity", f"identity of the class prompt's images, {_REFERENCES}"
        ),
    }
    if len(drawn) > 1:
        protocol = "mean pairwise 1 - cosine of oracle embeddings, class prompt's images"
        metrics["diversity"] = mean_of_pairs((1 - drawn @ drawn.T).double().numpy(), protocol)
    return metrics


def mean_distances(drawn: Tensor) -> list[float | None]:
    """Of each embedding (N, D), 1 - its mean cosine to the others; None where it is alone."""
    if len(drawn) < 2:
        return [None] * len(drawn)
    cosines = drawn @ drawn.T
    others = (cosines.sum(1) - cosines.diagonal()) / (len(drawn) - 1)
    return (1 - others).tolist()


def reference_images(who: Individual) -> Tensor:
    """The individual in scenes of the world's own distribution, [-1, 1] (16, 3, 64, 64)."""
    rng = np.random.default_rng([29, who.pattern_seed])
    scenes = [random_scene(rng, who) for _ in range(_NUM_REFERENCES)]
    return to_tensor(np.stack([draw(s) for s in scenes]))
