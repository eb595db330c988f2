import re
from functools import reduce
from operator import getitem

import numpy as np
import open_clip
import pytest
import tiny_encoders
import torch
import yaml
from commands import ROOT
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig, ViTModel

from dreambooth.metrics.encoders import ClipEncoder, DinoEncoder, LpipsDistance

PAPER = yaml.safe_load((ROOT / "conf/metrics/paper.yaml").read_text())
SIZES = ((300, 400), (517, 251), (100, 180), (224, 224), (256, 255))  # height, width
TEXTS = ["a dog in the snow", "a red backpack", "a [V] dog", "a dog in the snow"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("encoders")


@pytest.fixture(scope="module")
def tiny_vit(folder):
    return tiny_encoders.tiny_vit_folder(folder / "vit")


@pytest.fixture(scope="module")
def tiny_clip(folder):
    return tiny_encoders.tiny_clip_folder(folder / "clip")


@pytest.fixture(scope="module")
def alexnet(folder):
    return tiny_encoders.lpips_backbone(folder / "alexnet.pth")


def tiny_dino(pretrained, **options):
    return DinoEncoder(pretrained, resize_px=64, crop_px=64, **options)


@pytest.fixture
def forwards():
    """The batch size of every forward of a whole ViT or of a CLIP's image tower so far."""
    seen = []

    def note(module, inputs):
        if isinstance(module, ViTModel | open_clip.transformer.VisionTransformer):
            images = [x for x in inputs if torch.is_tensor(x)]
            seen.append(len(images[0]))

    handle = nn.modules.module.register_module_forward_pre_hook(note)
    yield seen
    handle.remove()


def pictures(*sizes, seed=0):
    """Coloured waves with noise: smooth and sharp parts, so that each resize shows."""
    rng, images = np.random.default_rng(seed), []
    for height, width in sizes:
        y, x = np.mgrid[:height, :width] / 40
        waves = [np.sin(a * x + b * y + c) for a, b, c in rng.uniform(-3, 3, (3, 3))]
        pixels = 128 + 90 * np.stack(waves) + rng.normal(0, 25, (3, height, width))
        images.append(torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)))
    return images


