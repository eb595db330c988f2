"""Identifiers `[V]`: words with little meaning that training binds to a subject (paper, 3.2)."""

import string
from collections.abc import Sequence
from typing import Any

import torch

from dreambooth.randomness import generator
from dreambooth.subjects.prompts import check_one_word


def rare_token_ids(tokenizer: Any, id_range: tuple[int, int], max_characters: int = 3) -> list[int]:
    """The token ids that are whole words of at most `max_characters` letters and digits.

    `id_range` is the first id and one past the last; the paper uses 5000 to 10000 for T5-XXL. An id
    is kept if it decodes to letters and digits that encode to the same id in a prompt. This
    excludes pieces of words ("##k", or CLIP's tokens without "</w>"), which cannot stand alone.
    Unlike the paper we also exclude punctuation, which would be read as part of the sentence, and
    emoji, which have a meaning.

    ValueError if the range is empty or not within the vocabulary.
    """
    first, end = id_range
    if not 0 <= first < end <= len(tokenizer):
        raise ValueError(
            f"the id range {first}..{end} (first, one past the last) does not lie within the "
            f"tokenizer's vocabulary: give identifier.text=WORD, or model.rare_token_ids within "
            f"0..{len(tokenizer)}"
        )
    special = set(tokenizer.all_special_ids)
    texts = {i: _decode(tokenizer, [i]) for i in range(first, end) if i not in special}
    texts = {i: t for i, t in texts.items() if len(t) <= max_characters and t.isalnum()}
    if not texts:
        return []
    encoded = _encode(tokenizer, list(texts.values()))
    return [i for i, ids in zip(texts, encoded, strict=True) if ids == [i]]


def rare_identifier(
    tokenizer: Any, id_range: tuple[int, int], num_tokens: int = 1, seed: int = 0
) -> str:
    """Draw `num_tokens` (1..3) different rare tokens uniformly, and decode them (paper, 3.2).

    Several tokens become several words ("sks ohw") if the tokenizer marks the ends of words.
    ValueError for another number of tokens, or if the range holds too few rare tokens.
    """
    if num_tokens not in (1, 2, 3):
        raise ValueError(f"an identifier has 1, 2 or 3 rare tokens, not {num_tokens!r}")
    pool = rare_token_ids(tokenizer, id_range)
    draws = generator("identifier", "rare", seed)
    if len(pool) >= num_tokens:
        for _ in range(100):
            ids = [pool[i] for i in torch.randperm(len(pool), generator=draws)[:num_tokens]]
            if _round_trips(tokenizer, ids):
                return _decode(tokenizer, ids)
    raise ValueError(
        f"ids {id_range[0]}..{id_range[1]} hold {len(pool)} rare tokens, too few for an identifier "
        f"of {num_tokens}: give identifier.text=WORD, or another model.rare_token_ids"
    )


def random_identifier(seed: int = 0, length: int = 9) -> str:
    """Draw random letters and digits ("xxy5syt00"), the paper's example of a poor identifier.

    A tokenizer splits them into single characters, each of which has a strong prior.
    """
    characters = string.ascii_lowercase + string.digits
    draws = torch.randint(
        len(characters), (length,), generator=generator("identifier", "random", seed)
    )
    return "".join(characters[i] for i in draws)


def check_identifier(tokenizer: Any, text: str) -> None:
    """ValueError unless `text` is one word that survives the tokenizer.

    Decoding its ids must give the same text, apart from case and spaces between tokens, and
    encoding that must give the same ids. This is for identifiers from the user; `rare_identifier`
    checks those that it draws, which may be several words.
    """
    check_one_word(text)
    (ids,) = _encode(tokenizer, [text])
    decoded = _decode(tokenizer, ids)
    same_text = "".join(decoded.split()).casefold() == text.casefold()
    if not (same_text and _round_trips(tokenizer, ids)):
        raise ValueError(
            f"the tokenizer does not keep the identifier {text!r}: it comes back as {decoded!r}; "
            "use letters and digits that the tokenizer knows, or let a rare identifier be drawn"
        )


def _encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text as it is read within a prompt, behind a space.

    Tokenizers of language models, such as Qwen's, have other ids for a word that begins a text.
    """
    encoded = tokenizer([f" {text}" for text in texts], add_special_tokens=False)["input_ids"]
    return [list(ids) for ids in encoded]


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    # CLIPTokenizer decodes "</w>" to a space; the same vocabulary in a generic class does not.
    text: str = tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
    return text.replace("</w>", " ").strip()


def _round_trips(tokenizer: Any, ids: Sequence[int]) -> bool:
    if not ids or set(ids) & set(tokenizer.all_special_ids):
        return False
    return _encode(tokenizer, [_decode(tokenizer, ids)]) == [list(ids)]
