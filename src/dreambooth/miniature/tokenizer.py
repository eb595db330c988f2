"""The miniature's tokenizer: the words of captions, rare tokens, and single characters."""

import string
from typing import TYPE_CHECKING

import numpy as np

from dreambooth.miniature import world

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MAX_TOKENS = 24  # the longest caption has 20, a rare identifier up to 3; more are cut off
RARE_IDS = (200, 456)  # ids of the rare tokens: the first, and one past the last
VOCABULARY_SIZE = RARE_IDS[1]


def caption_words() -> list[str]:
    """Return every word that a caption of the world can contain, sorted."""
    phrases = [
        "a",
        "an",
        *world.CLASSES,
        *world.COLOURS,
        *world.CONTEXTS.values(),
        *world.PATTERNS,
        *world.ACCESSORIES.values(),
        *world.EXPRESSIONS,
        *world.VIEWS.values(),
        *world.STYLES.values(),
        *world.COMMON_WORDS,
    ]
    return sorted({word for phrase in phrases for word in phrase.split()})


def rare_tokens() -> list[str]:
    """Return the rare tokens: "sks", which the field commonly uses, then others in a fixed random
    order, each of three consonants.

    In captions they have no meaning, so they carry no prior (paper, section 3.2).
    """
    consonants = "bcdfghjklmnpqrstvwxz"
    candidates = [a + b + c for a in consonants for b in consonants for c in consonants]
    rng = np.random.default_rng(0)
    others = [t for t in rng.permutation(candidates) if t != "sks"]
    return ["sks", *(str(t) for t in others[: RARE_IDS[1] - RARE_IDS[0] - 1])]


def build_tokenizer() -> "PreTrainedTokenizerFast":
    """Return a WordPiece tokenizer of `VOCABULARY_SIZE` ids: [BOS] words [EOS], in lower case.

    An unknown word is split into letters and digits, or becomes [UNK] if it has any other
    character.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    characters = string.ascii_lowercase + string.digits
    tokens = ["[PAD]", "[BOS]", "[EOS]", "[UNK]"]
    tokens += [w for w in caption_words() if w not in characters]
    tokens += list(characters) + [f"##{c}" for c in characters]
    tokens += [f"[unused{i}]" for i in range(RARE_IDS[0] - len(tokens))]
    tokens += rare_tokens()
    vocabulary = {token: i for i, token in enumerate(tokens)}
    assert len(vocabulary) == VOCABULARY_SIZE
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 1), ("[EOS]", 2)]
    )
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        bos_token="[BOS]",
        eos_token="[EOS]",
        unk_token="[UNK]",
        model_max_length=MAX_TOKENS,
    )
