"""The oracle's scores of a run: do its images show the subject, as the prompts ask for it?"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from dreambooth.distributed.ranks import batches, map_over_ranks
from dreambooth.metrics.detail import enlarged_photos
from dreambooth.metrics.evaluation import PictureSets, Scores
from dreambooth.metrics.intervals import mean, mean_of_pairs
from dreambooth.metrics.scoring import FidelityScorer, sizes
from dreambooth.miniature import WEIGHTS
from dreambooth.miniature.canvas import EDGE, shade
from dreambooth.miniature.drawing import SIZE_PX
from dreambooth.miniature.oracle import Oracle, Reading, prompted_values
from dreambooth.miniature.references import NUM_REFERENCES, prompted_except_class, references
from dreambooth.miniature.world import COLOURS, Individual
from dreambooth.runs.files import Score
from dreambooth.runs.pictures import Picture
from dreambooth.runs.records import Metric
from dreambooth.subjects.subject import Subject

_BATCH_SIZE = 64
_CLEAN = 0.5  # from this probability of an undamaged drawing on, a picture counts as clean
_IDENTITY = "P(same individual), half of all being it, oracle"
_REFERENCES = f"against {NUM_REFERENCES} drawings of it as the prompt asks ({SIZE_PX}x{SIZE_PX} px)"
_IF_CLEAN = f"P(clean) >= {_CLEAN}, oracle"


@cache
def _shipped() -> tuple[Oracle, dict[tuple[object, ...], Tensor]]:
    """The oracle, and (individual, attributes) -> embeddings of the references that were read.

    The cells of a sweep share both.
    """
    return Oracle.load(WEIGHTS), {}


class OracleScorer:
    """Scores whether an image shows the true individual, is undamaged, and follows its prompt.

    The columns of an image:

    - `identity`, the probability that it shows the individual, by comparison with drawings of the
      individual as the prompt asks for it;
    - `clean`, the probability of an undamaged drawing, and `is_clean`, 1 if that is at least 0.5;
    - `seen_NAME`, the value of each attribute that the oracle reads, clean or not;
    - `NAME_right`, for each attribute that the prompt states, 1 if the image is clean and shows it.
    """

    def __init__(self) -> None:
        self.oracle, self._references = _shipped()

    def check(self, subject: Subject) -> None:
        if not isinstance(subject.truth, Individual):
            raise ValueError(
                f"metrics=miniature scores subjects of the drawn world only, and {subject.name} "
                "is not one: choose metrics=paper, or metrics=none to generate unscored images"
            )

    def score(self, sets: PictureSets) -> Scores:
        subject = sets.subject
        assert isinstance(subject.truth, Individual), "checked before"
        pictures = [*sets.prompts, *sets.class_prompts]
        reading = self._read(pictures)
        prompts = [picture.template or picture.prompt for picture in pictures]
        identity = self._identity(subject.truth, prompts, reading.embeddings)
        rows: list[dict[str, Score]] = []
        for i, seen in enumerate(reading.values):
            row: dict[str, Score] = {"identity": identity[i], "clean": float(reading.clean[i])}
            is_clean = reading.clean[i] >= _CLEAN
            asked = prompted_values(prompts[i]) | {"class": subject.class_noun}
            right = {f"{k}_right": int(is_clean and seen[k] == v) for k, v in asked.items()}
            row |= {"is_clean": int(is_clean), **{f"seen_{k}": v for k, v in seen.items()}}
            rows.append(row | right)
        n = len(sets.prompts)
        for row, distance in zip(rows[n:], mean_distances(reading.embeddings[n:]), strict=True):
            row["diversity"] = distance
        return Scores(rows, summary(rows[:n], rows[n:], reading.embeddings[n:]))

    def score_restored(self, sets: PictureSets) -> Scores:
        subject = sets.subject
        assert isinstance(subject.truth, Individual), "checked before"
        embeddings = self._read(sets.restored).embeddings
        identity = self._identity(subject.truth, [""] * len(sets.restored), embeddings)
        layout_errors = [
            layout_error(restored.pixels, original.pixels, subject.truth)
            for restored, original in zip(sets.restored, sets.originals, strict=True)
        ]
        rows: list[dict[str, Score]] = [
            {"sr_identity": probability, "sr_layout_error": error}
            for probability, error in zip(identity, layout_errors, strict=True)
        ]
        protocols = {
            "sr_identity": f"{_IDENTITY}, against {NUM_REFERENCES} drawings of it",
            "sr_layout_error": "share of the original's pixels of one of the individual's colours "
            "that show another of them, or its outline's",
        }
        photos = enlarged_photos(subject)
        metrics = {name: mean(rows, name, f"{text}; {photos}") for name, text in protocols.items()}
        return Scores(rows, metrics)

    def _read(self, pictures: Sequence[Picture]) -> Reading:
        def read(batch: Sequence[Picture]) -> Reading:
            pixels = [p.pixels for p in batch]
            for image in pixels:
                if image.shape != (3, SIZE_PX, SIZE_PX):
                    raise ValueError(
                        f"the oracle of metrics=miniature reads images of {SIZE_PX}x{SIZE_PX} px, "
                        f"and one is {sizes([image])}: resize all images"
                    )
            return self.oracle.read(torch.stack(pixels))

        # Each batch is read by one of the ranks.
        return Reading.join(map_over_ranks(read, batches(pictures, _BATCH_SIZE)))

    def _identity(self, who: Individual, prompts: Sequence[str], embeddings: Tensor) -> list[float]:
        """Return the identity of each picture, against references that follow its prompt."""
        keys = [(who, *sorted(prompted_except_class(prompt).items())) for prompt in prompts]
        new = [key for key in dict.fromkeys(keys) if key not in self._references]
        prompt_of = dict(zip(keys, prompts, strict=True))
        embeddings_of_new = map_over_ranks(
            lambda key: self.oracle.read(references(who, prompt_of[key])).embeddings, new
        )
        self._references |= dict(zip(new, embeddings_of_new, strict=True))
        return [
            float(self.oracle.identity(embedding[None], self._references[key]))
            for embedding, key in zip(embeddings, keys, strict=True)
        ]


def layout_error(image: Tensor, original: Tensor, who: Individual) -> float | None:
    """Return the share of the individual's pixels that have the wrong colour in `image`.

    The individual's pixels are those that have one of its colours in `original`, with a Euclidean
    distance of at most 40 (of 255 in each channel). The colour of such a pixel is wrong if in
    `image` it is nearer to another of the individual's colours, or to that of an outline. None if
    the original shows none of its colours. Both pictures are uint8 (3, H, W).
    """
    names = [name for name in (who.main, who.second, who.emblem_colour) if name]
    edges = [shade(COLOURS[name], EDGE) for name in names]
    palette = torch.tensor([*(COLOURS[name] for name in names), *edges]).float()

    def distances(pixels: Tensor) -> Tensor:
        return torch.cdist(pixels.float().flatten(1).T, palette)  # (H * W, colours)

    from_original = distances(original)
    true = from_original.argmin(1)
    counted = (from_original.min(1).values <= 40) & (true < len(names))
    if not counted.any():
        return None
    return float((distances(image).argmin(1) != true)[counted].float().mean())


def fidelity_scorer(weights: str | None = None, keep_identifier: bool = False) -> FidelityScorer:
    """Return the paper's scores by the miniature's DINO and CLIP, and DIV by 1 - cosine of DINO.

    `weights`: a folder that holds `dino` and `clip`; None: the weights that ship with the project.
    `keep_identifier`: whether [V] stays in the text of CLIP-T. Raises ValueError if the folder
    lacks a part.
    """
    from dreambooth.metrics.encoders import ClipEncoder, DinoEncoder

    folder = Path(weights or WEIGHTS)
    for part in ("dino", "clip"):
        if not (folder / part).is_dir():
            raise ValueError(
                f"the miniature's {part} encoder is not in {folder}: train it by "
                f"python src/pretrain.py part={part}, or choose metrics=oracle"
            )
    return FidelityScorer(
        DinoEncoder(folder / "dino", resize_px=SIZE_PX, crop_px=SIZE_PX),
        ClipEncoder(folder / "clip"),
        keep_identifier=keep_identifier,
    )


def summary(
    prompts: Sequence[dict[str, Score]], class_prompts: Sequence[dict[str, Score]], drawn: Tensor
) -> dict[str, Metric]:
    """Average the rows. `drawn` are the embeddings (N, 64) of the class prompt's images."""
    metrics = {
        "identity": mean(prompts, "identity", f"{_IDENTITY}, {_REFERENCES}"),
        "clean": mean(prompts, "is_clean", f"share of undamaged drawings: {_IF_CLEAN}", share=True),
        "class_accuracy": mean(
            prompts,
            "class_right",
            f"share that is clean and shows the subject's true class: {_IF_CLEAN}",
            share=True,
        ),
        "context_accuracy": mean(
            prompts,
            "context_right",
            f"share that is clean and in the prompted context: {_IF_CLEAN}",
            share=True,
        ),
        "drift": mean(
            class_prompts, "identity", f"identity of the class prompt's images, {_REFERENCES}"
        ),
    }
    if len(drawn) > 1:
        protocol = "mean pairwise 1 - cosine of oracle embeddings, class prompt's images"
        metrics["diversity"] = mean_of_pairs((1 - drawn @ drawn.T).double().numpy(), protocol)
    return metrics


def mean_distances(drawn: Tensor) -> list[float | None]:
    """Return 1 - mean cosine of each embedding (N, D) to the others; None if there is only one."""
    if len(drawn) < 2:
        return [None] * len(drawn)
    cosines = drawn @ drawn.T
    others = (cosines.sum(1) - cosines.diagonal()) / (len(drawn) - 1)
    return (1 - others).tolist()