def by_hand(image, resize_px, crop_px, mean, std, resample=Image.Resampling.BICUBIC):
    """One image -> (1, 3, crop, crop) float64, with PIL's resize and numpy."""
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    short = min(picture.size)
    size = [resize_px if side == short else resize_px * side // short for side in picture.size]
    pixels = np.asarray(picture.resize(size, resample), dtype=np.float64)
    top, left = (round((side - crop_px) / 2) for side in pixels.shape[:2])
    pixels = pixels[top : top + crop_px, left : left + crop_px] / 255
    return torch.from_numpy(((pixels - mean) / std).transpose(2, 0, 1)[None])


def unit(rows):
    rows = np.concatenate([np.asarray(row) for row in rows])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def same_scores(features, reference):
    """All cosine similarities agree to 1e-5, and differ among themselves by far more."""
    scores = features.double().numpy() @ features.double().numpy().T
    assert np.ptp(scores) > 0.01
    np.testing.assert_allclose(scores, reference @ reference.T, rtol=0, atol=1e-5)
    np.testing.assert_allclose(features.norm(dim=1), 1, atol=1e-6)
    assert features.dtype == torch.float32


@pytest.mark.slow
def test_dino_scores_of_a_vit_s16_equal_a_computation_by_hand_in_float64(folder):
    weights = tiny_encoders.vit_s16_folder(folder / "vit-s16")
    images = pictures(*SIZES)
    features = DinoEncoder(weights).images(images)

    vit = ViTModel.from_pretrained(weights, add_pooling_layer=False).double().eval()
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    with torch.no_grad():
        inputs = [by_hand(image, 256, 224, mean, std) for image in images]
        reference = unit([vit(x).last_hidden_state[:, 0] for x in inputs])
    assert features.shape == (len(images), 384)
    same_scores(features, reference)


@pytest.mark.slow
def test_clip_scores_of_a_vit_b32_equal_a_computation_by_hand_in_float64(tmp_path):
    file = tiny_encoders.vit_b32_checkpoint(tmp_path / "vit-b32.safetensors")
    images = pictures(*SIZES)
    encoder = ClipEncoder("ViT-B-32", file)
    seen, read = encoder.images(images), encoder.texts(TEXTS)

    clip = open_clip.create_model("ViT-B-32", str(file)).double().eval()
    file.unlink()  # 600 MB
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    with torch.no_grad():
        inputs = [by_hand(image, 224, 224, mean, std) for image in images]
        image_reference = unit([clip.encode_image(x) for x in inputs])
        text_reference = unit([clip.encode_text(open_clip.get_tokenizer("ViT-B-32")(TEXTS))])
    assert seen.shape == (len(images), 512)
    same_scores(seen, image_reference)
    same_scores(read, text_reference)
    clip_t = seen.double().numpy() @ read.double().numpy().T
    np.testing.assert_allclose(clip_t, image_reference @ text_reference.T, rtol=0, atol=1e-5)


def test_a_clip_folder_brings_its_own_size_mean_and_interpolation(tiny_clip):
    images = pictures((80, 100), (64, 64))
    encoder = ClipEncoder(tiny_clip)

    raw = open_clip.create_model(f"local-dir:{tiny_clip}").double().eval()
    with torch.no_grad():
        bilinear = Image.Resampling.BILINEAR
        inputs = [by_hand(image, 64, 64, 0.5, 0.25, bilinear) for image in images]
        reference = unit([raw.encode_image(x) for x in inputs])
    np.testing.assert_allclose(encoder.images(images), reference, atol=1e-5)
    for part in ("64x64 px", "bilinear", "mean 0.5, 0.5, 0.5, std 0.25, 0.25, 0.25", ", GELU"):
        assert part in encoder.protocol


def test_an_openai_tag_is_run_with_quick_gelu_and_its_own_mean(tiny_clip, monkeypatch):
    """ViT-B-32 alone means GELU, and open_clip only warns where the tag's weights need another."""
    file = tiny_clip / "open_clip_model.safetensors"
    tag = {"file": str(file), "quick_gelu": True, "mean": (0.1, 0.2, 0.3), "std": (1, 2, 3)}
    config = open_clip.get_model_config(f"local-dir:{tiny_clip}")
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", config)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"openai": tag})
    images = pictures((64, 64), (70, 64))
    encoder = ClipEncoder("tiny", "openai")

    raw = open_clip.CLIP(**config, quick_gelu=True).eval()
    raw.load_state_dict(load_file(file))
    with torch.no_grad():
        inputs = [by_hand(image, 64, 64, (0.1, 0.2, 0.3), (1, 2, 3)).float() for image in images]
        reference = unit([raw.encode_image(x) for x in inputs])
    np.testing.assert_allclose(encoder.images(images), reference, atol=1e-5)
    assert "tiny openai (open_clip, QuickGELU;" in encoder.protocol
    assert "(open_clip, GELU;" in ClipEncoder("tiny", file).protocol


def test_features_do_not_depend_on_the_batch_size(tiny_vit, tiny_clip):
    images = pictures(*[(70, 64)] * 7)
    for encoder in (tiny_dino, ClipEncoder):
        weights = tiny_vit if encoder is tiny_dino else tiny_clip
        one, three = (encoder(weights, batch_size=n).images(images) for n in (1, 3))
        torch.testing.assert_close(one, three, rtol=0, atol=1e-6)


def test_the_model_runs_once_per_content(tiny_vit, forwards):
    encoder = tiny_dino(tiny_vit, batch_size=3)
    images = pictures((64, 64), (70, 80), (64, 90), (64, 64))
    first = encoder.images([*images, images[0], images[1].clone()])
    assert forwards == [3, 1]
    again = encoder.images(reversed(images))
    assert forwards == [3, 1]
    assert torch.equal(first[:4].flip(0), again)
    assert torch.equal(first[4:], first[:2])


def test_the_same_bytes_in_another_shape_are_another_image(tiny_vit):
    image = pictures((64, 128))[0]
    wide, high = tiny_dino(tiny_vit).images([image, image.reshape(3, 128, 64)])
    assert not torch.allclose(wide, high, atol=1e-3)


@pytest.mark.parametrize("make", ["dino", "clip"])
def test_a_cache_folder_spares_the_next_encoder_the_model(
    make, tiny_vit, tiny_clip, tmp_path, forwards
):
    def encoder():
        new = tiny_dino(tiny_vit, cache=tmp_path) if make == "dino" else None
        new = new or ClipEncoder(tiny_clip, cache=tmp_path)
        forwards.clear()
        return new

    images = pictures((64, 64), (70, 80), (64, 90))
    first = encoder().images(images[:2])
    again = encoder().images(images)
    assert forwards == [1]  # the third alone
    assert torch.equal(again[:2], first)
    damaged, *_ = files = sorted(tmp_path.rglob("*.npy"))
    assert len(files) == 3
    damaged.write_bytes(b"")
    torch.testing.assert_close(encoder().images(images), again)  # in another batch: other bits
    assert forwards == [1]


def test_a_cache_folder_keeps_other_weights_apart(tiny_vit, tmp_path):
    other = tiny_encoders.tiny_vit_folder(tmp_path / "vit", seed=1)
    images = pictures((64, 64))
    shared, alone = (
        [tiny_dino(weights, cache=cache).images(images) for weights in (tiny_vit, other)]
        for cache in (tmp_path / "cache", None)
    )
    assert all(map(torch.equal, shared, alone))


def test_images_stream_through_one_batch_at_a_time(tiny_vit, forwards):
    done_before = []

    def stream():
        for seed in range(10):
            done_before.append(sum(forwards))
            yield pictures((64, 64), seed=seed)[0]

    tiny_dino(tiny_vit, batch_size=4).images(stream())
    assert done_before == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]


