"""The miniature's text encoder and its pretraining, on captions alone.

As in Imagen, the text encoder is trained before the denoisers and then frozen. Of a prompt the
denoisers see the hidden states of all 24 positions, padding included. These states must hold what
the words mean *and* which tokens they are. In T5 and CLIP a rare token has a state of its own; an
encoder that learns only to predict a scene's attributes erases it, since it says nothing about the
scene. "a dog" and "a [V] dog" are then one condition, and the two terms of DreamBooth's loss
contradict each other.
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
EMPTY_SHARE = 0.02  # of the captions
IDENTIFIER_SHARE = 0.5  # of the captions; the denoisers' captions have a small share of their own
NOUNLESS_SHARE = 0.1  # of the captions with an identifier
TOKENS_WEIGHT = 1.0  # of the loss of the tokens; that of the attributes has weight 1
CURRENT_TOKEN_SHARE = 0.5  # of what a word's position must hold: the token itself


def new_text_encoder() -> Any:
    """A transformers `CLIPTextModel` of 0.46 M parameters: ids (B, 24) to states (B, 24, 128)."""
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
    # Wide from the start, so that no token begins near another.
    nn.init.normal_(model.get_input_embeddings().weight, std=0.25)
    return model


# --- captions --------------------------------------------------------------------------------

_RARE = rare_tokens()
_CHARACTERS = list(string.ascii_lowercase + string.digits)


def meaningless_identifier(rng: np.random.Generator) -> str:
    """One rare token (5 of 8), two or three different ones (2 of 8), or 3 to 9 random letters and
    digits (1 of 8)."""
    kind = int(rng.integers(8))
    if kind == 0:
        return "".join(rng.choice(_CHARACTERS, int(rng.integers(3, 10))))
    count = 1 if kind <= 5 else int(rng.integers(2, 4))
    return " ".join(rng.choice(_RARE, count, replace=False))


def random_caption(
    scene: Scene,
    rng: np.random.Generator,
    empty_share: float = EMPTY_SHARE,
    identifier_share: float = IDENTIFIER_SHARE,
) -> str:
    """A caption as `world.caption` makes it, or an empty one; some of them with an identifier.

    In some the identifier takes the noun's place ("a red [V] in the snow"), so that one alone
    comes to mean no class in particular.
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
    """Batch number `step`: captions of new scenes, drawn from (seed, step) alone, so that a killed
    training resumes exactly.

    A batch: `tokens` (B, MAX_TOKENS); `labels`, each (B,): every attribute of the scene as in
    `oracle.ATTRIBUTES`, whether the caption states it or not.
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
    """Which tokens each position of `tokens` (B, T) must hold: shares (B, T, V) that sum to 1.

    At a word, the token itself gets `CURRENT_TOKEN_SHARE`; the distinct tokens up to and including
    it share the rest equally. At padding, the caption's distinct tokens share equally. The first
    token of each caption must not be padding.
    """
    itself = F.one_hot(tokens, VOCABULARY_SIZE).float()  # (B, T, V)
    itself[..., pad_id] = 0
    read = itself.cumsum(1).clamp(max=1)
    read = read / read.sum(2, keepdim=True)
    padding = (tokens == pad_id)[..., None]  # (B, T, 1)
    return torch.where(
        padding, read, CURRENT_TOKEN_SHARE * itself + (1 - CURRENT_TOKEN_SHARE) * read
    )


class TextPretraining(L.LightningModule):
    """What linear maps must read from the states h_1 .. h_T (B, T, D) of a caption:

        loss = CE(A mean_i h_i, attributes) + TOKENS_WEIGHT mean_i KL(shares_i || softmax(W h_i))

    The first term is averaged over the scene's attributes; `token_targets` gives shares_i. It takes
    the place of masked-token prediction, which has little to predict here: the attributes of a
    scene are independent, and an identifier follows from no other word.
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
        shares = token_targets(batch["tokens"], self.text_encoder.config.pad_token_id)  # (B, T, V)
        log_p = self.tokens(states).float().log_softmax(2)
        tokens = F.kl_div(log_p, shares, reduction="none").sum(2).mean()
        loss = attributes + TOKENS_WEIGHT * tokens
        self.log_dict({"attributes": attributes, "tokens": tokens}, prog_bar=True)
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        # Lightning's own clipping refuses fused optimizers, which are faster.
        nn.utils.clip_grad_norm_(self.parameters(), 1.0)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.lr, total_steps=self.num_steps + 1, pct_start=0.1
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
