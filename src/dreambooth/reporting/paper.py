"""The paper's tables (arXiv 2208.12242) as data: its values, and its claims in words.

Where the paper gives no numbers (super-resolution, identifiers), there are claims without values.
A table varies one axis; its values and claims hold for cells with the paper's settings on all other
axes: see `as_in_paper`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dreambooth.reporting.settings import ABSENT, order_of
from dreambooth.reporting.study import Cell, Study


@dataclass(frozen=True)
class Claim:
    """`a` scores higher than `b` (sign 1) or lower (-1) in `metric`, the one that the paper used.

    Only `metric` decides about the claim; `also` are shown beside it, with the sign that they would
    have. `a` and `b` are values of the table's axis, or patterns: "number" is any number, ">0" any
    positive one. If `a` is "more" or "fewer", it is any number above or below that of `b`.
    """

    a: str
    b: str
    sign: int
    metric: str
    also: Mapping[str, int]  # metric -> sign
    words: str


@dataclass(frozen=True)
class PaperTable:
    """A table or figure of the paper, along one axis of a study."""

    key: str
    axis: str
    title: str
    source: str
    metrics: Sequence[str]  # its columns: the paper's metrics, and ours that measure the same
    claims: Sequence[Claim] = ()
    values: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # value -> metric
    others: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # rows without a cell
    note: str = ""
    best_first: bool = False  # whether the paper's choice is the first value, not the last
    chosen: Sequence[str] = ()  # the values that the paper compares, if it has no `values`


_OF_SUBJECT = {"clip_i": 1, "identity": 1}  # beside DINO
_DREAMCACHE = "arXiv 2411.17786, table 2"
METHODS = PaperTable(
    key="methods",
    axis="method",
    title="Methods",
    source="Table 1 of the paper",
    metrics=(
        *("dino", "identity", "clip_i", "clip_t"),
        *("clean", "context_accuracy", "class_accuracy"),
    ),
    values={
        "dreambooth": {"dino": 0.668, "clip_i": 0.803, "clip_t": 0.305},
        "textual_inversion": {"dino": 0.569, "clip_i": 0.780, "clip_t": 0.255},
    },
    others={
        "real images (the paper)": {"dino": 0.774, "clip_i": 0.885},
        "DreamBooth, Imagen (the paper)": {"dino": 0.696, "clip_i": 0.812, "clip_t": 0.306},
        **{
            f"{system} ({_DREAMCACHE})": {"dino": dino, "clip_i": clip_i, "clip_t": clip_t}
            for system, dino, clip_i, clip_t in (
                ("Custom Diffusion, SD 1.5", 0.643, 0.790, 0.305),
                ("BLIP-Diffusion, fine-tuned", 0.670, 0.805, 0.302),
                ("BLIP-Diffusion, zero-shot", 0.594, 0.779, 0.300),
                ("ELITE, 1 photo", 0.621, 0.771, 0.293),
                ("IP-Adapter", 0.667, 0.813, 0.289),
                ("Kosmos-G", 0.694, 0.847, 0.287),
            )
        },
    },
    claims=(
        Claim(
            "dreambooth",
            "textual_inversion",
            1,
            "dino",
            _OF_SUBJECT,
            "DreamBooth is more faithful to the subject than Textual Inversion",
        ),
        Claim(
            "dreambooth",
            "textual_inversion",
            1,
            "clip_t",
            {"context_accuracy": 1},
            "DreamBooth is more faithful to the prompt than Textual Inversion",
        ),
        Claim(
            "dreambooth",
            "prompt_only",
            1,
            "dino",
            _OF_SUBJECT,
            "DreamBooth is more faithful to the subject than a description of it",
        ),
    ),
    note=(
        "The paper's values of both methods are for Stable Diffusion. All values that were "
        "published are over the 30 subjects of DreamBench, by DINO ViT-S/16 and CLIP ViT-B/32, and "
        "mostly quoted from paper to paper. In the paper's user study (its Table 2) people "
        "preferred DreamBooth for the subject in 68 % of the answers, Textual Inversion in 22 %, "
        "and 10 % were undecided; for the prompt 81 %, 12 % and 7 %."
    ),
    best_first=True,
)
PRIOR = PaperTable(
    key="prior",
    axis="lambda",
    title="Prior preservation",
    source="Table 3 of the paper",
    metrics=("pres", "drift", "div", "diversity", "dino", "identity", "clip_i", "clip_t"),
    values={
        "1": {"pres": 0.493, "div": 0.391, "dino": 0.684, "clip_i": 0.815, "clip_t": 0.308},
        "0": {"pres": 0.664, "div": 0.371, "dino": 0.712, "clip_i": 0.828, "clip_t": 0.306},
    },
    claims=(
        Claim(
            ">0",
            "0",
            -1,
            "pres",
            {"drift": -1},
            "the prior term keeps the class from language drift",
        ),
        Claim(
            ">0",
            "0",
            1,
            "div",
            {"diversity": 1},
            "the prior term keeps the images more diverse",
        ),
        Claim(
            ">0",
            "0",
            -1,
            "dino",
            {"clip_i": -1, "identity": -1},
            "the prior term costs some fidelity to the subject",
        ),
        Claim(
            ">0",
            "0",
            1,
            "clip_t",
            {},
            "the prior term makes the images more faithful to the prompt",
        ),
    ),
    note="The paper's values are for Imagen, over 15 subjects.",
)
CLASS_NOUN = PaperTable(
    key="class_noun",
    axis="class",
    title="Class noun",
    source="Table 4 of the paper",
    metrics=("dino", "identity", "clip_i", "clean", "class_accuracy", "context_accuracy"),
    values={
        "correct": {"dino": 0.744, "clip_i": 0.853},
        "wrong": {"dino": 0.454, "clip_i": 0.728},
        "none": {"dino": 0.303, "clip_i": 0.607},
    },
    claims=(
        Claim(
            "correct",
            "wrong",
            1,
            "dino",
            _OF_SUBJECT,
            "the correct class noun gives more subject fidelity than a wrong one",
        ),
        Claim(
            "correct",
            "none",
            1,
            "dino",
            _OF_SUBJECT,
            "the correct class noun gives more subject fidelity than none",
        ),
        Claim(
            "wrong",
            "none",
            1,
            "dino",
            _OF_SUBJECT,
            "a wrong class noun gives more subject fidelity than none",
        ),
    ),
    note=(
        "The paper's values are for Imagen, over 5 subjects. CLIP-T is left out: its text contains "
        "the class noun, so each cell would be scored with a different text."
    ),
)
PHOTOS = PaperTable(
    key="num_photos",
    axis="num_photos",
    title="Number of photos",
    source="Table 5 of the paper",
    metrics=("dino", "identity", "clip_i", "clip_t", "copied"),
    values={  # our mean over the paper's two subjects, backpack and dog
        "1": {"dino": (0.494 + 0.798) / 2},
        "2": {"dino": (0.515 + 0.851) / 2},
        "3": {"dino": (0.596 + 0.871) / 2},
        "4": {"dino": (0.604 + 0.876) / 2},
        "5": {"dino": (0.597 + 0.864) / 2},
    },
    claims=tuple(  # the paper shows no clear order between 3, 4 and 5 photos
        Claim(
            "more", few, 1, "dino", {"identity": 1}, "more photos of the subject give more fidelity"
        )
        for few in ("1", "2")
    ),
    note=(
        "The paper's values are the means over its two subjects (1 to 5 photos: backpack .494 .515 "
        ".596 .604 .597, dog .798 .851 .871 .876 .864). DINO and CLIP-I compare with the photos "
        "that a cell was trained on, so with fewer photos in cells that have fewer; identity does "
        "not depend on their number."
    ),
)
SUPER_RESOLUTION = PaperTable(
    key="super_resolution",
    axis="sr",
    title="Noise level of super-resolution",
    source="figure on super-resolution of the paper (images only)",
    metrics=(
        *("sr_detail", "sr_kept", "sr_invented", "sr_layout_error", "sr_identity", "sr_dino"),
        *("sr_lpips", "sr_psnr", "sr_ssim", "detail"),
    ),
    claims=(
        Claim(
            "fewer",
            "number",
            1,
            "sr_kept",
            {"sr_detail": 1, "sr_identity": 1, "sr_dino": 1, "sr_layout_error": -1},
            "SR fine-tuned at a lower noise level keeps more of the subject's detail",
        ),
        Claim(
            "number",
            "frozen",
            1,
            "sr_dino",
            {"sr_identity": 1, "sr_layout_error": -1},
            "fine-tuned SR gives more subject fidelity than pretrained SR",
        ),
        Claim(
            "number",
            "frozen",
            -1,
            "sr_invented",
            {},
            "fine-tuned SR invents less detail than pretrained SR",
        ),
    ),
    chosen=("1e-5", "1e-3", "frozen"),
    note="The paper shows images only: its claims are taken from its text.",
)
IDENTIFIERS = PaperTable(
    key="identifiers",
    axis="identifier",
    title="Identifier",
    source="section 3.2 of the paper (in words only)",
    metrics=(
        *("dino", "identity", "clip_i", "clip_t"),
        *("clean", "class_accuracy", "context_accuracy"),
    ),
    claims=tuple(
        Claim(
            "rare",
            kind,
            1,
            "dino",
            _OF_SUBJECT,
            f"a rare token is a better identifier than {words}",
        )
        for kind, words in (("common", "a common word"), ("random", "random letters"))
    ),
    note="The paper claims this in its text and gives no values.",
    chosen=("rare", "common", "random"),
    best_first=True,
)
PAPER_TABLES = (METHODS, PRIOR, CLASS_NOUN, PHOTOS, SUPER_RESOLUTION, IDENTIFIERS)

_PAPER_SETTINGS = {  # axis -> the paper's values, or our defaults if the paper gives none
    "method": ("dreambooth",),
    "adapter": ("none",),
    "lambda": (">0",),
    "class": ("correct",),
    "num_photos": ("3", "4", "5", "6"),
    "identifier": ("rare", "chosen"),
    "sr": ("1e-5", "frozen"),
}
_IF_SWEPT = ("sr",)  # axes that only count if they are swept: a model may have no SR stage


def as_in_paper(cell: Cell, study: Study, axis: str) -> bool:
    """Whether a cell has the paper's settings on all axes but `axis`.

    A setting that the paper does not name must not vary between the cells of the same method and
    model, since none of its values is known to be the paper's.
    """
    settings = {**study.fixed, **cell.settings}
    if axis == "method" and settings.get("method") != "dreambooth":
        return True  # lambda and class noun are settings of DreamBooth only

    def is_swept(key: str) -> bool:
        of_system = [c.settings for c in study.cells if _system(c) == _system(cell)]
        return len({values.get(key, ABSENT) for values in of_system} - {ABSENT}) > 1

    def fits(key: str, value: str) -> bool:
        if key in (axis, "model") or value == ABSENT:
            return True
        if any(_matches(pattern, value) for pattern in _PAPER_SETTINGS.get(key, ())):
            return True
        return (key not in _PAPER_SETTINGS or key in _IF_SWEPT) and not is_swept(key)

    return all(fits(key, value) for key, value in settings.items())


def _system(cell: Cell) -> tuple[str | None, str | None]:
    return cell.settings.get("method"), cell.settings.get("model")


def claimed(table: PaperTable, metric: str, a: str, b: str) -> tuple[Claim | None, int]:
    """Return the paper's claim about a - b that a metric bears on, and the sign that it claims."""
    for claim in table.claims:
        sign = claim.sign if metric == claim.metric else claim.also.get(metric, 0)
        if sign and _applies(claim, a, b):
            return claim, sign
        if sign and _applies(claim, b, a):
            return claim, -sign
    return None, 0


