"""The miniature's text encoder and its pretraining, on captions alone.

As in Imagen, the text encoder is trained before the denoisers and then frozen. The denoisers see
the hidden states of all 24 positions, padding included. These states must encode what the words
mean *and* which tokens they are. In T5 and CLIP every rare token has a distinct state. An encoder
that learns only to predict a scene's attributes loses the difference, because a rare token says
nothing about the scene. The prompts "a dog" and "a [V] dog" then give the same conditioning, and
the two terms of DreamBooth's loss contradict each other.
"""

import string
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from dreambooth.miniature.oracle import ATTRIBUTES, scene_labels
from dreambooth.miniature.tokenizer import MAX_TOKENS, VOCABULARY_SIZE, rare_tokens
from dreambooth.miniature.world import Scene, caption, random_scene

TEXT_WIDTH = 128
EMPTY_SHARE = 0.02  # of all captions
TEXT_IDENTIFIER_SHARE = 0.5  # of the captions that are not empty; denoisers see fewer
NOUNLESS_SHARE = 0.1  # of the captions with an identifier
TOKENS_WEIGHT = 1.0  # weight of the loss of the tokens; that of the attributes has weight 1
CURRENT_TOKEN_SHARE = 0.5  # of the target probability at a word: on its token alone


def new_text_encoder() -> Any:
    """Return transformers' `CLIPTextModel` with 0.46 M parameters: (B, 24) ids to (B, 24, 128)."""
    from transformers import CLIPTextConfig, CLIPTextModel

    model = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=VOCABULARY_SIZE,
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    # A large standard deviation keeps the tokens apart from the start.
    nn.init.normal_(model.get_input_embeddings().weight, std=0.25)
    return model


# --- captions --------------------------------------------------------------------------------

_RARE = rare_tokens()
_CHARACTERS = list(string.ascii_lowercase + string.digits)


def meaningless_identifier(rng: np.random.Generator) -> str:
    """Return a random identifier: one rare token (probability 5/8), two or three different rare
    tokens (2/8), or 3 to 9 random letters and digits (1/8)."""
    kind = int(rng.integers(8))
    if kind == 0:
        return "".join(rng.choice(_CHARACTERS, int(rng.integers(3, 10))))
    count = 1 if kind <= 5 else int(rng.integers(2, 4))
    return " ".join(rng.choice(_RARE, count, replace=False))


def random_caption(
    scene: Scene,
    rng: np.random.Generator,
    empty_share: float = EMPTY_SHARE,
    identifier_share: float = TEXT_IDENTIFIER_SHARE,
) -> str:
    """Return an empty caption or one of `world.caption`, with a meaningless identifier in some.

    In a few captions the identifier replaces the noun, as in "a red [V] in the snow", so that an
    identifier without a noun does not mean any class.
    """
    if rng.random() < empty_share:
        return ""
    if rng.random() >= identifier_share:
        return caption(scene, rng)
    identifier, noun = meaningless_identifier(rng), scene.individual.class_noun
    text = caption(scene, rng, identifier)
    if rng.random() < NOUNLESS_SHARE:
        text = text.replace(f"{identifier} {noun}", identifier)
    return text


class CaptionBatches(Dataset[dict[str, Any]]):
    """Batch number `step`, captions of new scenes. It depends on (seed, step) only, so a killed
    training resumes exactly.

    A batch holds `tokens` (B, MAX_TOKENS) and `labels`, each (B,), of every attribute of the scene
    (`oracle.ATTRIBUTES`), whether the caption states it or not.
    """

    def __init__(
        self,
        tokenize: Callable[[Sequence[str]], Tensor],
        batch_size: int,
        num_steps: int,
        seed: int,
    ):
        self.tokenize, self.batch_size = tokenize, batch_size
        self.num_steps, self.seed = num_steps, seed

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, step: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, step])
        scenes = [random_scene(rng) for _ in range(self.batch_size)]
        labels = [scene_labels(scene) for scene in scenes]
        return {
            "tokens": self.tokenize([random_caption(scene, rng) for scene in scenes]),
            "labels": {k: torch.tensor([row[k] for row in labels]) for k in ATTRIBUTES},
        }


# --- training --------------------------------------------------------------------------------


def token_targets(tokens: Tensor, pad_id: int) -> Tensor:
    """Return the distribution (B, T, V) over tokens that each position of `tokens` (B, T) must
    predict.

    At a word, `CURRENT_TOKEN_SHARE` of the probability is on its token; the rest is uniform over
    the distinct tokens from the first to this one. At padding, it is uniform over the distinct
    tokens of the caption. The first token of each caption must not be padding.
    """
    current = F.one_hot(tokens, VOCABULARY_SIZE).float()  # (B, T, V)
    current[..., pad_id] = 0
    so_far = current.cumsum(1).clamp(max=1)
    so_far = so_far / so_far.sum(2, keepdim=True)
    padding = (tokens == pad_id)[..., None]  # (B, T, 1)
    at_word = CURRENT_TOKEN_SHARE * current + (1 - CURRENT_TOKEN_SHARE) * so_far
    return torch.where(padding, so_far, at_word)


class TextPretraining(L.LightningModule):
    """Trains the text encoder and linear maps A and W, which read its states h_1 .. h_T (B, T, D):

        loss = CE(A mean_i h_i, attributes) + TOKENS_WEIGHT mean_i KL(q_i || softmax(W h_i))

    The first term is averaged over the scene's attributes. The second term makes position i predict
    the distribution q_i of `token_targets`. It replaces masked-token prediction, which has little
    to predict here: the attributes of a scene are independent, and no other word predicts an
    identifier.
    """

    def __init__(self, text_encoder: Any, num_steps: int, lr: float = 2e-3):
        super().__init__()
        self.text_encoder, self.num_steps, self.lr = text_encoder, num_steps, lr
        self.attributes = nn.ModuleDict(
            {k: nn.Linear(TEXT_WIDTH, len(values)) for k, values in ATTRIBUTES.items()}
        )
        self.tokens = nn.Linear(TEXT_WIDTH, VOCABULARY_SIZE)

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        states = self.text_encoder(batch["tokens"]).last_hidden_state  # (B, T, D)
        mean, labels = states.mean(1), batch["labels"]
        attributes = torch.stack(
            [F.cross_entropy(head(mean), labels[k]) for k, head in self.attributes.items()]
        ).mean()
        q = token_targets(batch["tokens"], self.text_encoder.config.pad_token_id)  # (B, T, V)
        log_p = self.tokens(states).float().log_softmax(2)
        tokens = F.kl_div(log_p, q, reduction="none").sum(2).mean()
        loss = attributes + TOKENS_WEIGHT * tokens
        self.log_dict({"attributes": attributes, "tokens": tokens}, prog_bar=True)
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        # Lightning's gradient clipping refuses fused optimizers, which are faster.
        nn.utils.clip_grad_norm_(self.parameters(), 1.0)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.lr, total_steps=self.num_steps + 1, pct_start=0.1
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
