"""The frontier of a finished run: its model at several strengths of its training, scored."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dreambooth.assemble import load_finished_model, subject_of
from dreambooth.launch.inputs import inputs_of
from dreambooth.methods.method import Method, takes_prompt
from dreambooth.methods.strength import strength_setter
from dreambooth.metrics.evaluation import PictureSets, Row, Scorer, evaluate, row_of
from dreambooth.metrics.loading import scorers_of
from dreambooth.metrics.scoring import FidelityScorer
from dreambooth.metrics.summaries import summary_of, text_table
from dreambooth.runs.building import build
from dreambooth.runs.configs import with_batch_size
from dreambooth.runs.files import claimed
from dreambooth.runs.frontier import frontier_of
from dreambooth.runs.pictures import Picture
from dreambooth.runs.run import Run
from dreambooth.subjects.prompt_sets import unrelated_to

log = logging.getLogger(__name__)

_SHOWN = ("identity", "dino", "context_accuracy", "clip_t", "drift", "pres", "unrelated_change")
_NUM_ON_SHEET = 6  # of the subject's prompts


def draw_frontier(config: Mapping[str, Any]) -> None:
    """Draw and score the finished run `run` at the strengths of `frontier`, on the same noise.

    Writes frontier.csv, the image sets frontier-STRENGTH and a contact sheet into its folder.
    """
    wanted = frontier_of(config)
    assert wanted is not None, "checked before"
    run = Run.load_finished(Path(str(config["run"])))
    run.check_inputs(inputs_of(run.config))
    batch_size = config["model"]["backbone"]["batch_size"]
    run = replace(run, config=with_batch_size(run.config, batch_size))
    subject = subject_of(run.config)
    scorers = scorers_of(config["metrics"], subject)
    model = load_finished_model(run)
    method: Method = build(run.config["method"]["tuning"], "method.tuning")
    set_strength = strength_setter(
        method, lambda: build(run.config["model"]["backbone"], "model.backbone"), model.backbone
    )
    names, seed = model.names, run.config["seed"]
    nouns = (subject.class_noun, names.class_noun, names.prior_noun)
    jobs = {
        "prompts": [
            (template, template.format(names.subject), i)
            for template in subject.prompts
            for i in range(wanted.images_per_prompt)
        ],
        "class": [("a {}", names.class_prompt, i) for i in range(wanted.num_class_images)],
        "unrelated": [
            (text, text, 0)
            for text in unrelated_to(nouns, subject.unrelated)
            if takes_prompt(model.backbone, text)  # the miniature lacks words for photos
        ],
    }
    rows: list[Row] = []
    drawn: dict[float, dict[str, list[Picture]]] = {}
    with claimed(run.folder):
        for g in wanted.strengths:
            log.info("strength %g: generating %d images", g, sum(map(len, jobs.values())))
            set_strength(g)
            drawn[g] = {name: model.draw(of_set, model.sampling) for name, of_set in jobs.items()}
            run.images.save(f"frontier-{g:g}", [p for of_set in drawn[g].values() for p in of_set])
            pictures = (drawn[g]["prompts"], drawn[g]["class"])
            sets = PictureSets(subject, names.identifier, *pictures, in_text=names.in_text)
            scored = evaluate(scorers, sets, seed).rows
            scored += _changes(scorers, drawn[g]["unrelated"], drawn[0]["unrelated"], seed)
            rows += [{"strength": g, **row} for row in scored]
        run.write_frontier(rows)
    print(text_table([_summary(rows, g) for g in wanted.strengths]))
    print(
        "(95 % intervals over the prompts; of drift, pres and unrelated_change over their images)"
    )
    print(f"contact sheet: {_save_contact_sheet(run, drawn)}")


def _changes(
    scorers: Sequence[Scorer], pictures: Sequence[Picture], before: Sequence[Picture], seed: int
) -> list[Row]:
    """A row for each image: how far it is from what the pretrained model drew."""
    rows = [row_of("unrelated", picture, seed) for picture in pictures]
    for scorer in scorers:
        if isinstance(scorer, FidelityScorer) and pictures:
            changes = scorer.change(pictures, before)
            rows = [
                row | {"unrelated_change": change}
                for row, change in zip(rows, changes, strict=True)
            ]
    return rows


def _summary(rows: Sequence[Row], strength: float) -> Row:
    of_strength = [row for row in rows if row["strength"] == strength]
    return {"strength": f"{strength:g}", **summary_of(of_strength, _SHOWN)}


def _save_contact_sheet(run: Run, drawn: Mapping[float, Mapping[str, Sequence[Picture]]]) -> Path:
    """A row for each of a few prompts, with an image at each strength."""
    columns = list(drawn.values())
    step = max(1, len(columns[0]["prompts"]) // _NUM_ON_SHEET)
    shown = [("prompts", i) for i in range(0, len(columns[0]["prompts"]), step)]
    shown += [(name, 0) for name in ("class", "unrelated") if columns[0][name]]
    pictures = [sets[name][i] for name, i in shown for sets in columns]
    captions = [f"{g:g}" for _ in shown for g in drawn]
    return run.images.save_contact_sheet("frontier", pictures, captions)