def num_chosen(table: PaperTable, a: str, b: str) -> int:
    """How many of two values the paper itself compares."""
    return sum(value in (table.chosen or table.values) for value in (a, b))


def paper_difference(table: PaperTable, metric: str, a: str, b: str) -> float | None:
    """Return the paper's a - b; None if it lacks one of the values."""
    of_a, of_b = (paper_value(table, metric, value) for value in (a, b))
    return None if of_a is None or of_b is None else round(of_a - of_b, 4)


def paper_value(table: PaperTable, metric: str, value: str) -> float | None:
    return table.values.get(value, {}).get(metric)


def _applies(claim: Claim, a: str, b: str) -> bool:
    if claim.a not in ("more", "fewer"):
        return _matches(claim.a, a) and _matches(claim.b, b)
    if not (_matches("number", a) and _matches(claim.b, b)):
        return False
    return float(a) > float(b) if claim.a == "more" else float(a) < float(b)


def _matches(pattern: str, value: str) -> bool:
    kind, number, _ = order_of("", value)  # kind 1 is a number
    if pattern in (">0", "number"):
        return kind == 1 and (number > 0 or pattern == "number")
    # A value may say more: "frozen, generated at 0.1", 'chosen "sks"'.
    return value == pattern or value.startswith((f"{pattern},", f"{pattern} "))
