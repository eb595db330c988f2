"""DINO and CLIP features and LPIPS distances, each with a description of its protocol.

Images are uint8 (3, H, W), RGB, of any size; each class resizes and normalises them itself. PIL
does the resizing: its bicubic filter is antialiased and rounds to 8 bits, as in the original code
of DINO and in open_clip's transform. Resizing float tensors would change the scores slightly.
`device` is a torch device, or "auto" for CUDA if available.
"""

import hashlib
from collections.abc import Callable, Iterable
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from dreambooth.distributed.ranks import merge_over_ranks, num_ranks, rank
from dreambooth.metrics.weights import load_clip, load_lpips, load_vit, weights_sha
from dreambooth.runs.files import atomic_file

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LPIPS_MIN_PX = 32  # AlexNet cannot pool the features of smaller images


class DinoEncoder:
    """DINO features (paper, section 6): the CLS token of the last layer after its LayerNorm.

    `pretrained`: the Hugging Face id or the folder of any ViT in the transformers layout. Images
    are resized to `resize_px` on the shorter side and centre-cropped to `crop_px`. Uses mixed
    precision on CUDA. `cache`: a folder that stores features by image content.
    ValueError if the weights are unavailable or incomplete, or do not fit `crop_px`.
    """

    def __init__(
        self,
        pretrained: str | Path = "facebook/dino-vits16",
        batch_size: int = 32,
        device: str | torch.device = "cpu",
        resize_px: int = 256,
        crop_px: int = 224,
        cache: str | Path | None = None,
    ):
        from torchvision import transforms as T

        device = _torch_device(device)
        model = load_vit(pretrained).requires_grad_(False).eval().to(device)
        settings = model.config
        if not crop_px == settings.image_size <= resize_px:
            raise ValueError(
                f"resize_px={resize_px}, crop_px={crop_px} do not fit the DINO encoder "
                f"{str(pretrained)!r}: it needs crop_px={settings.image_size} <= resize_px"
            )
        name = Path(pretrained).name if Path(pretrained).exists() else pretrained
        self.protocol = (
            f"DINO: CLS token of {name} (ViT, {settings.num_hidden_layers} layers, patch "
            f"{settings.patch_size}; {weights_sha(model)}); {resize_px} px on the shorter side "
            f"(PIL bicubic, antialiased), centre crop {crop_px} px, ImageNet mean and std; "
            f"{_precision(device)}"
        )
        resize = T.Resize(resize_px, T.InterpolationMode.BICUBIC)
        normalise = T.Normalize(IMAGENET_MEAN, IMAGENET_STD)
        to_input = T.Compose([_to_pil, resize, T.CenterCrop(crop_px), T.ToTensor(), normalise])
        self._features = CachedFeatures(
            prepare=to_input,
            forward=lambda x: model(x).last_hidden_state[:, 0],
            key=_content_sha,
            size=settings.hidden_size,
            batch_size=batch_size,
            device=device,
            folder=_cache_folder(cache, self.protocol),
        )

    def images(self, images: Iterable[Tensor]) -> Tensor:
        """Encode images, uint8 (3, H, W) of any sizes: (N, D) float32, unit length, on the CPU."""
        return self._features(images)


