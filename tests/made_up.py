"""Made-up sweeps: run folders as training writes them, in milliseconds, with known effects."""

import json
import shlex
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from made_up_images import write_images

from dreambooth.metrics.columns import image_set_of
from dreambooth.runs.files import csv_of

CONF = Path(__file__).parents[1] / "conf"
CLASS_AND_LAMBDA = {"prior.lambda": ("0", "1"), "class": ("none", "wrong", "correct")}
DRAWN = {  # name -> class noun, seed
    "biscuit": ("dog", 7),
    "olive": ("cat", 10),
    "clover": ("rabbit", 6),
    "pepper": ("bird", 9),
    "coral": ("fish", 5),
    "comet": ("car", 7),
    "breeze": ("boat", 2),
    "tick": ("clock", 1),
    "summit": ("backpack", 3),
    "jasmine": ("teapot", 2),
}
PROTOCOLS = {
    "identity": "P(same individual), oracle, mean over 16 drawings of it (64x64 px, 8 bits)",
    "clean": "share of undamaged drawings: P(clean) >= 0.5, oracle",
    "class_accuracy": "share that is clean and shows the subject's true class, oracle",
    "context_accuracy": "share that is clean and in the prompted context, oracle",
    "drift": "identity of the class prompt's images, mean over 16 drawings of it",
    "diversity": "mean pairwise 1 - cosine of oracle embeddings, class prompt's images",
    "dino": "mean cosine, all images x {} real photos (64x64 px, 8 bits); DINO: {}",
    "clip_i": "mean cosine, all images x {} real photos (64x64 px, 8 bits); CLIP: small",
    "clip_t": "mean cosine, image and its prompt, [V] left out of the text; CLIP: small",
    "pres": "class prompt's images: mean cosine, all images x {} real photos (64x64 px); DINO: {}",
    "div": "mean over pairs of one prompt; 1 - cosine; DINO: {1}",
    "copy": "mean cosine to the nearest of {} real photos (64x64 px, 8 bits); DINO: {}",
    "copied": "share nearer to one of {} real photos (64x64 px, 8 bits) than any two; DINO: {}",
    "detail": "energy above 32 px, over the photos' mean ({} photos)",
    "sr_identity": "P(same individual) of enlarged photos, oracle",
    "sr_layout_error": "share of the original's pixels that show another colour once enlarged",
    "sr_kept": "share of the original's detail above 32 px that is there",
    "sr_dino": "mean cosine, enlarged photo and its original; DINO: {1}",
    "sr_detail": "energy above 32 px, over the original's",
    "sr_psnr": "dB; photos shrunk to 32 px by area and enlarged by the SR stage",
    "sr_ssim": "photos shrunk to 32 px by area and enlarged by the SR stage",
}
COSTS = {
    "none": {"trained_parameters": 4_200_000, "weights_bytes": 17_000_000, "step_ms": 152.5},
    "lora": {"trained_parameters": 36_000, "weights_bytes": 150_000, "step_ms": 120.0},
    "ia3": {"trained_parameters": 2_400, "weights_bytes": 14_000, "step_ms": 110.0},
}
_SHARES = {"class_right", "context_right", "copied", "colour_right", "style_right", "view_right"}
_SHARES |= {"accessory_right", "expression_right"}
_SETS = ("prompts", "class", "restored")
_COLUMN = {"drift": "identity", "clean": "is_clean"}
_COLUMN |= {f"{n}_accuracy": f"{n}_right" for n in ("class", "context")}


