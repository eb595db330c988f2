"""The drawn world: its attributes, individuals, scenes and captions.

An *individual* (a subject, in DreamBooth's words) is fixed by its class noun and its seed. A
caption can state its main colour and pattern. No caption can state its second colour, the layout of
its stripes, spots or patches, its emblem and its proportions. A *scene* shows an individual in a
context from a viewpoint, and may have an accessory, an expression and an art style. The same seeds
give the same world everywhere.

The weights that ship with the project were trained on this world. After a change of a scene's
random draws, its pixels or the words of its caption they must be pretrained again.
"""

from dataclasses import dataclass, replace

import numpy as np

LIVE = ("dog", "cat", "rabbit", "bird", "fish")
OBJECTS = ("car", "boat", "clock", "backpack", "teapot")
CLASSES = LIVE + OBJECTS
COLOURS = {  # RGB
    "red": (214, 48, 49),
    "orange": (240, 138, 36),
    "yellow": (250, 214, 56),
    "green": (58, 166, 74),
    "blue": (48, 98, 214),
    "purple": (134, 62, 176),
    "pink": (248, 150, 190),
    "white": (246, 244, 240),
}
CONTEXTS = {
    "snow": "in the snow",
    "beach": "on the beach",
    "jungle": "in the jungle",
    "desert": "in the desert",
    "city": "in the city",
    "meadow": "in a meadow",
    "water": "under water",
    "moon": "on the moon",
}
PATTERNS = ("plain", "striped", "spotted", "patched")
ACCESSORIES = {
    "hat": "wearing a hat",
    "scarf": "wearing a scarf",
    "glasses": "wearing glasses",
    "crown": "wearing a crown",
}
EXPRESSIONS = ("happy", "angry", "sleeping")
VIEWS = {"front": "from the front", "side": "from the side", "behind": "from behind"}
STYLES = {"painting": "a painting of", "sketch": "a sketch of", "mosaic": "a mosaic of"}
EMBLEMS = ("star", "heart", "ring", "bolt")
STRIPE_ANGLES = (-0.6, 0.0, 0.6)
STRIPE_PERIODS = (0.36, 0.52)

# Captions use these words for individuals with an emblem only, so they carry a prior. They are for
# the ablation of the identifier (paper, section 3.2: "unique" and "special" are poor identifiers).
COMMON_WORDS = ("special", "unique")


def kind_of(class_noun: str) -> str:
    """Return 'live' or 'object'. Raises ValueError for a noun outside `CLASSES`."""
    if class_noun in LIVE:
        return "live"
    if class_noun in OBJECTS:
        return "object"
    raise ValueError(
        f"the miniature has no class {class_noun!r}; its classes are {', '.join(CLASSES)}"
    )


@dataclass(frozen=True)
class Individual:
    """One subject. Two scenes show the same individual if and only if these fields are equal."""

    class_noun: str
    main: str  # colour
    second: str  # colour of paws, wings, trims and the pattern; never equal to `main`
    pattern: str
    pattern_seed: int  # chooses the layout of spots or patches, and where stripes begin
    pattern_angle: float  # radians, one of `STRIPE_ANGLES`
    pattern_period: float  # in the figure's units (see animals.py), one of `STRIPE_PERIODS`
    emblem: str | None
    emblem_colour: str | None  # differs from `main` and `second`
    # Factors of size:
    width: float  # 0.88..1.12, of the body
    head: float  # 0.92..1.08, of the head (a fish's height, a car's wheels, a teapot's knob)
    extras: float  # 0.8..1.2, of ears, tails, fins, handles, sails


@dataclass(frozen=True)
class Scene:
    """An individual in a context. An optional attribute that is None is absent; without a style
    the scene is a photo."""

    individual: Individual
    context: str
    accessory: str | None = None
    expression: str | None = None
    view: str = "front"
    style: str | None = None
    rotation: float = 0.0  # degrees, clockwise
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)  # right and down, in image sizes
    flip: bool = False  # mirrored left to right: from the side, it then faces left
    seed: int = 0  # of the backdrop's details


