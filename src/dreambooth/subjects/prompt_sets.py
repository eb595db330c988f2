"""The sets of evaluation prompts, each prompt with what it asks for; {} stands for the subject."""

from collections.abc import Iterable, Mapping

# What a prompt asks for: the paper's applications (section 4.4), in its order.
APPLICATIONS = (
    "recontextualization",
    "art_rendition",
    "expression",
    "novel_view",
    "accessorization",
    "property_modification",
)
SEVERAL = "several_at_once"  # two applications in one prompt

# kind of subject -> what the prompts ask for -> their templates
_Prompts = dict[str, dict[str, tuple[str, ...]]]

# DreamBench's 25 + 25 (github.com/google/dreambooth, prompts_and_classes.txt), CC BY 4.0.
_CONTEXTS = (
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
_PROPERTIES = (
    "a red {}",
    "a purple {}",
    "a shiny {}",
    "a wet {}",
    "a cube shaped {}",
)
_DREAMBENCH: _Prompts = {
    "object": {
        "recontextualization": (
            *_CONTEXTS,
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
        ),
        "property_modification": _PROPERTIES,
    },
    "live": {
        "recontextualization": _CONTEXTS,
        "accessorization": (
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
        ),
        "property_modification": _PROPERTIES,
    },
}

# The applications as the paper shows them. Only live subjects have expressions and accessories.
_PAPER_OBJECT = {
    "recontextualization": (
        "a {} in the Acropolis",
        "a {} in front of the Eiffel Tower",
        "a {} in the Grand Canyon",
        "a {} in Times Square",
        "a {} in the jungle",
        "a {} in the snow",
        "a {} on the beach",
        "a {} under water",
    ),
    "art_rendition": (
        "a painting of a {} in the style of Vincent van Gogh",
        "a painting of a {} in the style of Rembrandt",
        "a painting of a {} in the style of Johannes Vermeer",
        "a painting of a {} in the style of Pierre-Auguste Renoir",
        "a painting of a {} in the style of Leonardo da Vinci",
        "a painting of a {} in the style of Katsushika Hokusai",
        "a statue of a {} in the style of Michelangelo",
        "a statue of a {} in the style of Auguste Rodin",
    ),
    "novel_view": (
        "a {} seen from behind",
        "a {} seen from below",
        "a {} seen from above",
        "a {} seen from the side",
    ),
    "property_modification": (
        "a red {}",
        "a yellow {}",
        "a green {}",
        "a blue {}",
        "a purple {}",
        "a pink {}",
    ),
}
_PAPER: _Prompts = {
    "object": _PAPER_OBJECT,
    "live": _PAPER_OBJECT
    | {
        "expression": (
            *("a {} that is happy", "a {} that is sad", "a {} that is angry"),
            *("a {} that is sleeping", "a {} that is crying", "a {} that is screaming"),
        ),
        "accessorization": (
            *("a {} wearing a chef outfit", "a {} wearing a police outfit"),
            *("a {} wearing a witch outfit", "a {} wearing a nurse outfit"),
            *("a {} wearing a superman outfit", "a {} wearing a purple wizard outfit"),
            *("a {} wearing an Iron Man outfit", "a {} wearing angel wings"),
        ),
        "property_modification": (
            *_PAPER_OBJECT["property_modification"],
            *("a cross of a {} and a bear", "a cross of a {} and a panda"),
            *("a cross of a {} and a koala", "a cross of a {} and a lion"),
        ),
    },
}

# MiniBench: prompts of the same kinds for the miniature's drawn world.
_MINI_CONTEXTS = (
    "a {} in the snow",
    "a {} on the beach",
    "a {} in the jungle",
    "a {} in the desert",
    "a {} in the city",
    "a {} in a meadow",
    "a {} under water",
    "a {} on the moon",
)
_MINI_ACCESSORIES = (
    "a {} wearing a hat",
    "a {} wearing a scarf",
    "a {} wearing glasses",
    "a {} wearing a crown",
)
_MINI_EXPRESSIONS = ("a happy {}", "an angry {}", "a sleeping {}")
_MINI_VIEWS = ("a {} from the front", "a {} from the side", "a {} from behind")
_MINI_STYLES = ("a painting of a {}", "a sketch of a {}", "a mosaic of a {}")
_MINI_COLOURS = ("a red {}", "a purple {}", "a green {}")
_MINIBENCH: _Prompts = {
    "live": {
        "recontextualization": _MINI_CONTEXTS,
        "accessorization": _MINI_ACCESSORIES,
        "expression": _MINI_EXPRESSIONS,
        "novel_view": _MINI_VIEWS[1:],
        "art_rendition": _MINI_STYLES,
        "property_modification": _MINI_COLOURS,
        SEVERAL: ("a {} wearing a crown on the beach", "a sleeping {} in the snow"),
    },
    "object": {
        "recontextualization": _MINI_CONTEXTS,
        "novel_view": _MINI_VIEWS,
        "art_rendition": _MINI_STYLES,
        "property_modification": _MINI_COLOURS,
        SEVERAL: (
            "a painting of a {} in the snow",
            "a sketch of a {} in the city",
            "a mosaic of a {} on the beach",
            "a red {} in the jungle",
            "a purple {} on the moon",
            "a green {} in a meadow",
            "a {} under water from the side",
            "a {} in the desert from behind",
        ),
    },
}
_MINI_OBJECT = {
    "recontextualization": _MINI_CONTEXTS,
    "art_rendition": _MINI_STYLES,
    "novel_view": _MINI_VIEWS,
    "property_modification": (
        *(*_MINI_COLOURS, "an orange {}", "a yellow {}"),
        *("a blue {}", "a pink {}", "a white {}"),
    ),
}
_MINI: _Prompts = {
    "object": _MINI_OBJECT,
    "live": _MINI_OBJECT | {"expression": _MINI_EXPRESSIONS, "accessorization": _MINI_ACCESSORIES},
}


# The limitations that the paper shows (section 4.5), by the context that the prompt asks for.
NO_CONTEXT, CONTEXT_OF_PHOTOS = "no_context", "context_of_the_photos"
FREQUENT_CONTEXT, RARE_CONTEXT = "frequent_context", "rare_context"
LIMITATIONS = (NO_CONTEXT, CONTEXT_OF_PHOTOS, FREQUENT_CONTEXT, RARE_CONTEXT)
_LIMITS = {
    NO_CONTEXT: ("a {}", "a photo of a {}"),
    FREQUENT_CONTEXT: (
        *("a {} in the snow", "a {} on the beach", "a {} in a forest", "a {} on the grass"),
        *("a {} on a street", "a {} in a living room", "a {} in a park", "a {} on a table"),
    ),
    RARE_CONTEXT: (
        *("a {} on the moon", "a {} in the International Space Station"),
        *("a {} in the crater of a volcano", "a {} on the surface of Mars"),
        *("a {} in a particle accelerator", "a {} on the wing of a flying airplane"),
        *("a {} inside a washing machine", "a {} at the bottom of the ocean"),
    ),
}
# In the drawn world no context is rare. These combinations are: one scene in 400 is in a certain
# context and style, and from behind.
MINI_RARE = (
    "a painting of a {} in the snow from behind",
    "a sketch of a {} on the beach from behind",
    "a mosaic of a {} in the jungle from behind",
    "a painting of a {} in the desert from behind",
    "a sketch of a {} in the city from behind",
    "a mosaic of a {} in a meadow from behind",
    "a painting of a {} under water from behind",
    "a sketch of a {} on the moon from behind",
)

# Prompts without the subject. `unrelated_to` leaves out those with its class noun.
UNRELATED = (
    "a bowl of fruit on a kitchen table",
    "a sailing boat on a lake at sunset",
    "a red car on a mountain road",
    "a castle on a hill in the fog",
    "a horse in a field of flowers",
    "a cup of coffee next to a book",
    "an old man reading a newspaper",
    "a city street at night in the rain",
    "a lighthouse on a rocky coast",
    "a plate of pasta with basil",
    "a steam train crossing a bridge",
    "a snowy forest with a wooden cabin",
    "a hot air balloon above the desert",
    "an astronaut floating in space",
    "a violin on a velvet chair",
    "a woman with an umbrella in a park",
)


def unrelated_to(nouns: Iterable[str | None], prompts: Iterable[str]) -> list[str]:
    """The prompts that contain none of the nouns, of which some may be None."""
    words = {word for noun in nouns if noun for word in noun.lower().split()}
    return [prompt for prompt in prompts if not words & set(prompt.lower().split())]


Families = Mapping[str, str]
"""Template -> what it asks for: one of `APPLICATIONS`, `SEVERAL`, or one of `LIMITATIONS`."""


def families(asked: Mapping[str, Iterable[str]]) -> Families:
    """Invert {what prompts ask for: their templates} to {template: what it asks for}."""
    return {template: family for family, templates in asked.items() for template in templates}


def _by_kind(prompts: _Prompts) -> dict[str, Families]:
    return {kind: families(asked) for kind, asked in prompts.items()}


# The values of `subject.prompts`, of photos and of the drawn world: kind -> prompts.
PROMPT_SETS = {
    "dreambench": _by_kind(_DREAMBENCH),
    "minibench": _by_kind(_MINIBENCH),
    "applications": _by_kind(_PAPER),
    "limitations": _by_kind({"live": _LIMITS, "object": _LIMITS}),
}
MINIATURE_SETS = {"minibench": _by_kind(_MINIBENCH), "applications": _by_kind(_MINI)}
DREAMBENCH = {kind: tuple(prompts) for kind, prompts in PROMPT_SETS["dreambench"].items()}
MINIBENCH = {kind: tuple(prompts) for kind, prompts in PROMPT_SETS["minibench"].items()}


def application_of(template: str) -> str:
    """What a prompt of the benchmarks or of the applications asks for; "" for any other."""
    return _APPLICATION_OF.get(template, "")


_APPLICATION_OF = {
    template: family
    for sets in (PROMPT_SETS["dreambench"], PROMPT_SETS["applications"], *MINIATURE_SETS.values())
    for prompts in sets.values()
    for template, family in prompts.items()
}
