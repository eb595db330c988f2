"""Whether the miniature's text encoder keeps every token, identifiers too, and every attribute.

    python benchmarks/text_encoder.py [weights_folder]

About 30 seconds on one core. The folder (default: the shipped weights) holds `text_encoder` and
`tokenizer`. All figures are taken from the states that the denoisers see: `last_hidden_state`,
24 positions of width 128, padding included. It prints, one a line:

- identifier probe: accuracy of a linear probe that names the rare token (of all 256) from the state
  at its position, fitted on some captions and tested on others;
- cosine of two rare tokens, of two nouns: the states of two tokens at one position of one caption;
  the median over pairs, over several captions;
- mean-state distance and full-state distance: of the states averaged over the positions, and of the
  (24, 128) matrices: from "a dog" to "a [V] dog", the median over rare tokens, as a multiple of the
  distance from "a dog" to "a cat", the median over nouns; each the mean over the ten nouns;
- own-position distance: the same of one position's state, [V] against the noun that stands there
  without it, as a multiple of noun against noun;
- noun kept: how often the noun's state in "a [V] dog" is closer to that in "a dog" than to that of
  every other noun in "a cat"; and the ratio of the two distances, the median;
- nouns apart beside [V]: the mean-state distance of "a [V] dog" to "a [V] cat", as a multiple of
  that of "a dog" to "a cat"; medians;
- each attribute: accuracy of a linear probe that reads it from the averaged states of a fresh
  caption that states it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dreambooth import miniature
from dreambooth.backbones.cascade import PromptEncoder
from dreambooth.miniature import world
from dreambooth.miniature.oracle import ATTRIBUTES, prompted_values
from dreambooth.miniature.tokenizer import rare_tokens
from dreambooth.miniature.world import caption, random_scene

SEED = 991  # of no training
# A rare token, or a noun, takes the place of {}; what follows it cannot change its state.
PAIR_CAPTIONS = ("a {}", "a blue {}", "a red striped {}", "a sketch of a happy {}")


def load(folder: Path) -> PromptEncoder:
    from transformers import AutoTokenizer, CLIPTextModel

    model = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    return PromptEncoder(tokenizer, model, model.config.max_position_embeddings)


def states_of_word(encoder: PromptEncoder, prompts: Sequence[str], words: Sequence[str]) -> Tensor:
    """The state (N, D) of each prompt at the position of its word, which is one token."""
    ids = torch.tensor(encoder.tokenizer.convert_tokens_to_ids(list(words)))
    here = encoder.tokens(prompts) == ids[:, None]
    assert (here.sum(1) == 1).all()
    return encoder(prompts)[here]


def probe_accuracy(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, decay: float = 1e-4
) -> float:
    """Of multinomial logistic regression on states (N, D), standardized by the training ones."""
    mean, std = train.mean(0), train.std(0) + 1e-6
    x, y = (train - mean) / std, train_labels
    num_classes = int(max(train_labels.max(), test_labels.max())) + 1
    weight = torch.zeros(num_classes, x.shape[1], requires_grad=True)
    bias = torch.zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(x, weight, bias), y) + decay * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        best = F.linear((test - mean) / std, weight, bias).argmax(1)
    return float((best == test_labels).float().mean())


# --- identifiers -----------------------------------------------------------------------------


def identifier_probe(encoder: PromptEncoder, train_captions: int = 12, captions: int = 4) -> float:
    """Each rare token is put into random captions of its own; the test's are of other scenes."""
    rng = np.random.default_rng([SEED, 1])
    rare = rare_tokens()
    states, labels = [], []
    for count in (train_captions, captions):
        words = [token for token in rare for _ in range(count)]
        prompts = [caption(random_scene(rng), rng, word) for word in words]
        states.append(states_of_word(encoder, prompts, words))
        labels.append(torch.arange(len(rare)).repeat_interleave(count))
    return probe_accuracy(states[0], labels[0], states[1], labels[1])


