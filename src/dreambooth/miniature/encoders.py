"""The miniature's CLIP and DINO, and their pretraining on drawn scenes.

CLIP (arXiv 2103.00020) learns from pictures and captions; it may ignore what no caption states.
DINO (arXiv 2104.14294) learns from pictures alone, by giving views of one picture similar features.
Which scenes show the same individual is never part of its training. Both are saved in the formats
of their libraries.
"""

import copy
import json
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreambooth.metrics.encoders import IMAGENET_MEAN, IMAGENET_STD
from dreambooth.miniature.fitting import decaying_adamw
from dreambooth.miniature.oracle_pretraining import roughen
from dreambooth.miniature.tokenizer import MAX_TOKENS, VOCABULARY_SIZE, build_tokenizer

IMAGE_PX = 64
MIDDLE_PX, LOCAL_PX, NUM_LOCAL = 48, 32, 2
PROTOTYPES = 1024
SPREAD_WEIGHT = 0.1  # weight of the KoLeo loss, as in DINOv2 (arXiv 2304.07193, section 4)
CLIP_CONFIG: dict[str, Any] = {
    "embed_dim": 96,
    "vision_cfg": {
        "image_size": IMAGE_PX,
        "layers": [1, 1, 1, 1],
        "width": 20,
        "head_width": 64,
    },
    "text_cfg": {
        "context_length": MAX_TOKENS,
        "vocab_size": VOCABULARY_SIZE,
        "width": 64,
        "heads": 2,
        "layers": 2,
        "pool_type": "eos",
        "eos_id": 2,
        "hf_tokenizer_name": "miniature",  # makes open_clip take the tokenizer beside the weights
    },
}
# Maps pictures from [0, 1] to [-1, 1].
CLIP_PREPROCESSING = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}


# --- CLIP ------------------------------------------------------------------------------------


def new_clip() -> Any:
    from open_clip import CLIP

    return CLIP(**CLIP_CONFIG).to(memory_format=torch.channels_last)