def made_up_sweep(
    folder: Path,
    subjects: Sequence[str] = ("biscuit",),
    seeds: Sequence[int] = (0,),
    axes: Mapping[str, Sequence[str]] = CLASS_AND_LAMBDA,
    images_per_prompt: int = 2,
    num_class_images: int = 32,
    failed: Mapping[int, str] | None = None,
    running: Sequence[int] = (),
    damaged: Sequence[int] = (),
    missing: Sequence[int] = (),
    effect: Callable[[str, Mapping[str, str]], float] | None = None,
    encoder: str = "small (weights sha256 b60a51e54e7a)",
    old: bool = False,
    versions: Mapping[str, str] | None = None,
    code: str = "3f1c9a",
    curves: bool = True,
    picture_px: int = 64,
) -> Path:
    """A sweep folder with a run for each cell, subject and seed, in the order of Hydra.

    `axes`: override -> values. `failed` (with the reason), `running`, `damaged` (metrics.json is
    cut off) and `missing` (no folder) are numbers of runs. `effect` (column of scores.csv, what was
    swept) is added to a column's mean; the default is the paper's directions. `encoder` is named in
    the protocols. `old`: without history.csv, provenance.json and images/before.
    """
    said = {
        **axes,
        "subject": subjects if len(subjects) > 1 or subjects != ("biscuit",) else (),
        "seed": [str(seed) for seed in seeds] if tuple(seeds) != (0,) else (),
    }
    said = {key: values for key, values in said.items() if values}
    folder.mkdir(parents=True)
    task = [f"{key}={','.join(values)}" for key, values in said.items()]
    (folder / "multirun.yaml").write_text(yaml.safe_dump({"hydra": {"overrides": {"task": task}}}))
    for number, values in enumerate(product(*said.values())):
        if number in missing:
            continue
        chosen = dict(zip(said, values, strict=True))
        _run(
            folder / str(number),
            chosen,
            images_per_prompt,
            num_class_images,
            state="running"
            if number in running
            else "failed"
            if number in (failed or {})
            else "finished",
            reason=(failed or {}).get(number, ""),
            effect=effect or paper_effect,
            encoder=encoder,
            old=old,
            versions=versions or {"python": "3.11.9", "torch": "2.11.0"},
            code=code,
            curves=curves,
            picture_px=picture_px,
        )
        if number in damaged:
            path = folder / str(number) / "metrics.json"
            path.write_text(path.read_text()[:200])
    return folder


def paper_effect(column: str, chosen: Mapping[str, str]) -> float:
    """The paper's directions, plainly: added to the mean of a column."""
    without = chosen.get("prior.lambda") == "0"
    noun = chosen.get("class", "correct")
    level = chosen.get("sr", chosen.get("sr.noise_level", "frozen"))
    photos = int(chosen.get("subject.num_photos", "5"))
    fidelity = {"correct": 0.0, "wrong": -0.15, "none": -0.25}.get(noun, -0.2)
    fidelity += 0.05 * without - 0.03 * (5 - photos)
    fidelity += {"common": -0.1, "random": -0.12}.get(chosen.get("identifier", ""), 0.0)
    sharp = {"off": -0.4, "noise_1e-3": -0.1, "noise_1e-5": 0.1}.get(level, 0.0)
    return {
        "identity": fidelity,
        "dino": fidelity,
        "clip_i": 0.6 * fidelity,
        "clip_t": -0.01 * without,
        "drift": 0.6 * without,
        "pres": 0.2 * without,
        "div": -0.1 * without,
        "diversity": -0.5 * without,
        "detail": sharp,
        "sr_detail": sharp,
        "sr_kept": sharp,
        "sr_layout_error": -0.6 * sharp,
        "sr_identity": 0.2 * sharp,
    }.get(column, 0.0)


def _run(
    folder: Path,
    chosen: Mapping[str, str],
    images_per_prompt: int,
    num_class_images: int,
    state: str,
    reason: str,
    effect: Callable[[str, Mapping[str, str]], float],
    encoder: str,
    old: bool,
    versions: Mapping[str, str],
    code: str,
    curves: bool,
    picture_px: int,
) -> None:
    folder.mkdir()
    overrides = [f"{key}={value}" for key, value in chosen.items()]
    config = _config(chosen) | {"overrides": overrides}
    _yaml(folder / "config.yaml", config)
    subject = config["subject"]
    noun = {"none": None, "wrong": "boat"}.get(config["class"]["choice"], subject["class_noun"])
    noun = config["class"]["noun"] or noun
    names = {"identifier": "kzn", "class_noun": noun, "prior_noun": noun or subject["class_noun"]}
    _json(folder / "names.json", names)
    status = {
        "state": state,
        "reason": reason,
        "progress": 1.0 if state == "finished" else 0.4,
        "started": "2026-01-31T12:00:00+00:00",
        "ended": "" if state == "running" else "2026-01-31T12:02:00+00:00",
    }
    _json(folder / "status.json", status)
    named = f"kzn {noun}" if noun else "kzn"
    write_images(folder / "images/photos", [(f"a {named}", "", i) for i in range(5)], picture_px)
    steps = 200 if state != "finished" else config["method"]["max_steps"]
    if not old:
        _history(folder, config, steps, curves)
        _json(folder / "provenance.json", _provenance(chosen, versions, code, state))
        before = [(f"a {names['prior_noun']}", "a {}", i) for i in range(min(8, num_class_images))]
        write_images(folder / "images/before", before, picture_px)
    if state != "finished":
        return
    jobs = [
        ("prompts", template.format(named), template, i)
        for template in _prompts(subject["class_noun"])
        for i in range(images_per_prompt)
    ]
    class_prompt = f"a {names['prior_noun']}"
    jobs += [("class", class_prompt, "a {}", i) for i in range(num_class_images)]
    jobs += [("restored", f"a {named}", "", i) for i in range(16)]
    images = {name: [job[1:] for job in jobs if job[0] == name] for name in _SETS}
    images["originals"] = images["restored"]
    for name, some in images.items():
        write_images(folder / "images" / name, some, picture_px)
    rows = _scores(jobs, chosen, config, effect)
    (folder / "scores.csv").write_text(csv_of(rows))
    _json(folder / "metrics.json", _metrics(rows, subject["num_photos"], encoder))


