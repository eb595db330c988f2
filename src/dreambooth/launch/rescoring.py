"""Scoring existing images: those of a finished run again, or those of another system."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreambooth.assemble import loggers_of, subject_of
from dreambooth.launch.inputs import inputs_of
from dreambooth.launch.outcome import record_outcome
from dreambooth.launch.sweep import print_sweep_table
from dreambooth.metrics.evaluation import PictureSets, evaluate, merge_rows, summary_line
from dreambooth.metrics.external import read_external
from dreambooth.metrics.loading import scorers_of
from dreambooth.runs.files import claimed
from dreambooth.runs.overrides import assignment
from dreambooth.runs.run import Run, holds_a_run
from dreambooth.subjects.prompts import PromptNames
from dreambooth.training.loggers import publish

log = logging.getLogger(__name__)


def score_again(config: Mapping[str, Any]) -> None:
    """Score the images of the finished run `run` with `metrics`, and save the scores in its folder.

    Columns and numbers of the same name are replaced; the others stay.
    """
    if "subject" in config:
        raise ValueError("a run keeps its own subject: leave subject= out, or give images=DIR")
    run = Run.load_finished(Path(str(config["run"])), with_weights=False)
    if run.config.get("method") == "external":
        raise ValueError(
            f"{run.folder} holds scores of another system's images: "
            f"give images={run.config['images']} again"
        )
    run.check_inputs(inputs_of(run.config))
    subject = subject_of(run.config)
    scorers = scorers_of(config["metrics"], subject)
    pairs = ("restored", "originals") if run.images.has("restored") else ()
    pictures = [run.images.read(name) for name in ("prompts", "class", *pairs)]
    names = PromptNames(**run.read_names())
    sets = PictureSets(subject, names.identifier, *pictures, in_text=names.in_text)
    with claimed(run.folder):
        scores = evaluate(scorers, sets, run.config["seed"])
        run.write_scores(merge_rows(run.read_scores(), scores.rows))
        run.write_metrics(run.read_metrics() | scores.metrics)
    log.info("scores: %s", summary_line(scores.metrics))
    if (run.folder.parent / "sweep.csv").is_file():
        print_sweep_table(run.folder.parent)


def score_external(config: Mapping[str, Any]) -> None:
    """Score `images` into a run folder without weights, next to the other runs in `into`.

    Earlier scores of these images in that folder are replaced once the new ones are complete.
    """
    if "subject" not in config:
        raise ValueError(
            "images=... are compared with photos of their subject: give subject=NAME, or "
            "subject=folder photos=DIR class_noun=NOUN"
        )
    images = Path(str(config["images"])).expanduser()
    if not images.exists():  # before the encoders are loaded
        raise ValueError(f"there is no folder or CSV file {images}")
    folder = Path(config["into"], config["name"] or images.stem)
    if holds_a_run(folder) and Run.load(folder).config.get("images") != str(images):
        raise ValueError(
            f"{folder} holds the scores of other images: give name=NAME, another name for these"
        )
    identifier = str(config["identifier"]["text"] or "")
    subject = subject_of(config)
    scorers = scorers_of(config["metrics"], subject)
    sets = PictureSets(subject, identifier, *read_external(images, subject, identifier))
    about = {key: config[key] for key in ("subject", "metrics", "logger")}
    about |= {"method": "external", "images": str(images), "identifier": identifier}
    groups = ("subject", "photos", "class_noun", "dreambench")
    kept = [o for o in config["overrides"] if assignment(o).key.partition(".")[0] in groups]
    with claimed(folder):
        about |= {"overrides": ["method=external", *kept]}
        run = Run.create(folder, about, force=True, inputs=inputs_of(config))
        with record_outcome(run):
            scores = evaluate(scorers, sets)
            run.write_scores(scores.rows)
            run.write_metrics(scores.metrics)
            publish(loggers_of(config, run), scores.metrics, scores.rows, sets.scored)
    print_sweep_table(run.folder.parent)
