"""A new word of a text encoder: tokens with vectors of their own, behind the frozen vocabulary."""

from itertools import count, takewhile
from typing import Any

import torch
from torch import Tensor, nn

from dreambooth.backbones.stage import Stage


class NewWord(nn.Module):
    """A text encoder's token embedding, and behind its vocabulary the vectors of one new word.

    `vocabulary` is the embedding that it takes the place of. `vectors` (n, width) belong to the
    token ids from `first_id` on.
    """

    def __init__(self, vocabulary: nn.Embedding, first_id: int, vectors: Tensor):
        super().__init__()
        self.vocabulary, self.first_id = vocabulary, first_id
        self.vectors = nn.Parameter(vectors.clone())
        self._std = vocabulary.weight.std().item()

    def forward(self, ids: Tensor) -> Tensor:
        is_new = ids >= self.first_id
        known = self.vocabulary(ids.masked_fill(is_new, 0))
        new = self.vectors[(ids - self.first_id).clamp(min=0)]
        return torch.where(is_new[..., None], new, known)  # (B, tokens, width)

    @torch.no_grad()
    def keep_scale(self) -> None:
        """Pull the vectors a tenth of the way, in the logarithm, to the vocabulary's deviation.

        So does `retract_embeddings` of diffusers' train_dreambooth_lora_sdxl_advanced.py after each
        step. Vectors that grow far beyond those of words dominate every prompt.
        """
        self.vectors.mul_((self._std / self.vectors.std()) ** 0.1)


def new_word_of(stage: Stage) -> NewWord | None:
    """The new word of a stage's text encoder, if it has one."""
    if stage.text_encoder is None:
        return None
    embedding = stage.text_encoder.get_input_embeddings()
    return embedding if isinstance(embedding, NewWord) else None


def add_word(stage: Stage, word: str, vectors: Tensor) -> None:
    """Add a word that the tokenizer lacks to the text encoder, with a token for each vector.

    The tokens are named as diffusers' `load_textual_inversion` names them: "<dog>", "<dog>_1", ...
    """
    tokens = [word, *(f"{word}_{i}" for i in range(1, len(vectors)))]
    assert stage.tokenizer.add_tokens(tokens) == len(tokens), f"{word} is new to the tokenizer"
    vocabulary = stage.text_encoder.get_input_embeddings()
    first_id = stage.tokenizer.convert_tokens_to_ids(word)
    stage.text_encoder.set_input_embeddings(NewWord(vocabulary, first_id, vectors))


def embedding_of(stage: Stage, words: str) -> Tensor:
    """The embedding (width,) of a known word; the mean over its tokens if it has several."""
    ids = stage.tokenizer(words, add_special_tokens=False).input_ids
    embedding: Tensor = stage.text_encoder.get_input_embeddings().weight[ids].detach()
    return embedding.mean(dim=0)


def with_all_tokens(prompt: str, tokenizer: Any) -> str:
    """A prompt in which each new word is written as all its tokens: "<dog>" as "<dog> <dog>_1".

    It is what `maybe_convert_prompt` of diffusers' pipelines does.
    """
    added = tokenizer.get_added_vocab()
    for word in [token for token in added if f"{token}_1" in added]:
        others = takewhile(added.__contains__, (f"{word}_{i}" for i in count(1)))
        prompt = prompt.replace(word, " ".join([word, *others]))
    return prompt