class ClipEncoder:
    """CLIP features through open_clip, with the model's own preprocessing.

    `model`: an open_clip name, with the tag or checkpoint file of its weights in `pretrained`; or a
    folder with open_clip_config.json and weights (`pretrained` is then unused). A checkpoint file
    does not name its activation: for OpenAI's weights use a model name ending in "-quickgelu".
    `tokenize`: texts -> ids (N, context length), for a model without open_clip's tokenizer.
    Uses mixed precision on CUDA. `cache`: a folder that stores features by image content.
    ValueError if the weights are unavailable or do not fit the model.
    """

    def __init__(
        self,
        model: str | Path = "ViT-B-32",
        pretrained: str | Path = "openai",
        batch_size: int = 32,
        device: str | torch.device = "cpu",
        tokenize: Callable[[list[str]], Tensor] | None = None,
        cache: str | Path | None = None,
    ):
        from open_clip.transform import PreprocessCfg, image_transform_v2
        from open_clip.transformer import QuickGELU

        device = _torch_device(device)
        clip, self._tokenize = load_clip(model, pretrained, tokenize)
        clip.requires_grad_(False).eval().to(device)
        self._vocabulary_size = clip.vocab_size
        name = Path(model).name if Path(model).is_dir() else f"{model} {Path(pretrained).name}"
        gelu = "QuickGELU" if any(isinstance(m, QuickGELU) for m in clip.modules()) else "GELU"
        settings = PreprocessCfg(**clip.visual.preprocess_cfg)
        shape = settings.input_size
        mean, std = (", ".join(f"{c:.4g}" for c in cs) for cs in (settings.mean, settings.std))
        self.protocol = (
            f"CLIP: {name} (open_clip, {gelu}; {weights_sha(clip)}); {shape[1]}x{shape[2]} px "
            f"(resize mode {settings.resize_mode}, PIL {settings.interpolation}, antialiased), "
            f"mean {mean}, std {std}; {_precision(device)}"
        )
        to_input = image_transform_v2(settings, is_train=False)
        size = clip.visual(torch.zeros(1, *shape, device=device)).shape[1]
        self._features = CachedFeatures(
            prepare=lambda image: to_input(_to_pil(image)),
            forward=clip.encode_image,
            key=_content_sha,
            size=size,
            batch_size=batch_size,
            device=device,
            folder=_cache_folder(cache, self.protocol),
        )
        self._text_features = CachedFeatures(
            self._ids, clip.encode_text, str, size, batch_size, device
        )

    def images(self, images: Iterable[Tensor]) -> Tensor:
        """Encode images, uint8 (3, H, W) of any sizes: (N, D) float32, unit length, on the CPU."""
        return self._features(images)

    def texts(self, texts: Iterable[str]) -> Tensor:
        """Encode texts: (N, D) float32, unit length, on the CPU. Long texts are truncated."""
        return self._text_features(texts)

    def _ids(self, text: str) -> Tensor:
        (ids,) = self._tokenize([text])
        if ids.max() >= self._vocabulary_size:
            raise ValueError(
                f"the tokenizer gives {text!r} the id {ids.max()}, but the CLIP model knows "
                f"{self._vocabulary_size} ids: give tokenize=, the tokenizer it was trained with"
            )
        return ids


class LpipsDistance:
    """LPIPS (arXiv 1801.03924) with torchmetrics' network, in float32, without resizing.

    `net`: "alex", "vgg" or "squeeze". The linear weights come with torchmetrics. The backbone is
    torchvision's, from the file `backbone` or from $TORCH_HOME/hub/checkpoints, where it is
    downloaded if missing. ValueError if the weights are unavailable or incomplete.
    """

    def __init__(
        self,
        net: str = "alex",
        batch_size: int = 32,
        device: str | torch.device = "cpu",
        backbone: str | Path | None = None,
    ):
        device = _torch_device(device)
        self._network = load_lpips(net, backbone).requires_grad_(False).to(device)
        self._batch_size, self._device = _positive(batch_size), device
        weights = f"torchmetrics, {weights_sha(self._network)}"
        self.protocol = f"LPIPS: {net} ({weights}); images at their own size; float32"

    def pairs(self, a: Iterable[Tensor], b: Iterable[Tensor]) -> Tensor:
        """Distances of a[i] and b[i], uint8 (3, H, W) of the same size: (N,) float32, >= 0."""
        distances = [torch.empty(0)]
        for _, same_size in groupby(zip(a, b, strict=True), key=lambda pair: pair[0].shape):
            while batch := list(islice(same_size, self._batch_size)):
                for pair in batch:
                    _check_pair(*pair)
                sides = [torch.stack(side) for side in zip(*batch, strict=True)]
                x, y = (side.to(self._device) / 255 for side in sides)
                distances.append(self._network(x, y, normalize=True).flatten().cpu())
        return torch.cat(distances)