def save_clip(model: Any, folder: Path) -> None:
    """Save in half precision, in open_clip's `local-dir:` layout, with the tokenizer beside it."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    config = {"model_cfg": CLIP_CONFIG, "preprocess_cfg": CLIP_PREPROCESSING}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    build_tokenizer().save_pretrained(folder)


class ClipPretraining(L.LightningModule):
    """Trains CLIP by its contrastive loss, which is symmetric in pictures and captions.

    The image encoder is a ResNet: on a CPU a ViT takes several times as long to learn.
    """

    def __init__(self, model: Any, num_steps: int, lr: float = 1e-3):
        from open_clip import ClipLoss

        super().__init__()
        self.model, self.num_steps, self.lr = model, num_steps, lr
        self.contrast = ClipLoss()

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        noise = torch.Generator().manual_seed(batch["step"])
        pictures = roughen(batch["images"], noise).to(memory_format=torch.channels_last)
        images = self.model.encode_image(pictures)
        texts = self.model.encode_text(batch["tokens"])
        with torch.autocast(images.device.type, enabled=False):
            images, texts = F.normalize(images.float(), dim=-1), F.normalize(texts.float(), dim=-1)
            # The scale is at most 100, as in CLIP.
            loss = self.contrast(images, texts, self.model.logit_scale.exp().clamp(max=100.0))
        self.log("loss", loss, prog_bar=True)
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        nn.utils.clip_grad_norm_(self.parameters(), 1.0)

    def configure_optimizers(self) -> Any:
        return decaying_adamw(self.parameters(), self.lr, self.num_steps)


# --- DINO ------------------------------------------------------------------------------------


def new_dino() -> Any:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=384,
        image_size=IMAGE_PX,
        patch_size=16,
        layer_norm_eps=1e-6,
    )
    return ViTModel(config, add_pooling_layer=False)


def to_dino_input(images: Tensor) -> Tensor:
    """Normalize [-1, 1] (B, 3, H, W) by ImageNet's mean and std, as DINO's extractor does."""
    mean = torch.tensor(IMAGENET_MEAN, device=images.device)[:, None, None]
    std = torch.tensor(IMAGENET_STD, device=images.device)[:, None, None]
    return (images / 2 + 0.5 - mean) / std


def uniform(low: float, high: float, shape: tuple[int, ...], noise: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=noise)


def crop(
    images: Tensor, size_px: int, side: tuple[float, float], reach: float, noise: torch.Generator
) -> Tensor:
    """Cut a square out of each image (B, 3, H, H), turned by up to 10 degrees; mirror half of them.

    `side`: the least and greatest side of the square, as a fraction of the image's side. `reach`:
    how far the square may be from the image's centre; 0 is the centre, and at 1 it may touch the
    image's border.
    """
    n = len(images)
    length = uniform(*side, (n,), noise)
    angle = uniform(-10, 10, (n,), noise).deg2rad()
    mirror = torch.where(torch.rand(n, generator=noise) < 0.5, -1.0, 1.0)
    centre = uniform(-reach, reach, (n, 2), noise) * (1 - length)[:, None]
    cos, sin = length * angle.cos(), length * angle.sin()
    rows = [cos * mirror, -sin, centre[:, 0], sin * mirror, cos, centre[:, 1]]
    theta = torch.stack(rows, 1).view(n, 2, 3).to(images)
    grid = F.affine_grid(theta, [n, 3, size_px, size_px], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def erase_surroundings(images: Tensor, noise: torch.Generator) -> Tensor:
    """Paint one random colour over each image (B, 3, H, W), except in an ellipse about its centre.

    The subject is in the middle of a picture, so this removes mostly the background.
    """
    n, _, height, width = images.shape
    y, x = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    radius = uniform(0.45, 0.8, (n, 2, 1, 1), noise)
    centre = uniform(-0.1, 0.1, (n, 2, 1, 1), noise)
    across, down = (x - centre[:, :1]) / radius[:, :1], (y[:, None] - centre[:, 1:]) / radius[:, 1:]
    kept = torch.sigmoid(12 * (1 - across**2 - down**2)).to(images)  # (n, 1, H, W), a soft edge
    colour = uniform(-1, 1, (n, 3, 1, 1), noise).to(images)
    return colour + kept * (images - colour)


def tint(images: Tensor, noise: torch.Generator) -> Tensor:
    """Change saturation, contrast and brightness at random, but not the hue."""
    each = (len(images), 1, 1, 1)
    grey = images.mean(1, keepdim=True)
    pale = uniform(0, 0.35, each, noise).to(images)
    contrast = uniform(0.85, 1.1, each, noise).to(images)
    light = uniform(-0.1, 0.15, each, noise).to(images)
    return ((images + pale * (grey - images)) * contrast + light).clamp(-1, 1)


def views(images: Tensor, noise: torch.Generator) -> list[Tensor]:
    """Return random views of images [-1, 1] (B, 3, 64, 64):

    - two (B, 3, 48, 48) of the middle, with the surroundings erased;
    - one (B, 3, 64, 64) of nearly the whole image;
    - `NUM_LOCAL` (B, 3, 32, 32) of small parts.

    `noise` is a CPU generator, so that the draws are the same on every device.
    """
    middle = [
        crop(erase_surroundings(images, noise), MIDDLE_PX, (0.6, 0.85), 0.3, noise)
        for _ in range(2)
    ]
    whole = crop(images, IMAGE_PX, (0.8, 1.0), 1.0, noise)
    local = [crop(images, LOCAL_PX, (0.35, 0.6), 0.3, noise) for _ in range(NUM_LOCAL)]
    return [roughen(tint(view, noise), noise) for view in (*middle, whole, *local)]


class DinoPretraining(L.LightningModule):
    """Trains DINO by self-distillation: the student must predict from each view what the teacher
    outputs for the other views.

    The teacher is the moving average of the student. It sees only the two views of the middle, so
    its outputs are about the subject; to predict them from the whole picture, the student must
    ignore the background. The KoLeo loss keeps the features of a batch apart; without it they
    collapse to a few dimensions.

    `model` is the student's encoder. `fit` leaves the moving average of its weights in it, as DINO
    keeps its teacher.
    """

    def __init__(self, model: Any, num_steps: int, lr: float = 1e-3):
        from lightly.loss import DINOLoss, KoLeoLoss
        from lightly.models.modules import DINOProjectionHead
        from lightly.models.utils import deactivate_requires_grad

        super().__init__()
        self.model, self.num_steps, self.lr = model, num_steps, lr
        width = model.config.hidden_size
        self.head = DINOProjectionHead(width, 256, 64, PROTOTYPES)
        # weight_norm recomputes this tensor in each forward; deepcopy refuses it, as it is no leaf.
        del self.head.last_layer.weight
        self.teacher, self.teacher_head = copy.deepcopy(self.model), copy.deepcopy(self.head)
        for part in (self.teacher, self.teacher_head):
            deactivate_requires_grad(part)
        self.distance, self.spread = DINOLoss(PROTOTYPES), KoLeoLoss()

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        self._update_teacher(batch["step"])
        noise = torch.Generator().manual_seed(batch["step"])
        inputs = [to_dino_input(view) for view in views(batch["images"], noise)]
        middle, whole, local = torch.cat(inputs[:2]), inputs[2], torch.cat(inputs[3:])
        with torch.no_grad():
            targets = self.teacher_head(_cls(self.teacher, middle)).float()
        states = torch.cat([_cls(self.model, x) for x in (middle, whole, local)])
        predicted = self.head(states).float()
        with torch.autocast(predicted.device.type, enabled=False):
            loss = self.distance(list(targets.chunk(2)), list(predicted.chunk(len(inputs))))
            for view in states.float().split(len(batch["images"]))[:2]:
                loss = loss + SPREAD_WEIGHT / 2 * self.spread(view)
        self.log("loss", loss, prog_bar=True)
        return loss

    def _update_teacher(self, step: int) -> None:
        # At the start of a step: a hook at its end would run after the checkpoint is written.
        from lightly.models.utils import update_momentum
        from lightly.utils.scheduler import cosine_schedule

        momentum = cosine_schedule(step, self.num_steps, 0.98, 1.0)
        update_momentum(self.model, self.teacher, momentum)
        update_momentum(self.head, self.teacher_head, momentum)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        nn.utils.clip_grad_norm_(self.parameters(), 1.0)

    def configure_optimizers(self) -> Any:
        trainable = [p for p in self.parameters() if p.requires_grad]
        return decaying_adamw(trainable, self.lr, self.num_steps)


def _cls(model: Any, images: Tensor) -> Tensor:
    return model(images, interpolate_pos_encoding=True).last_hidden_state[:, 0]
