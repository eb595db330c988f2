"""Kinds of subjects, and what stands for a subject in a prompt: "[V] [class noun]", or "[V]"."""

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

KINDS = ("live", "object")


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


def resolve_kind(kind: str | None, class_noun: str) -> str:
    """`kind`, or that of the class noun if it is None: "live" or "object".

    ValueError for an empty noun, an unknown kind, and without a kind for a noun that is not listed.
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