@cache
def _composed() -> dict[str, Any]:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        config = OmegaConf.to_container(compose("train"), resolve=True)
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def _config(chosen: Mapping[str, str]) -> dict[str, Any]:
    """The resolved config of some overrides, without Hydra's tenth of a second for each."""
    config: dict[str, Any] = json.loads(json.dumps(_composed()))
    for key, value in chosen.items():
        if key == "subject":
            noun, seed = DRAWN.get(value, ("dog", zlib.crc32(value.encode()) % 1000))
            config["subject"] |= {"class_noun": noun, "seed": seed, "name": value}
        elif key == "class":
            config["class"]["choice"] = value
        elif key == "identifier":
            config["identifier"]["kind"] = value
            config["identifier"]["text"] = "special" if value == "common" else None
        elif key == "adapter":
            chosen_file = yaml.safe_load((CONF / f"adapter/{value}.yaml").read_text())
            config["adapter"] |= {"config": chosen_file["config"]}
        elif key == "sr":
            config["sr"]["enabled"] = value != "off"
            level = float(value.removeprefix("noise_")) if value.startswith("noise_") else None
            config["sr"]["noise_level"] = level
        else:
            part, *path, last = config, *key.split(".")
            for name in path:
                part = part.setdefault(name, {})
            part[last] = _value(value)
    config["method"]["tuning"] |= {"adapter": config["adapter"], "seed": config["seed"]}
    return config


def _value(text: str) -> Any:
    """As Hydra reads it: unlike YAML's, its 1e-3 is a number."""
    try:
        return float(text) if "e" in text else yaml.safe_load(text)
    except ValueError:
        return text


def _prompts(class_noun: str) -> Sequence[str]:
    from dreambooth.subjects.prompt_sets import MINIBENCH

    live = ("dog", "cat", "rabbit", "bird", "fish")
    return MINIBENCH["live" if class_noun in live else "object"]


def _scores(
    jobs: Sequence[tuple[str, str, str, int]],
    chosen: Mapping[str, str],
    config: Mapping[str, Any],
    effect: Callable[[str, Mapping[str, str]], float],
) -> list[dict[str, Any]]:
    """Columns of every set: base value + effect + subject + prompt + noise, and what is a share."""
    base = {"identity": 0.75, "dino": 0.65, "clip_i": 0.7, "clip_t": 0.35, "copy": 0.7}
    base |= {"copied": 0.4, "div": 0.3, "class_right": 0.95, "context_right": 0.85, "detail": 0.7}
    base |= {"sr_identity": 0.7, "sr_layout_error": 0.2, "sr_dino": 0.8, "sr_kept": 0.5}
    base |= {"sr_detail": 0.7, "sr_psnr": 22.0, "sr_ssim": 0.85}
    base |= {"pres": 0.4, "diversity": 0.7, "drift": 0.15}
    who = f"{config['subject']['name']}"
    own = np.random.default_rng([*who.encode(), int(chosen.get("seed", "0"))])
    by_subject = {column: 0.04 * own.standard_normal() for column in base}
    noise = np.random.default_rng([*" ".join(chosen.values()).encode()])
    sets = {
        "prompts": ("identity", "dino", "clip_i", "clip_t", "copy", "copied", "div", "class_right"),
        "class": ("drift", "pres", "diversity", "class_right", "detail"),
        "restored": tuple(column for column in base if column.startswith("sr_")),
    }
    rows = []
    for image_set, prompt, template, index in jobs:
        shared = np.random.default_rng([*template.encode(), index]).standard_normal(32)
        row: dict[str, Any] = {"set": image_set, "prompt": prompt, "template": template}
        row |= {"index": index, "seed": config["seed"]}
        columns = [*sets[image_set], *(["detail"] if image_set == "prompts" else [])]
        if image_set == "prompts":
            columns += [f"{asked}_right" for asked in _asked(template)]
            row["is_clean"] = float(shared[-1] < 1.9)  # in 97 %
        for place, column in enumerate(columns):
            mean = base.get(column, 0.8) + effect(column, chosen) + by_subject.get(column, 0.0)
            value = mean + 0.05 * shared[place] + 0.05 * noise.standard_normal()
            if column in _SHARES:
                value = float(shared[place + 16] < 3 * (mean - 0.5))
            elif not column.endswith(("psnr", "detail")):
                value = min(max(value, 0.0), 1.0)
            row["identity" if column == "drift" else column] = value
        rows.append(row)
    return rows


