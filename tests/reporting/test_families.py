"""Prompts by what they ask for, as in the paper's applications and limitations."""

import pytest
from made_up import made_up_sweep

from dreambooth.reporting.families import family_of
from dreambooth.reporting.findings import findings
from dreambooth.reporting.measuring import tables_of
from dreambooth.reporting.study import read_study
from dreambooth.subjects.prompts import DREAMBENCH, MINIBENCH

FIVE = ("biscuit", "olive", "clover", "pepper", "coral")


@pytest.mark.parametrize("kind", ["live", "object"])
def test_every_prompt_of_the_benchmarks_has_a_family(kind):
    for templates in (DREAMBENCH[kind], MINIBENCH[kind]):
        assert all(family_of(template) for template in templates)
    assert family_of("a {}") == ""


@pytest.mark.parametrize(
    ("template", "family"),
    [
        ("a {} in the snow", "recontextualization"),
        ("a {} under water", "recontextualization"),
        ("a {} with a blue house in the background", "recontextualization"),
        ("a {} in a purple wizard outfit", "accessorization"),
        ("a {} wearing a black top hat and a monocle", "accessorization"),
        ("a painting of a {} in the style of Van Gogh", "art rendition"),
        ("a sleeping {}", "expression"),
        ("a {} from behind", "novel view"),
        ("a cube shaped {}", "property modification"),
        ("a {} wearing a crown on the beach", "several at once"),
        ("a painting of a {} in the snow", "several at once"),
        ("a {} in the desert from behind", "several at once"),
    ],
)
def test_a_prompt_belongs_to_the_application_that_it_asks_for(template, family):
    assert family_of(template) == family


def test_applications_and_limitations_are_of_the_cells_that_are_as_in_the_paper(tmp_path):
    sweep = made_up_sweep(tmp_path / "thirty", FIVE)
    tables = {table.key: table for table in tables_of(read_study([sweep]))}
    table = tables["applications"]
    assert [row.label for row in table.rows] == [
        "art rendition",
        "expression",
        "novel view",
        "accessorization",
        "property modification",
        "recontextualization",
        "several at once",
    ]
    assert {row.cell for row in table.rows} == {"lambda-1-correct-class-noun"}
    contexts = table.rows[5].entries["dino"].estimate
    assert contexts.num_images == 5 * 8 * 2
    limits = tables["limitations"]
    claimed_of = [row.label for row in limits.rows if row.entries["copied_excess"].finding]
    assert claimed_of == ["lambda 1, correct class noun"]
    assert limits.rows[0].entries["context_accuracy"].text.startswith("least: a ... ")
    row = next(row for row in limits.rows if row.label in claimed_of)
    copied, null, excess = (
        row.entries[name].estimate.mean for name in ("copied", "copied_null", "copied_excess")
    )
    assert excess == pytest.approx(copied - null)
    (told,) = [f for f in findings([limits]) if "resemble a training photo" in f.sentence]
    assert told.verdict == ""
    assert f"correct class noun {excess:+.3f}" in told.sentence
