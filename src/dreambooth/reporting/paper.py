"""The paper's tables as data (arXiv 2208.12242): values, and what it claims, in words.

Where the paper has pictures only (super-resolution, identifiers), there are claims without values.
A table's values and claims hold at the paper's other settings: see `as_in_paper`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dreambooth.reporting.settings import ABSENT, order_of
from dreambooth.reporting.study import Cell, Study


@dataclass(frozen=True)
class Claim:
    """`a` scores higher than `b` (sign 1) or lower (-1) in each of `metrics`.

    `a` and `b` are values of the table's axis, or ">0", "number"; or a is "more" or "fewer", and b
    any number ("number") or a certain one.
    """

    a: str
    b: str
    sign: int
    metrics: Sequence[str]
    words: str


@dataclass(frozen=True)
class PaperTable:
    """A table or figure of the paper, along one axis of a study."""

    key: str
    axis: str
    title: str
    source: str
    metrics: Sequence[str]  # its columns; ours that measure the same stand beside the paper's
    claims: Sequence[Claim] = ()
    values: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # axis value -> metric
    others: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # rows of the paper's
    note: str = ""
    best_first: bool = False  # whether the order of the axis' values begins with the paper's choice


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
        "real images": {"dino": 0.774, "clip_i": 0.885},
        "DreamBooth (Imagen)": {"dino": 0.696, "clip_i": 0.812, "clip_t": 0.306},
    },
    claims=(
        Claim(
            "dreambooth",
            "textual_inversion",
            1,
            ("dino", "clip_i", "identity"),
            "DreamBooth is more faithful to the subject than Textual Inversion",
        ),
        Claim(
            "dreambooth",
            "textual_inversion",
            1,
            ("clip_t", "context_accuracy"),
            "DreamBooth is more faithful to the prompt than Textual Inversion",
        ),
        Claim(
            "dreambooth",
            "prompt_only",
            1,
            ("dino", "clip_i", "identity"),
            "DreamBooth is more faithful to the subject than a long description of it",
        ),
    ),
    note="The paper's values of both methods are on Stable Diffusion, over 30 subjects.",
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
            ">0", "0", -1, ("pres", "drift"), "the prior term keeps the class from language drift"
        ),
        Claim(">0", "0", 1, ("div", "diversity"), "the prior term keeps the pictures more diverse"),
        Claim(
            ">0",
            "0",
            -1,
            ("dino", "clip_i", "identity"),
            "the prior term costs some fidelity to the subject",
        ),
        Claim(
            ">0",
            "0",
            1,
            ("clip_t",),
            "with the prior term pictures are as true to the prompt or more",
        ),
    ),
    note="The paper's values are of Imagen, over 15 subjects.",
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
            ("dino", "clip_i", "identity"),
            "the correct class noun is more faithful to the subject than a wrong one",
        ),
        Claim(
            "correct",
            "none",
            1,
            ("dino", "clip_i", "identity"),
            "the correct class noun is more faithful to the subject than none",
        ),
        Claim(
            "wrong",
            "none",
            1,
            ("dino", "clip_i", "identity"),
            "a wrong class noun is more faithful to the subject than none",
        ),
    ),
    note=(
        "The paper's values are of Imagen, over 5 subjects. CLIP-T is left out: its text has "
        "the noun, and so is another one in each cell."
    ),
)
PHOTOS = PaperTable(
    key="num_photos",
    axis="num_photos",
    title="Number of photos",
    source="Table 5 of the paper",
    metrics=("dino", "identity", "clip_i", "clip_t", "copied"),
    values={  # of the paper's backpack and dog, the mean, which is ours
        "1": {"dino": (0.494 + 0.798) / 2},
        "2": {"dino": (0.515 + 0.851) / 2},
        "3": {"dino": (0.596 + 0.871) / 2},
        "4": {"dino": (0.604 + 0.876) / 2},
        "5": {"dino": (0.597 + 0.864) / 2},
    },
    claims=tuple(  # between 3, 4 and 5 photos it has no clear order
        Claim("more", few, 1, ("dino", "identity"), "more photos of the subject give more fidelity")
        for few in ("1", "2")
    ),
    note=(
        "The paper's values are the mean of its two subjects (1 to 5 photos: backpack .494 .515 "
        ".596 .604 .597, dog .798 .851 .871 .876 .864). DINO and CLIP-I are against the photos "
        "that the cell was trained on, so against fewer where there are fewer; identity is not."
    ),
)
SUPER_RESOLUTION = PaperTable(
    key="super_resolution",
    axis="sr",
    title="Noise level of super-resolution",
    source="figure on super-resolution of the paper (pictures only)",
    metrics=(
        *("sr_detail", "sr_kept", "sr_invented", "sr_layout_error", "sr_identity", "sr_dino"),
        *("sr_lpips", "sr_psnr", "sr_ssim", "detail"),
    ),
    claims=(
        Claim(
            "fewer",
            "number",
            1,
            ("sr_detail", "sr_kept", "sr_identity", "sr_dino"),
            "fine-tuned at a lower noise level, SR keeps more of the subject's detail",
        ),
        Claim(
            "fewer",
            "number",
            -1,
            ("sr_layout_error",),
            "fine-tuned at a lower noise level, SR keeps more of the subject's detail",
        ),
        Claim(
            "number",
            "frozen",
            1,
            ("sr_identity", "sr_dino"),
            "fine-tuned, SR is truer to the subject than as pretrained",
        ),
        Claim(
            "number",
            "frozen",
            -1,
            ("sr_layout_error",),
            "fine-tuned, SR is truer to the subject than as pretrained",
        ),
        Claim(
            "number",
            "frozen",
            -1,
            ("sr_invented",),
            "fine-tuned, SR invents less detail than as pretrained",
        ),
    ),
    note="The paper shows pictures only: its directions are from its words.",
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
            other,
            1,
            ("dino", "identity", "clip_i"),
            f"a rare token is a better identifier than {words}",
        )
        for other, words in (("common", "a common word"), ("random", "random letters"))
    ),
    note="The paper says so in words and gives no values.",
    best_first=True,
)
PAPER_TABLES = (METHODS, PRIOR, CLASS_NOUN, PHOTOS, SUPER_RESOLUTION, IDENTIFIERS)

_OWN = {  # axis -> the paper's own values of it, and the default where the paper gives none
    "method": ("dreambooth",),
    "lambda": (">0",),
    "class": ("correct",),
    "num_photos": ("3", "4", "5", "6"),
    "identifier": ("rare", "chosen"),
    "sr": ("1e-5", "frozen"),
}
_IF_SWEPT = ("sr",)  # a model may have no SR stage


def as_in_paper(cell: Cell, study: Study, axis: str) -> bool:
    """Whether all settings but that of the axis are the paper's, as far as runs tell: what the
    paper does not name must be the same in all cells of the method and model."""
    at = {**study.fixed, **cell.settings}
    if axis == "method" and at.get("method") != "dreambooth":
        return True  # lambda and class noun are DreamBooth's

    def swept(key: str) -> bool:
        alike = [c.settings for c in study.cells if _system(c) == _system(cell)]
        return len({settings.get(key, ABSENT) for settings in alike} - {ABSENT}) > 1

    def fits(key: str, value: str) -> bool:
        if key in (axis, "model") or value == ABSENT:
            return True
        own = any(_is(pattern, value) for pattern in _OWN.get(key, ()))
        return own or ((key not in _OWN or key in _IF_SWEPT) and not swept(key))

    return all(fits(key, value) for key, value in at.items())


def _system(cell: Cell) -> tuple[str | None, str | None]:
    return cell.settings.get("method"), cell.settings.get("model")


def claimed(table: PaperTable, metric: str, a: str, b: str) -> tuple[str, int]:
    """What the paper says of a - b in a metric: words and sign; ("", 0) where it says nothing."""
    for claim in table.claims:
        if metric in claim.metrics:
            if _fits(claim, a, b):
                return claim.words, claim.sign
            if _fits(claim, b, a):
                return claim.words, -claim.sign
    return "", 0


def paper_difference(table: PaperTable, metric: str, a: str, b: str) -> float | None:
    """The paper's a - b, where it has both values."""
    one, other = (_values(table, value).get(metric) for value in (a, b))
    return None if one is None or other is None else round(one - other, 4)


def paper_value(table: PaperTable, metric: str, value: str) -> float | None:
    return _values(table, value).get(metric)


def _values(table: PaperTable, value: str) -> Mapping[str, float]:
    return table.values.get(value, {})


def _fits(claim: Claim, a: str, b: str) -> bool:
    if claim.a not in ("more", "fewer"):
        return _is(claim.a, a) and _is(claim.b, b)
    if not (_is("number", a) and _is(claim.b, b)):
        return False
    return float(a) > float(b) if claim.a == "more" else float(a) < float(b)


def _is(pattern: str, value: str) -> bool:
    kind, number, _ = order_of("", value)  # 1: a number
    if pattern in (">0", "number"):
        return kind == 1 and (number > 0 or pattern == "number")
    return value == pattern or value.startswith((f"{pattern},", f"{pattern} "))
