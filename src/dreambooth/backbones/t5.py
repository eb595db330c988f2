"""T5 as a frozen text encoder that is in memory only while it encodes prompts."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dreambooth.backbones.new_word import with_all_tokens
from dreambooth.runs.hashes import sha256_of

MAX_TOKENS = 77  # what DeepFloyd IF was trained with; T5 itself has no limit


class T5Prompts:
    """Encodes prompts with T5, and keeps their encodings instead of T5 (19 GB in float32).

    Prompts that are announced by `expect` are encoded together, so that a run loads T5 once. It
    encodes on the CPU and needs no memory of a GPU. Whoever asks for `model`, because its parts
    train, keeps it in memory from then on.

    `load`: reads the text encoder, a T5EncoderModel.
    """

    def __init__(self, load: Callable[[], Any], tokenizer: Any):
        self.tokenizer = lower_cased(tokenizer)
        self._load, self._model = load, None
        # An ordered set; guidance needs the empty prompt.
        self._expected: dict[str, None] = {"": None}
        self._cache: dict[str, Tensor] = {}  # prompt -> (77, width), on the CPU
        self._digest = ""

    @property
    def model(self) -> Any:
        if self._model is None:
            self._model = self._load()
        return self._model

    def expect(self, prompt: str) -> None:
        """Announce a prompt. ValueError if it has more than 77 tokens."""
        text = with_all_tokens(prompt, self.tokenizer)
        count = len(self.tokenizer(text, verbose=False).input_ids)
        if count > MAX_TOKENS:
            raise ValueError(
                f"the prompt {prompt!r} has {count} tokens, the end token included, and this "
                f"model takes {MAX_TOKENS}: shorten it by {count - MAX_TOKENS}"
            )
        self._expected[prompt] = None

    def __call__(self, prompts: Sequence[str], with_gradient: bool = False) -> Tensor:
        """Hidden states (N, 77, width), on the CPU. With gradient, on the device of `model`, and
        the prompts encoded before are forgotten. ValueError as in `expect`."""
        if with_gradient:
            self._cache.clear()
            return torch.stack([self._encode(self.model, prompt) for prompt in prompts])
        for prompt in prompts:
            if prompt not in self._cache:
                self.expect(prompt)
        if not set(prompts) <= self._cache.keys():
            self.loaded()
        return torch.stack([self._cache[prompt] for prompt in prompts])

    @torch.no_grad()
    def loaded(self) -> Any:
        """T5, in memory only while the caller keeps it. It encodes all announced prompts first."""
        model = self._load() if self._model is None else self._model
        for prompt in self._expected:
            if prompt not in self._cache:
                self._cache[prompt] = self._encode(model, prompt).cpu()
        self._expected.clear()
        return model

    def digest(self) -> str:
        """A hash of the text encoder's weights."""
        if not self._digest:
            named = sorted(self.loaded().state_dict().items())
            self._digest = sha256_of(part for pair in named for part in pair)
        return self._digest

    def _encode(self, model: Any, prompt: str) -> Tensor:
        """Encode one prompt as (77, width); one at a time, so no batch changes the bits.

        It is `IFPipeline.encode_prompt` with its default clean_caption=False, which takes words in
        lower case. Cleaning would remove words with letters and digits, as a random identifier.
        """
        text = with_all_tokens(prompt, self.tokenizer)
        tokens = self.tokenizer(
            text, padding="max_length", max_length=MAX_TOKENS, return_tensors="pt"
        ).to(model.device)
        states: Tensor = model(tokens.input_ids, tokens.attention_mask).last_hidden_state
        return states[0]


def lower_cased(tokenizer: Any) -> Any:
    """A tokenizer that reads text in lower case, as the pipeline of DeepFloyd IF writes it.

    Then a token with a capital letter, which no prompt can contain, is no rare identifier.
    """
    from tokenizers import normalizers

    backend = tokenizer.backend_tokenizer
    steps = [normalizers.Lowercase(), *([backend.normalizer] if backend.normalizer else [])]
    backend.normalizer = normalizers.Sequence(steps)
    return tokenizer