def individual(class_noun: str, seed: int) -> Individual:
    """Return individual number `seed` of a class; any whole number from 0 up is a seed.

    Raises ValueError for a noun outside `CLASSES` or a negative seed.
    """
    kind_of(class_noun)
    rng = np.random.default_rng([71, CLASSES.index(class_noun), seed])
    main, second = rng.choice(list(COLOURS), 2, replace=False)
    has_emblem = rng.random() < 0.4
    emblem_colours = [c for c in COLOURS if c not in (main, second)]
    return Individual(
        class_noun=class_noun,
        main=str(main),
        second=str(second),
        pattern=str(rng.choice(PATTERNS)),
        pattern_seed=int(rng.integers(2**31)),
        pattern_angle=float(rng.choice(STRIPE_ANGLES)),
        pattern_period=float(rng.choice(STRIPE_PERIODS)),
        emblem=str(rng.choice(EMBLEMS)) if has_emblem else None,
        emblem_colour=str(rng.choice(emblem_colours)) if has_emblem else None,
        width=float(rng.uniform(0.88, 1.12)),
        head=float(rng.uniform(0.92, 1.08)),
        extras=float(rng.uniform(0.8, 1.2)),
    )


def random_scene(
    rng: np.random.Generator, subject: Individual | None = None, casual: bool = False
) -> Scene:
    """Draw a scene from the world's distribution, of `subject` or, without one, of a random
    individual.

    Only live individuals wear accessories and have expressions. A scene from behind has neither an
    expression nor glasses, because they could not be seen.

    `casual`: a plain photo of the subject, like a user's 3-5 input photos: no accessory, no style,
    a neutral face, from the front or the side.
    """
    if subject is None:
        subject = individual(str(rng.choice(CLASSES)), int(rng.integers(2**31)))
    live = kind_of(subject.class_noun) == "live"
    view = str(rng.choice(list(VIEWS), p=[0.5, 0.3, 0.2]))
    accessory = expression = style = None
    if live and rng.random() < 0.5:
        accessory = str(rng.choice(list(ACCESSORIES)))
    if live and rng.random() < 0.6:
        expression = str(rng.choice(EXPRESSIONS))
    if rng.random() < 0.3:
        style = str(rng.choice(list(STYLES)))
    if casual:
        accessory = expression = style = None
        view = str(rng.choice(["front", "side"], p=[0.7, 0.3]))
    if view == "behind":
        expression = None
        accessory = None if accessory == "glasses" else accessory
    return Scene(
        individual=subject,
        context=str(rng.choice(list(CONTEXTS))),
        accessory=accessory,
        expression=expression,
        view=view,
        style=style,
        rotation=float(rng.uniform(-5, 5)),
        scale=float(rng.uniform(0.92, 1.06)),
        shift=(float(rng.uniform(-0.04, 0.04)), float(rng.uniform(-0.025, 0.025))),
        flip=bool(view == "side" and rng.random() < 0.5),
        seed=int(rng.integers(2**31)),
    )


def recolour(subject: Individual, colour: str) -> Individual:
    """Return the individual with the main colour `colour` (property modification).

    If `colour` is its second colour, the two colours are swapped. Nothing else changes.
    """
    second = subject.main if subject.second == colour else subject.second
    return replace(subject, main=colour, second=second)


def caption(scene: Scene, rng: np.random.Generator | None = None, identifier: str = "") -> str:
    """Describe a scene truthfully, as in "a painting of a happy red striped dog in the snow".

    Without `rng`, the caption states every attribute that has a word. With `rng`, it leaves
    attributes out at random, so that "a dog" can be any dog. Styles, expressions and accessories
    are conspicuous and left out less often than the rest. It also sometimes calls an individual
    with an emblem "special" or "unique". `identifier` goes before the class noun, as in
    "a red striped [V] dog".
    """
    # Captions vary in detail, from the bare noun to every attribute.
    detail = 1.0 if rng is None else rng.choice([0.0, 0.35, 0.65, 0.9])

    def keep(p: float = 1.0) -> bool:
        return rng is None or rng.random() < detail * p

    def keep_conspicuous(p: float) -> bool:
        return rng is None or rng.random() < p

    who = scene.individual
    words: list[str] = []
    medium = STYLES[scene.style] if scene.style and keep_conspicuous(0.95) else ""
    if scene.expression and keep_conspicuous(0.75):
        words.append(scene.expression)
    if rng is not None and who.emblem and rng.random() < 0.15:
        words.append(str(rng.choice(COMMON_WORDS)))
    if keep():
        words.append(who.main)
    if keep(0.8):
        words.append(who.pattern)
    if identifier:
        words.append(identifier)
    words.append(who.class_noun)
    if scene.accessory and keep_conspicuous(0.75):
        words.append(ACCESSORIES[scene.accessory])
    if keep():
        words.append(CONTEXTS[scene.context])
    if keep(0.7):
        words.append(VIEWS[scene.view])
    article = "an" if words[0] in ("orange", "angry") else "a"
    return " ".join([*medium.split(), article, *words])