class CachedFeatures:
    """Computes the features of a stream of items, each once, with one batch in memory at a time.

    `key(item)` identifies the content of an item, `prepare(item)` makes its row of a batch, and
    `forward(batch)` returns (n, `size`). Features are scaled to unit length and cached by key, in
    memory and, if given, in `folder`. All ranks must call this with the same items: they share the
    work, and each returns all features.
    """

    def __init__(
        self,
        prepare: Callable[[Any], Tensor],
        forward: Callable[[Tensor], Tensor],
        key: Callable[[Any], str],
        size: int,
        batch_size: int,
        device: torch.device,
        folder: Path | None = None,
    ):
        self._prepare, self._forward, self._key, self._size = prepare, forward, key, size
        self._batch_size, self._device = _positive(batch_size), device
        self._folder = folder
        self._cached: dict[str, Tensor] = {}

    def __call__(self, items: Iterable[Any]) -> Tensor:
        keys: list[str] = []
        requested: set[str] = set()
        waiting: dict[str, Tensor] = {}
        for item in items:
            keys.append(key := self._key(item))
            if key in requested or key in self._cached:
                continue
            batch = len(requested) // self._batch_size
            requested.add(key)
            if batch % num_ranks() != rank() or self._read_from_disk(key):
                continue
            waiting[key] = self._prepare(item)
            if len(waiting) == self._batch_size:
                self._compute(waiting)
                waiting = {}
        if waiting:
            self._compute(waiting)
        self._cached |= merge_over_ranks(
            {key: self._cached[key] for key in requested if key in self._cached}
        )
        return torch.stack([self._cached[k] for k in keys]) if keys else torch.empty(0, self._size)

    @torch.no_grad()
    def _compute(self, waiting: dict[str, Tensor]) -> None:
        batch, device = torch.stack(list(waiting.values())).to(self._device), self._device.type
        with torch.autocast(device, torch.float16, enabled=device == "cuda"):
            features = self._forward(batch)
        for key, feature in zip(waiting, F.normalize(features.float()).cpu(), strict=True):
            self._cached[key] = feature
            if self._folder:
                with atomic_file(self._folder / f"{key}.npy") as file:
                    np.save(file, feature.numpy())

    def _read_from_disk(self, key: str) -> bool:
        """Put the feature of a key into memory if the cache folder holds it."""
        if self._folder is None:
            return False
        try:
            feature = torch.from_numpy(np.load(self._folder / f"{key}.npy"))
        except (OSError, ValueError, EOFError):  # missing or damaged: compute it again
            return False
        self._cached[key] = feature
        return True


def check_image(image: Tensor) -> None:
    """ValueError unless the image is uint8 (3, H, W)."""
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(
            f"an image must be a uint8 tensor (3, H, W) of red, green and blue, not "
            f"{str(image.dtype).removeprefix('torch.')} {tuple(image.shape)}: convert it"
        )


def _check_pair(x: Tensor, y: Tensor) -> None:
    check_image(x)
    check_image(y)
    if x.shape != y.shape or min(x.shape[1:]) < LPIPS_MIN_PX:
        raise ValueError(
            f"LPIPS compares images of one size, at least {LPIPS_MIN_PX} px, not "
            f"{tuple(x.shape)} and {tuple(y.shape)}: resize them first"
        )


def _to_pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())


def _content_sha(image: Tensor) -> str:
    check_image(image)
    pixels = image.cpu().numpy()
    return hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def _torch_device(device: str | torch.device) -> torch.device:
    """`device`, where "auto" is CUDA if available, else the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def _precision(device: torch.device) -> str:
    return "float16 autocast" if device.type == "cuda" else "float32"


def _cache_folder(cache: str | Path | None, protocol: str) -> Path | None:
    """A cache folder for each protocol, so that features of different weights never mix."""
    if cache is None:
        return None
    folder = Path(cache).expanduser() / hashlib.sha256(protocol.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _positive(batch_size: int) -> int:
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    return batch_size
