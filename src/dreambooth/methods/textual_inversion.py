"""Textual Inversion: a new word for the subject, its vectors alone are trained.

Gal et al., arXiv 2208.01618, section 4: the denoiser and the text encoder are frozen, and

    v* = argmin_v  w_t || x_hat(alpha_t x + sigma_t eps, c(y, v)) - x ||^2

over the photos x of the subject and neutral prompts y, "a photo of a <subject>".
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreambooth.backbones.new_word import add_word, embedding_of, new_word_of
from dreambooth.backbones.stage import Backbone, Stage
from dreambooth.backbones.text_encoder import forget_prompts
from dreambooth.methods.method import TermPrompts, Trained, takes_prompt
from dreambooth.runs.values import Count, NewToken, Text
from dreambooth.subjects.prompts import PromptNames
from dreambooth.subjects.subject import Subject

EMBEDDINGS_FILE = "learned_embeds.safetensors"  # the name that diffusers looks for
# The paper's (appendix; its code's `imagenet_templates_small`, from CLIP's list for ImageNet).
TEMPLATES = (
    *("a photo of a {}", "a rendering of a {}", "a cropped photo of the {}", "the photo of a {}"),
    *("a photo of a clean {}", "a photo of a dirty {}", "a dark photo of the {}"),
    *("a photo of my {}", "a photo of the cool {}", "a close-up photo of a {}"),
    *("a bright photo of the {}", "a cropped photo of a {}", "a photo of the {}"),
    *("a good photo of the {}", "a photo of one {}", "a close-up photo of the {}"),
    *("a rendition of the {}", "a photo of the clean {}", "a rendition of a {}"),
    *("a photo of a nice {}", "a good photo of a {}", "a photo of the nice {}"),
    *("a photo of the small {}", "a photo of the weird {}", "a photo of the large {}"),
    *("a photo of a cool {}", "a photo of a small {}"),
)


@dataclass(frozen=True)
class TextualInversion:
    """A Method that trains the vectors of the new word `token`, and saves them alone.

    The word has `num_vectors` tokens, which start from the embedding of the known word `like`.
    """

    token: NewToken
    like: Text
    num_vectors: Count = 1
    stages: ClassVar[Sequence[str]] = ("base",)

    def names(self, names: PromptNames, subject: Subject, backbone: Backbone) -> PromptNames:
        if backbone.stages["base"].text_encoder is None:
            raise ValueError(
                "method=textual_inversion adds a word to the one text encoder of a model, and this "
                "model has several, or one that takes no new word: give method=dreambooth, or "
                "model=sd15"
            )
        if self.token in backbone.tokenizer.get_vocab():
            raise ValueError(
                f"method.tuning.token={self.token} is a word that the model has already: give a "
                "new one"
            )
        backbone.check_prompt(f"a {self.like}")
        for template in subject.prompts:
            backbone.check_prompt(template.format("a"))
        room = self.num_vectors
        # "a a a" takes as many tokens as three vectors.
        while not all(
            takes_prompt(backbone, t.format(" ".join(["a"] * room))) for t in subject.prompts
        ):
            room -= 1
        if room < self.num_vectors:
            raise ValueError(
                f"method.num_vectors={self.num_vectors}: the subject's longest prompt has room for "
                f"{room}, give at most that many"
            )
        return PromptNames(self.token, None, names.prior_noun, in_text=subject.class_noun)

    def prepare(self, stage: Stage) -> None:
        stage.denoiser.train().requires_grad_(False)
        if new_word_of(stage) is None:
            stage.text_encoder.requires_grad_(False)
            vector = embedding_of(stage, self.like)
            add_word(stage, self.token, vector.repeat(self.num_vectors, 1))

    def trained(self, stage: Stage) -> Trained:
        word = new_word_of(stage)
        assert word is not None, "the stage is prepared"
        return Trained(
            {"denoiser": stage.denoiser, "text_encoder": stage.text_encoder},
            [{"params": [word.vectors]}],
            changes_prompts=True,
            after_step=word.keep_scale,
        )

    def prompts(self, names: PromptNames, backbone: Backbone) -> TermPrompts:
        """The neutral prompts whose words the model knows, else "a <subject>"."""
        every = [template.format(names.subject) for template in TEMPLATES]
        known = [prompt for prompt in every if takes_prompt(backbone, prompt, names.identifier)]
        return TermPrompts(known or [names.subject_prompt], [])

    def state(self, stage: Stage) -> dict[str, Tensor]:
        (vectors,) = self.trained(stage).parameters
        return {self.token: vectors.detach().cpu().clone()}

    def load_state(self, stage: Stage, state: Mapping[str, Tensor]) -> None:
        self.prepare(stage)
        (vectors,) = self.trained(stage).parameters
        with torch.no_grad():
            vectors.copy_(state[self.token])
        forget_prompts(stage)

    def save(self, backbone: Backbone, folder: Path) -> None:
        """Save the vectors (n, width) as diffusers' `load_textual_inversion` reads them."""
        save_file(self.state(backbone.stages["base"]), folder / EMBEDDINGS_FILE)

    def load(self, pretrained: Callable[..., Backbone], folder: Path) -> Backbone:
        backbone = pretrained()
        for stage in backbone.stages.values():
            self.load_state(stage, load_file(folder / EMBEDDINGS_FILE))
            stage.denoiser.eval()
        return backbone
