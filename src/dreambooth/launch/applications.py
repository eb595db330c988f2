"""The paper's applications, drawn by a finished run and, where its metrics can, judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dreambooth.assemble import quieten_libraries, subject_of
from dreambooth.launch.inputs import inputs_of
from dreambooth.metrics.applications import OUTCOMES, outcome_of
from dreambooth.metrics.evaluation import PictureSets, Scorer, evaluate
from dreambooth.metrics.loading import checked_scorers, load_scorers
from dreambooth.metrics.summaries import summary_of, text_table
from dreambooth.runs.files import Score
from dreambooth.runs.pictures import Picture
from dreambooth.runs.run import Run
from dreambooth.subjects.prompt_sets import APPLICATIONS
from dreambooth.subjects.prompts import PromptNames
from dreambooth.subjects.subject import Subject


@dataclass(frozen=True)
class Applications:
    """The applications of a finished run that are drawn: their prompts, and who scores them."""

    run: Run
    subject: Subject  # whose prompts are those of the applications
    scorers: Sequence[Scorer]
    prompts: Mapping[str, Sequence[str]]  # application -> its templates

    @classmethod
    def of(cls, run: Run, application: str) -> Applications:
        """Load the subject's prompts and the run's scorers.

        `application`: one of APPLICATIONS, or "all" that are for the run's subject. ValueError for
        one that is not.
        """
        quieten_libraries()
        run.check_inputs(inputs_of(run.config))
        about = run.config["subject"]
        subject = subject_of({"subject": {**about, "prompts": "applications"}})
        wanted = APPLICATIONS if application == "all" else (application,)
        prompts = {
            name: [text for text in subject.prompts if subject.family_of(text) == name]
            for name in wanted
        }
        if application != "all" and not prompts[application]:
            raise ValueError(
                f"application={application} is for live subjects, and {subject.name} is an object: "
                "give another one, or all"
            )
        scorers, missing = load_scorers(run.config["metrics"])
        if missing is not None:
            print(f"the images are not scored: {missing}")
        scorers = checked_scorers((scorers, missing), subject, by_choice=False)
        return cls(run, subject, scorers, {name: texts for name, texts in prompts.items() if texts})

    def save(self, drawn: Mapping[str, Sequence[Picture]], names: PromptNames) -> None:
        """Save the images of each application, its contact sheet and its scores.

        Prints the table of the applications; that of several is saved as images/applications.csv.
        """
        summaries = [self._save(name, pictures, names) for name, pictures in drawn.items()]
        if self.scorers:
            print(f"\n{text_table(summaries)}\n(95 % intervals over the prompts)")
            if len(summaries) > 1:
                print(f"table: {self.run.images.save_rows('applications', summaries)}")

    def _save(
        self, application: str, pictures: Sequence[Picture], names: PromptNames
    ) -> dict[str, Score]:
        """Save what `save` saves of one application; return the summary of its scores."""
        images = self.run.images
        captions: list[str] = []
        images.save(application, pictures)
        summary: dict[str, Score] = {"application": application}
        if self.scorers:
            sets = PictureSets(self.subject, names.identifier, pictures, (), in_text=names.in_text)
            scored = evaluate(self.scorers, sets, self.run.config["seed"]).rows
            rows = [{**row, **outcome_of(row)} for row in scored]
            images.save_rows(application, rows)
            captions = list(filter(None, map(_caption, rows)))
            numbers = OUTCOMES if captions else ("dino", "clip_t")
            summary |= {"prompts": len(self.prompts[application]), "images": len(pictures)}
            summary |= summary_of(rows, numbers)
        print(f"contact sheet: {images.save_contact_sheet(application, pictures, captions)}")
        return summary


def _caption(row: Mapping[str, Score]) -> str:
    """ "shown, kept"; "" if the image is not judged."""
    if "both" not in row:
        return ""
    return f"{'shown' if row['asked'] else 'missed'}, {'kept' if row['kept'] else 'lost'}"