def test_a_stack_is_as_good_as_a_list_and_nothing_gives_an_empty_tensor(tiny_vit, tiny_clip):
    images = pictures((64, 64), (64, 64))
    dino, clip = tiny_dino(tiny_vit), ClipEncoder(tiny_clip)
    assert torch.equal(dino.images(torch.stack(images)), dino.images(images))
    assert dino.images([]).shape == (0, 32)
    assert clip.images([]).shape == clip.texts([]).shape == (0, 24)


@pytest.fixture(scope="module")
def uses(tiny_vit, tiny_clip, alexnet):
    """What each takes images for."""
    distance = LpipsDistance(backbone=alexnet)
    of_pairs = lambda images: distance.pairs(images, images)  # noqa: E731
    return (tiny_dino(tiny_vit).images, ClipEncoder(tiny_clip).images, of_pairs)


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(64, 64, dtype=torch.uint8),
        torch.zeros(1, 64, 64, dtype=torch.uint8),
        torch.zeros(64, 64, 3, dtype=torch.uint8),
        torch.zeros(3, 0, 64, dtype=torch.uint8),
        torch.zeros(3, 64, 64),
    ],
)
def test_what_is_no_image_is_told_its_shape(image, uses):
    for use in uses:
        with pytest.raises(ValueError, match=r"must be a uint8 tensor \(3, H, W\)") as error:
            use([image])
        told(error, f"{image.dtype} {tuple(image.shape)}".removeprefix("torch."))


def test_a_clip_with_its_own_vocabulary_needs_its_own_tokenizer(tmp_path):
    weights = tiny_encoders.tiny_clip_folder(tmp_path, vocabulary_size=100)
    assert ClipEncoder(weights).images(pictures((64, 64))).shape == (1, 24)
    with pytest.raises(ValueError, match="knows 100 ids: give tokenize="):
        ClipEncoder(weights).texts(["a dog"])

    def tokenize(texts):
        rows = [[ord(c) % 90 for c in text] + [99] for text in texts]
        return torch.tensor([row + [0] * (77 - len(row)) for row in rows])

    read = ClipEncoder(weights, tokenize=tokenize).texts(["a dog", "a cat", "a dog"])
    assert torch.equal(read[0], read[2])
    assert not torch.allclose(read[0], read[1], atol=1e-3)


def test_protocols_name_encoder_weights_and_preprocessing(tiny_vit, tiny_clip, tmp_path, alexnet):
    other = tiny_encoders.tiny_vit_folder(tmp_path / "vit", seed=1)
    dino, lpips = tiny_dino(tiny_vit).protocol, LpipsDistance(backbone=alexnet).protocol
    assert dino != tiny_dino(other).protocol  # the same name and shape, other weights
    assert dino == tiny_dino(tiny_vit, batch_size=1).protocol
    for part in ("CLS token of vit", "patch 16", "sha256", "64 px", "PIL bicubic", "float32"):
        assert part in dino
    assert lpips.startswith("LPIPS: alex (torchmetrics, weights sha256 ")


