"""What the oracle says of a run: is it the subject, in the class and context that was asked for?"""

from collections.abc import Sequence
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
_CLEAN = 0.5  # a picture is clean from this probability on
_IDENTITY = "P(same individual), half of all being it, oracle"
_REFERENCES = f"against {NUM_REFERENCES} drawings of it as the prompt asks ({SIZE_PX}x{SIZE_PX} px)"
_IF_CLEAN = f"P(clean) >= {_CLEAN}, oracle"


class OracleScorer:
    """Identity against drawings of the true individual as the prompt asks for it; whether a picture
    is clean; and, where it is, attributes against the prompt.

    A row has `identity`; `clean`, the probability of an undamaged drawing, and `is_clean`, 1 from
    0.5 on; `seen_NAME`, what the oracle reads, clean or not; and for what the prompt asks for
    `NAME_right`, 1 only if the picture is clean and shows it.
    """

    def __init__(self) -> None:
        self.oracle = Oracle.load(WEIGHTS)
        self._known: dict[tuple[object, ...], Tensor] = {}

    def check(self, subject: Subject) -> None:
        if not isinstance(subject.truth, Individual):
            raise ValueError(
                f"metrics=miniature knows drawn subjects only, and {subject.name} is none: "
                "take metrics=paper, or metrics=none for pictures only"
            )

    def score(self, sets: PictureSets) -> Scores:
        subject = sets.subject
        assert isinstance(subject.truth, Individual), "checked before"
        pictures = [*sets.prompts, *sets.class_prompts]
        reading = self._read(pictures)
        asked = [picture.template or picture.prompt for picture in pictures]
        identity = self._identity(subject.truth, asked, reading.embeddings)
        rows: list[dict[str, Score]] = []
        for i, seen in enumerate(reading.values):
            row: dict[str, Score] = {"identity": identity[i], "clean": float(reading.clean[i])}
            is_clean = reading.clean[i] >= _CLEAN
            wanted = prompted_values(asked[i]) | {"class": subject.class_noun}
            right = {f"{k}_right": int(is_clean and seen[k] == v) for k, v in wanted.items()}
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
        wrong = [
            layout_error(one.pixels, other.pixels, subject.truth)
            for one, other in zip(sets.restored, sets.originals, strict=True)
        ]
        rows: list[dict[str, Score]] = [
            {"sr_identity": same, "sr_layout_error": error}
            for same, error in zip(identity, wrong, strict=True)
        ]
        says = {
            "sr_identity": f"{_IDENTITY}, against {NUM_REFERENCES} drawings of it",
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

        # each batch by one of the ranks
        return Reading.join(map_over_ranks(read, batches(pictures, _BATCH_SIZE)))

    def _identity(self, who: Individual, asked: Sequence[str], embeddings: Tensor) -> list[float]:
        """Of each picture, by the references of what its prompt asks for."""
        keys = [(who, *sorted(prompted_except_class(prompt).items())) for prompt in asked]
        new = [key for key in dict.fromkeys(keys) if key not in self._known]
        prompt_of = dict(zip(keys, asked, strict=True))
        embeddings_of_new = map_over_ranks(
            lambda key: self.oracle.read(references(who, prompt_of[key])).embeddings, new
        )
        self._known |= dict(zip(new, embeddings_of_new, strict=True))
        return [
            float(self.oracle.identity(one[None], self._known[key]))
            for one, key in zip(embeddings, keys, strict=True)
        ]


def layout_error(image: Tensor, original: Tensor, who: Individual) -> float | None:
    """Share of the pixels that have one of the individual's colours in `original` and are nearer to
    another one, or to an outline's, in `image`; None where the original shows none of them.

    uint8 (3, H, W) both. A pixel has a colour if it differs by at most 40 of 255 (Euclidean).
    """
    names = [name for name in (who.main, who.second, who.emblem_colour) if name]
    edges = [shade(COLOURS[name], EDGE) for name in names]
    palette = torch.tensor([*(COLOURS[name] for name in names), *edges]).float()

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
