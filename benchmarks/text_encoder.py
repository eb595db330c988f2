"""Whether the miniature's text encoder preserves all tokens, also identifiers, and all attributes.

    python benchmarks/text_encoder.py [weights_folder]

Takes about 30 seconds on one core. The folder (default: the shipped weights) holds `text_encoder`
and `tokenizer`. All numbers are computed from the states that the denoisers see:
`last_hidden_state`, 24 positions of width 128, padding included. Prints, one on each line:

- identifier probe: the accuracy of a linear probe that recognizes a rare token, one of 256, by the
  state at its position. The probe is fitted and tested on different captions.
- cosine of two rare tokens, cosine of two nouns: between the states of two tokens at the same
  position of the same caption. The median over pairs, averaged over several captions.
- mean-state distance: how far an identifier moves a prompt, relative to another noun. The distance
  from "a dog" to "a [V] dog", the median over rare tokens, divided by that from "a dog" to "a cat",
  the median over the other nouns; averaged over the ten nouns. The states of a prompt are averaged
  over its positions before distances are taken.
- full-state distance: the same, of the whole (24, 128) matrices.
- own-position distance: the same, of the state at the position after "a" only, which is that of [V]
  in "a [V] dog" and that of the noun otherwise.
- noun kept: how often the noun's state in "a [V] dog" is nearer to its state in "a dog" than to the
  state of every other noun, such as that in "a cat".
- noun distance ratio: the first of these distances divided by the least of the others; the median.
- nouns apart beside [V]: the mean-state distance of "a [V] dog" and "a [V] cat", divided by that of
  "a dog" and "a cat"; medians.
- each attribute: the accuracy of a linear probe that reads it from the averaged states, for fresh
  captions that state it.
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

SEED = 991  # not used in any training
# {} stands for a rare token or a noun. It comes last: later words do not change its state anyway.
PAIR_CAPTIONS = ("a {}", "a blue {}", "a red striped {}", "a sketch of a happy {}")


def load(folder: Path) -> PromptEncoder:
    from transformers import AutoTokenizer, CLIPTextModel

    model = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    return PromptEncoder(tokenizer, model, model.config.max_position_embeddings)


def states_of_word(encoder: PromptEncoder, prompts: Sequence[str], words: Sequence[str]) -> Tensor:
    """Return the state (N, D) of each prompt at the position of its word, which is one token."""
    ids = torch.tensor(encoder.tokenizer.convert_tokens_to_ids(list(words)))
    is_word = encoder.tokens(prompts) == ids[:, None]
    assert (is_word.sum(1) == 1).all()
    return encoder(prompts)[is_word]


def probe_accuracy(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, decay: float = 1e-4
) -> float:
    """Return the test accuracy of multinomial logistic regression on states (N, D), standardized by
    the training states."""
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
    """Put each rare token into random captions, and probe for it in captions of other scenes."""
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
    """Return the median cosine of the states of two words, averaged over `PAIR_CAPTIONS`."""
    medians = []
    for template in PAIR_CAPTIONS:
        states = states_of_word(encoder, [template.format(w) for w in words], words)
        directions = F.normalize(states, dim=-1)
        pairs = torch.ones(len(words), len(words), dtype=torch.bool).triu(1)
        medians.append((directions @ directions.T)[pairs].median())
    return float(torch.stack(medians).mean())


def distances(encoder: PromptEncoder) -> dict[str, float]:
    """Return the distances that an identifier causes, and whether the noun is kept."""
    nouns, rare = list(world.CLASSES), rare_tokens()
    bare = encoder([f"a {noun}" for noun in nouns])  # (10, 24, D)
    at = 2  # position of the noun in "[BOS] a dog", and of the identifier in "[BOS] a [V] dog"
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
        for name, (plain, with_identifier, other) in views.items():
            moved = (with_identifier - plain).norm(dim=-1).median()
            ratios[name].append(float(moved / (other - plain).norm(dim=-1).median()))
        after_identifier = named[:, at + 1]  # states of the noun after [V]
        near = (after_identifier - bare[i, at]).norm(dim=-1)
        far = (after_identifier[:, None] - others[None, :, at]).norm(dim=-1).min(1).values
        kept.append(float((near < far).float().mean()))
        noun_ratios.append(float((near / far).median()))
    results = {f"{name} distance": float(np.mean(values)) for name, values in ratios.items()}
    beside = torch.stack(means, 1)  # (256, 10, D)
    apart = torch.cdist(beside, beside)[:, *torch.triu_indices(len(nouns), len(nouns), 1)].median()
    without = F.pdist(bare.mean(1)).median()
    return results | {
        "noun kept": float(np.mean(kept)),
        "noun distance ratio": float(np.mean(noun_ratios)),
        "nouns apart beside [V]": float(apart / without),
    }


# --- attributes ------------------------------------------------------------------------------


def attribute_probes(
    encoder: PromptEncoder, num_train: int = 8000, num_test: int = 4000
) -> dict[str, float]:
    """Return the accuracy of a probe for each attribute, on captions that state it.

    Half of the captions have a rare token before the noun.
    """
    rng = np.random.default_rng([SEED, 2])
    rare = rare_tokens()
    prompts = [
        caption(random_scene(rng), rng, str(rng.choice(rare)) if rng.random() < 0.5 else "")
        for _ in range(num_train + num_test)
    ]
    states = torch.cat([encoder(prompts[i : i + 500]).mean(1) for i in range(0, len(prompts), 500)])
    stated = [prompted_values(prompt) for prompt in prompts]
    accuracies = {}
    for name, options in ATTRIBUTES.items():
        labels = torch.tensor([options.index(s[name]) if name in s else -1 for s in stated])
        train, test = torch.arange(len(prompts)).split([num_train, num_test])
        train, test = train[labels[train] >= 0], test[labels[test] >= 0]
        accuracies[name] = probe_accuracy(states[train], labels[train], states[test], labels[test])
    return accuracies


def measure(folder: Path) -> dict[str, float]:
    """Return name -> value of everything that is printed."""
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
    for name, value in measure(folder).items():
        print(f"{name:26s}{value:.4f}")


if __name__ == "__main__":
    main()