def median_cosine(encoder: PromptEncoder, words: Sequence[str]) -> float:
    """Between states of two of the words at one position; the mean over `PAIR_CAPTIONS`."""
    found = []
    for template in PAIR_CAPTIONS:
        states = states_of_word(encoder, [template.format(w) for w in words], words)
        directions = F.normalize(states, dim=-1)
        pairs = torch.ones(len(words), len(words), dtype=torch.bool).triu(1)
        found.append((directions @ directions.T)[pairs].median())
    return float(torch.stack(found).mean())


def distances(encoder: PromptEncoder) -> dict[str, float]:
    """Of "a dog" to "a [V] dog", as multiples of "a dog" to "a cat"; what happens to the noun."""
    nouns, rare = list(world.CLASSES), rare_tokens()
    bare = encoder([f"a {noun}" for noun in nouns])  # (10, 24, D)
    at = 2  # the noun's position in "[BOS] a dog", and the identifier's in "[BOS] a [V] dog"
    ratios: dict[str, list[float]] = {"mean-state": [], "full-state": [], "own-position": []}
    kept, noun_ratios, means = [], [], []
    for i, noun in enumerate(nouns):
        named = encoder([f"a {token} {noun}" for token in rare])  # (256, 24, D)
        means.append(named.mean(1))
        others = torch.cat([bare[:i], bare[i + 1 :]])
        views = {
            "mean-state": (bare[i].mean(0), named.mean(1), others.mean(1)),
            "full-state": (bare[i].flatten(), named.flatten(1), others.flatten(1)),
            "own-position": (bare[i, at], named[:, at], others[:, at]),
        }
        for name, (itself, with_identifier, other) in views.items():
            moved = (with_identifier - itself).norm(dim=-1).median()
            ratios[name].append(float(moved / (other - itself).norm(dim=-1).median()))
        here = named[:, at + 1]  # the noun's state after [V]
        near = (here - bare[i, at]).norm(dim=-1)
        far = (here[:, None] - others[None, :, at]).norm(dim=-1).min(1).values
        kept.append(float((near < far).float().mean()))
        noun_ratios.append(float((near / far).median()))
    found = {f"{name} distance": float(np.mean(values)) for name, values in ratios.items()}
    beside = torch.stack(means, 1)  # (256, 10, D)
    apart = torch.cdist(beside, beside)[:, *torch.triu_indices(len(nouns), len(nouns), 1)].median()
    without = F.pdist(bare.mean(1)).median()
    return found | {
        "noun kept": float(np.mean(kept)),
        "noun distance ratio": float(np.mean(noun_ratios)),
        "nouns apart beside [V]": float(apart / without),
    }


# --- attributes ------------------------------------------------------------------------------


def attribute_probes(
    encoder: PromptEncoder, num_train: int = 8000, num_test: int = 4000
) -> dict[str, float]:
    """Accuracy of each attribute where the caption states it; half of the captions hold a rare
    token before the noun."""
    rng = np.random.default_rng([SEED, 2])
    rare = rare_tokens()
    prompts = [
        caption(random_scene(rng), rng, str(rng.choice(rare)) if rng.random() < 0.5 else "")
        for _ in range(num_train + num_test)
    ]
    states = torch.cat([encoder(prompts[i : i + 500]).mean(1) for i in range(0, len(prompts), 500)])
    stated = [prompted_values(prompt) for prompt in prompts]
    found = {}
    for name, options in ATTRIBUTES.items():
        labels = torch.tensor([options.index(s[name]) if name in s else -1 for s in stated])
        train, test = torch.arange(len(prompts)).split([num_train, num_test])
        train, test = train[labels[train] >= 0], test[labels[test] >= 0]
        found[name] = probe_accuracy(states[train], labels[train], states[test], labels[test])
    return found


def measured(folder: Path) -> dict[str, float]:
    """What is printed."""
    encoder = load(folder)
    return {
        "identifier probe": identifier_probe(encoder),
        "cosine of two rare tokens": median_cosine(encoder, rare_tokens()),
        "cosine of two nouns": median_cosine(encoder, world.CLASSES),
        **distances(encoder),
        **attribute_probes(encoder),
    }


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else miniature.WEIGHTS
    for name, value in measured(folder).items():
        print(f"{name:26s}{value:.4f}")


if __name__ == "__main__":
    main()
