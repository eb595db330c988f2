"""Prompt templates; {} stands for the subject: "[V] [class noun]", or "[V]" alone."""

from dataclasses import dataclass

DREAMBENCH_CLASSES = (
    "backpack",
    "bowl",
    "boot",
    "can",
    "candle",
    "cartoon",
    "cat",
    "clock",
    "dog",
    "glasses",
    "sneaker",
    "stuffed animal",
    "teapot",
    "toy",
    "vase",
)

# The class nouns of DreamBench and of the drawn world whose kind is known.
_LIVE = ("bird", "cat", "dog", "fish", "rabbit")
_OBJECTS = (*(noun for noun in DREAMBENCH_CLASSES if noun not in _LIVE), "boat", "car")

# DreamBench's 25 + 25 (github.com/google/dreambooth, prompts_and_classes.txt), CC BY 4.0.
_DREAMBENCH_CONTEXTS = (
    "a {} in the jungle",
    "a {} in the snow",
    "a {} on the beach",
    "a {} on a cobblestone street",
    "a {} on top of pink fabric",
    "a {} on top of a wooden floor",
    "a {} with a city in the background",
    "a {} with a mountain in the background",
    "a {} with a blue house in the background",
    "a {} on top of a purple rug in a forest",
)
_DREAMBENCH_PROPERTIES = (
    "a red {}",
    "a purple {}",
    "a shiny {}",
    "a wet {}",
    "a cube shaped {}",
)
DREAMBENCH = {
    "object": (
        *_DREAMBENCH_CONTEXTS,
        "a {} with a wheat field in the background",
        "a {} with a tree and autumn leaves in the background",
        "a {} with the Eiffel Tower in the background",
        "a {} floating on top of water",
        "a {} floating in an ocean of milk",
        "a {} on top of green grass with sunflowers around it",
        "a {} on top of a mirror",
        "a {} on top of the sidewalk in a crowded street",
        "a {} on top of a dirt road",
        "a {} on top of a white rug",
        *_DREAMBENCH_PROPERTIES,
    ),
    "live": (
        *_DREAMBENCH_CONTEXTS,
        "a {} wearing a red hat",
        "a {} wearing a santa hat",
        "a {} wearing a rainbow scarf",
        "a {} wearing a black top hat and a monocle",
        "a {} in a chef outfit",
        "a {} in a firefighter outfit",
        "a {} in a police outfit",
        "a {} wearing pink glasses",
        "a {} wearing a yellow shirt",
        "a {} in a purple wizard outfit",
        *_DREAMBENCH_PROPERTIES,
    ),
}

# MiniBench: prompts of the same kinds for the miniature's drawn world.
_MINIBENCH_CONTEXTS = (
    "a {} in the snow",
    "a {} on the beach",
    "a {} in the jungle",
    "a {} in the desert",
    "a {} in the city",
    "a {} in a meadow",
    "a {} under water",
    "a {} on the moon",
)
_MINIBENCH_STYLES = ("a painting of a {}", "a sketch of a {}", "a mosaic of a {}")
_MINIBENCH_COLOURS = ("a red {}", "a purple {}", "a green {}")
MINIBENCH = {
    "live": (
        *_MINIBENCH_CONTEXTS,
        "a {} wearing a hat",
        "a {} wearing a scarf",
        "a {} wearing glasses",
        "a {} wearing a crown",
        "a happy {}",
        "an angry {}",
        "a sleeping {}",
        "a {} from the side",
        "a {} from behind",
        *_MINIBENCH_STYLES,
        *_MINIBENCH_COLOURS,
        "a {} wearing a crown on the beach",
        "a sleeping {} in the snow",
    ),
    "object": (
        *_MINIBENCH_CONTEXTS,
        "a {} from the front",
        "a {} from the side",
        "a {} from behind",
        *_MINIBENCH_STYLES,
        *_MINIBENCH_COLOURS,
        "a painting of a {} in the snow",
        "a sketch of a {} in the city",
        "a mosaic of a {} on the beach",
        "a red {} in the jungle",
        "a purple {} on the moon",
        "a green {} in a meadow",
        "a {} under water from the side",
        "a {} in the desert from behind",
    ),
}


KINDS = ("live", "object")
PROMPT_SETS = {"dreambench": DREAMBENCH, "minibench": MINIBENCH}


def kind_of_noun(class_noun: str) -> str | None:
    """ "live" or "object"; None for a noun that is not listed here."""
    noun = class_noun.strip().lower()
    return "live" if noun in _LIVE else "object" if noun in _OBJECTS else None


def check_one_word(identifier: str) -> None:
    """ValueError for an identifier that is empty or several words."""
    if not identifier or any(c.isspace() for c in identifier):
        raise ValueError(
            f"the identifier {identifier!r} is {'not one word' if identifier else 'empty'}: "
            'give a single word without a meaning, such as "sks"'
        )


def check_kind(kind: str | None, class_noun: str) -> str:
    """The kind of a subject, which its class noun decides if it is not given.

    ValueError for an empty noun, an unknown kind, and a noun that does not tell the kind.
    """
    if not class_noun.strip():
        raise ValueError("subject.class_noun is empty: name what the photos show, such as dog")
    if kind is not None and kind not in KINDS:
        raise ValueError(f"subject.kind={kind!r} is not known; choose live or object")
    kind = kind or kind_of_noun(class_noun)
    if kind is None:
        raise ValueError(
            f"class_noun={class_noun} is in no list of live subjects and objects: give "
            "subject.kind=live or subject.kind=object, which chooses the prompts"
        )
    return kind


def subject_phrase(identifier: str, class_noun: str | None) -> str:
    """ "[V] [class noun]", or "[V]" without a class noun."""
    return f"{identifier} {class_noun}" if class_noun else identifier


def class_prompt(class_noun: str) -> str:
    """The class prompt "a [class noun]": c_pr of the prior term, also used to measure drift."""
    return f"a {class_noun}"


@dataclass(frozen=True)
class PromptNames:
    """The identifier and the class nouns in the prompts of a run."""

    identifier: str
    class_noun: str | None  # in the subject prompt; None for "a [V]"
    prior_noun: str  # in the class prompt; the true class if the subject prompt has no noun
    in_text: str = ""  # what stands for the identifier in the text of CLIP-T: nothing, or a noun

    @property
    def subject(self) -> str:
        return subject_phrase(self.identifier, self.class_noun)

    @property
    def subject_prompt(self) -> str:
        return f"a {self.subject}"

    @property
    def class_prompt(self) -> str:
        return class_prompt(self.prior_noun)
