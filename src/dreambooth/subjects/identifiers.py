"""Identifiers `[V]`: words that come to name a subject and mean little before (paper, 3.2)."""

import string
from collections.abc import Sequence
from typing import Any

import torch

from dreambooth.randomness import generator


def rare_token_ids(tokenizer: Any, id_range: tuple[int, int], max_characters: int = 3) -> list[int]:
    """Ids of a transformers tokenizer that are words of at most `max_characters` on their own.

    `id_range` is the first id and one past the last; the paper takes 5000 to 10000 for T5-XXL.
    Kept are the ids that decode to letters and digits without a space and encode to the same id:
    pieces of words ("##k", or CLIP's without "</w>") fall out, since no prompt can hold them alone.
    That punctuation and emoji fall out too is ours: the one would be read as the prompt's own, the
    other brings a picture along.

    ValueError for a range that is empty or not within the vocabulary.
    """
    first, end = id_range
    if not 0 <= first < end <= len(tokenizer):
        raise ValueError(
            f"the id range {first}..{end} (first, one past the last) does not lie within the "
            f"tokenizer's vocabulary: it has the ids 0..{len(tokenizer)}"
        )
    special = set(tokenizer.all_special_ids)
    texts = {i: _decode(tokenizer, [i]) for i in range(first, end) if i not in special}
    texts = {i: t for i, t in texts.items() if len(t) <= max_characters and t.isalnum()}
    if not texts:
        return []
    encoded = tokenizer(list(texts.values()), add_special_tokens=False)["input_ids"]
    return [i for i, ids in zip(texts, encoded, strict=True) if list(ids) == [i]]


def rare_identifier(
    tokenizer: Any, id_range: tuple[int, int], num_tokens: int = 1, seed: int = 0
) -> str:
    """`num_tokens` (1..3) different rare tokens, drawn uniformly and decoded (paper, 3.2).

    Several of them are several words ("sks ohw") where the tokenizer ends a word with a token.
    ValueError for another number of tokens, or where the range holds too few rare tokens.
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
        f"of {num_tokens}: widen the range, or give the identifier yourself"
    )


def random_identifier(seed: int = 0, length: int = 9) -> str:
    """Random letters and digits ("xxy5syt00"), the paper's example of a poor identifier.

    A tokenizer splits it into single characters, each with a strong prior of its own.
    """
    characters = string.ascii_lowercase + string.digits
    draws = torch.randint(
        len(characters), (length,), generator=generator("identifier", "random", seed)
    )
    return "".join(characters[i] for i in draws)


def check_identifier(tokenizer: Any, text: str) -> None:
    """ValueError unless `text` is one word that the tokenizer keeps: encoded and decoded it is the
    same text (but for case and for spaces between pieces), encoded again it is the same ids.

    For an identifier that a user gives; `rare_identifier` has checked its own, which may be words.
    """
    if not text or any(c.isspace() for c in text):
        raise ValueError(
            f"the identifier {text!r} is {'not one word' if text else 'empty'}: "
            'give a single word that says nothing yet, such as "sks"'
        )
    ids = tokenizer.encode(text, add_special_tokens=False)
    read = _decode(tokenizer, ids)
    same_text = "".join(read.split()).casefold() == text.casefold()
    if not (same_text and _round_trips(tokenizer, ids)):
        raise ValueError(
            f"the tokenizer does not keep the identifier {text!r}: it comes back as {read!r}; "
            "use letters and digits that the tokenizer knows, or have a rare one drawn"
        )


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    # CLIP's own class turns "</w>" into a space; the same tokenizer loaded as a plain one does not.
    text: str = tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
    return text.replace("</w>", " ").strip()


def _round_trips(tokenizer: Any, ids: Sequence[int]) -> bool:
    if not ids or set(ids) & set(tokenizer.all_special_ids):
        return False
    return list(tokenizer.encode(_decode(tokenizer, ids), add_special_tokens=False)) == list(ids)