def _asked(template: str) -> list[str]:
    words = {"context": (" in ", " on ", "under"), "style": (" of a ",), "view": ("from ",)}
    words |= {"accessory": ("wearing",), "colour": ("red", "purple", "green")}
    words |= {"expression": ("happy", "angry", "sleeping")}
    return [name for name, some in words.items() if any(word in template for word in some)]


def _metrics(rows: Sequence[Mapping[str, Any]], num_photos: int, encoder: str) -> dict[str, Any]:
    found = {}
    for name, protocol in PROTOCOLS.items():
        column = _COLUMN.get(name, name)
        own = [r[column] for r in rows if r["set"] == image_set_of(name) and column in r]
        if not own:
            continue
        mean, half = float(np.mean(own)), 1.96 * float(np.std(own)) / len(own) ** 0.5
        interval = [mean - half, mean + half] if name != "diversity" else None
        how = protocol.format(num_photos, encoder)
        found[name] = {"value": mean, "ci95": interval, "count": len(own), "protocol": how}
    null = {"value": 0.15, "ci95": [0.0, 0.4], "count": 9, "protocol": f"unseen; {encoder}"}
    return found | {"copied_null": null}


def _history(folder: Path, config: Mapping[str, Any], steps: int, curves: bool) -> None:
    rows: list[dict[str, Any]] = []
    for step in range(0, steps + 1, 10):
        left = 1 - step / 1000
        row: dict[str, Any] = {"step": step}
        if step:
            row |= {"loss/subject": 0.05 * left, "time/step_ms": 150.0 + step % 7}
            if config["prior"]["lambda"]:
                row["loss/prior"] = 0.06 - 0.00001 * step
        if curves and step % 100 == 0:
            row |= {"curves/dino": 0.4 + 0.3 * step / 500, "curves/clip_t": 0.4 - 0.0001 * step}
            row |= {"curves/pres": 0.3 + 0.0002 * step, "curves/seconds": 1.5}
        rows.append(row)
    if config["sr"]["noise_level"] is not None:
        rows += [{"step": s, "sr/loss/subject": 0.02, "sr/loss/prior": 0.03} for s in range(9, 400)]
    (folder / "history.csv").write_text(csv_of(rows))


def _provenance(
    chosen: Mapping[str, str], versions: Mapping[str, str], code: str, state: str
) -> dict[str, Any]:
    overrides = " ".join(shlex.quote(f"{key}={value}") for key, value in chosen.items())
    return {
        "command": f"python src/train.py {overrides}".rstrip(),
        "git": {"commit": "091bd09c0ffee", "dirty": False},
        "code": code,
        "versions": dict(versions),
        "hardware": {"cpu": "AMD EPYC", "cores": 2, "threads": 2, "gpu": None},
        "started": "2026-01-31T12:00:00+00:00",
        "seconds": {"train": 82.3, "draw": 18.0, "score": 3.5} if state == "finished" else {},
        "peak_memory_bytes": 1_800_000_000,
        "costs": COSTS.get(chosen.get("adapter", "none"), {}) if state == "finished" else {},
    }


def _json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2))


def _yaml(path: Path, content: Mapping[str, Any]) -> None:
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    path.write_text(yaml.dump(dict(content), Dumper=dumper, sort_keys=False))