def other_architecture(folder):
    BertConfig().save_pretrained(folder)
    return folder


def incomplete(folder):
    tiny_encoders.tiny_vit_folder(folder)
    weights = load_file(folder / "model.safetensors")
    del weights["layernorm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def cut_short(folder):
    weights = tiny_encoders.tiny_vit_folder(folder) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return folder


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: "facebook/dino-vits16", "nothing named 'facebook/dino-vits16' in the Hugg"),
        (lambda folder: folder / "none", "no folder /.*/none, nothing named"),
        (other_architecture, "its model_type is bert, not vit"),
        (incomplete, "its weights lack layernorm.weight"),
        (cut_short, "cannot be used"),
    ],
)
def test_dino_weights_that_cannot_be_had_give_one_sentence(make, reason, tmp_path):
    with pytest.raises(ValueError, match=reason) as error:
        tiny_dino(make(tmp_path))
    told(error, "give metrics.fidelity.dino.pretrained=/path/to/folder")


def test_a_vit_for_another_size_gives_one_sentence(tiny_vit):
    with pytest.raises(ValueError, match="it needs crop_px=64 <= resize_px"):
        DinoEncoder(tiny_vit)
    with pytest.raises(ValueError, match="it needs crop_px=64 <= resize_px"):
        DinoEncoder(tiny_vit, resize_px=32, crop_px=64)


def test_clip_weights_that_cannot_be_had_give_one_sentence(tiny_clip, tiny_vit, tmp_path):
    (tmp_path / "open_clip_config.json").write_bytes(
        (tiny_clip / "open_clip_config.json").read_bytes()
    )
    for model, pretrained, reason in (
        ("ViT-B-32", "openai", "nothing named 'timm/vit_base_patch32_clip_224.openai' in the Hugg"),
        ("ViT-B-32", "opnai", "no file /.*/opnai, and open_clip knows no such tag"),
        ("ViT-Z-32", "openai", "no folder /.*/ViT-Z-32, and open_clip knows no such model"),
        (tiny_vit, "openai", "open_clip_config.json"),
        (tmp_path, "openai", "could not be loaded"),  # a configuration without weights
    ):
        with pytest.raises(ValueError, match=reason) as error:
            ClipEncoder(model, pretrained)
        told(error, "give metrics.fidelity.clip.model=/path/to/folder with open_clip_config.json")


def told(error, remedy):
    """In one line, and what is to be given is a key of metrics=paper."""
    assert remedy in str(error.value)
    for key in re.findall(r"metrics\.([\w.]+)=/path", str(error.value)):
        *groups, name = key.split(".")
        assert name in reduce(getitem, groups, PAPER)
    assert "\n" not in str(error.value)


def test_lpips_weights_that_cannot_be_had_give_one_sentence(tmp_path, monkeypatch, alexnet):
    def no_network(url, *args, **kwargs):
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    weights = torch.load(alexnet)
    del weights["features.10.bias"]
    torch.save(weights, incomplete_file := tmp_path / "incomplete.pth")
    for options, reason in (
        ({}, rf"{tmp_path}/hub/checkpoints/alexnet-owt-7be5be79.pth .* cannot be reached"),
        ({"backbone": tmp_path / "none"}, "there is no such file"),
        ({"backbone": incomplete_file}, "Missing key.*10.bias"),
        ({"net": "squeeze", "backbone": alexnet}, "state_dict"),
    ):
        with pytest.raises(ValueError, match=reason) as error:
            LpipsDistance(**options)
        told(error, "give metrics.fidelity.distance.backbone=/path/to/")
    with pytest.raises(ValueError, match="no net 'resnet': choose from alex, vgg, squeeze"):
        LpipsDistance("resnet")


def test_a_batch_holds_at_least_one_image(tiny_vit, alexnet):
    for make in (
        lambda: tiny_dino(tiny_vit, batch_size=0),
        lambda: LpipsDistance(backbone=alexnet, batch_size=0),
    ):
        with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
            make()
