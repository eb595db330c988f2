"""The planner: its components and its promise of power, against simulated studies."""

import re
import shlex
from dataclasses import replace

import numpy as np
import pytest
from commands import command
from made_up import made_up_sweep
from PIL import Image
from scipy import stats

from dreambooth.reporting.designs import Design, cheapest, count_claims, designs, pilot_of
from dreambooth.reporting.plan import sweep_command
from dreambooth.reporting.statistics import difference, paired
from dreambooth.reporting.study import read_study
from dreambooth.reporting.variance import Components, components, least_effect, power
from dreambooth.runs.cells import find_runs
from dreambooth.runs.run import Run

PROMPTS = 5
FIVE = ("biscuit", "olive", "clover", "pepper", "coral")


def simulated(rng, n, k, m, effect, subject, seed, picture):
    """Scores of two settings; the deviations of subject, seed and image are of the difference."""
    a, b = {}, {}
    of_prompt = np.linspace(-1, 1, PROMPTS)  # fixed: the same prompts in every study
    for s in range(n):
        of_subject = rng.normal(0, subject)
        for seed_number in range(k):
            of_run = rng.normal(0, seed)
            noise = rng.normal(0, picture, (PROMPTS, m))
            run = (f"s{s}", str(seed_number))
            shared = rng.normal(0, 3)  # cancels in the pair
            b[run] = {(f"p{p}", i): shared for p in range(PROMPTS) for i in range(m)}
            a[run] = {
                (f"p{p}", i): shared + effect + of_subject + of_run + of_prompt[p] + noise[p, i]
                for p in range(PROMPTS)
                for i in range(m)
            }
    return a, b


def test_the_components_are_those_of_the_simulation():
    rng = np.random.default_rng(0)
    found = [components(paired(*simulated(rng, 12, 3, 4, 0.1, 0.3, 0.2, 0.5))) for _ in range(150)]
    assert np.mean([c.subject for c in found]) == pytest.approx(0.09, rel=0.1)
    assert np.mean([c.seed for c in found]) == pytest.approx(0.04, rel=0.1)
    assert np.mean([c.image for c in found]) == pytest.approx(0.25 / PROMPTS, rel=0.05)


def test_what_a_pilot_cannot_tell_apart_is_left_in_the_level_above():
    rng = np.random.default_rng(1)
    one_seed = components(paired(*simulated(rng, 400, 1, 4, 0, 0.3, 0.2, 0.5)))
    assert one_seed.seed is None
    assert one_seed.subject == pytest.approx(0.09 + 0.04, rel=0.2)
    one_picture = components(paired(*simulated(rng, 400, 2, 1, 0, 0.3, 0.2, 0.5)))
    assert one_picture.image is None
    assert one_picture.seed == pytest.approx(0.04 + 0.25 / PROMPTS, rel=0.2)
    assert components(paired(*simulated(rng, 1, 5, 4, 0, 0.3, 0.2, 0.5))) is None


@pytest.mark.slow
@pytest.mark.parametrize(("n", "k", "m"), [(5, 1, 4), (8, 2, 2), (20, 1, 1), (6, 3, 1)])
def test_a_design_that_is_called_80_percent_has_80_percent(n, k, m):
    """Of the report's own test, on 700 simulated studies: within 75 to 85 %."""
    parts = Components(0.09, 0.04, 0.25 / PROMPTS)
    effect = least_effect(parts.of_subject(k, m), n, 0.05, 0.8)
    assert power(effect, parts.of_subject(k, m), n, 0.05) == pytest.approx(0.8, abs=1e-6)
    rng = np.random.default_rng(2)
    deviations = np.sqrt([0.09, 0.04, 0.25])
    p = [difference(*simulated(rng, n, k, m, effect, *deviations)).p for _ in range(700)]
    assert 0.75 < np.mean(np.array(p) < 0.05) < 0.85


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_without_an_effect_the_power_is_the_level(alpha):
    assert power(0.0, 0.3, 7, alpha) == pytest.approx(alpha, rel=1e-2)


@pytest.mark.parametrize("n", [2, 3, 5, 12, 40])
@pytest.mark.parametrize("shift", [0.5, 2.0, 4.0])
def test_the_power_is_that_of_the_noncentral_t(n, shift):
    critical = stats.t.ppf(1 - 0.01 / 2, n - 1)
    t = stats.nct(n - 1, shift)
    expected = t.sf(critical) + t.cdf(-critical)
    assert power(shift / np.sqrt(n), 1.0, n, 0.01) == pytest.approx(expected, abs=2e-3)


def test_two_subjects_find_little_however_many_seeds_they_have():
    """scipy's noncentral t has no value there."""
    assert power(0.02, 1e-6, 2, 0.05 / 8) < 0.3


def test_the_power_grows_with_subjects_seeds_and_pictures_and_one_subject_has_none():
    parts = Components(0.01, 0.04, 0.2)
    at = [
        power(0.2, parts.of_subject(k, m), n, 0.05)
        for n, k, m in [(5, 1, 1), (5, 1, 4), (5, 3, 4), (9, 3, 4)]
    ]
    assert at == sorted(at)
    assert len(set(at)) == 4
    assert power(9.0, 0.1, 1, 0.05) == 0


def test_a_power_below_the_level_needs_no_effect():
    assert least_effect(0.3, 7, 0.05, 0.01) == 0


@pytest.fixture(scope="module")
def pilot(tmp_path_factory):
    """Five subjects and two seeds under two values of lambda."""
    axes = {"prior.lambda": ("0", "1")}
    return made_up_sweep(tmp_path_factory.mktemp("pilot") / "pilot", FIVE, (0, 1), axes=axes)


def plan(*overrides):
    return command("plan", *overrides)


@pytest.fixture(autouse=True)
def plans(tmp_path, monkeypatch):
    monkeypatch.setattr("dreambooth.reporting.plan.PLANS", tmp_path / "plans")
    return tmp_path / "plans"


def test_the_command_prints_a_design_its_cost_the_sweep_and_a_figure(pilot, plans):
    ended = plan(f"sweep={pilot}", "metric=dino", "effect=0.05")
    assert ended.code == 0, ended.output
    design = r"\d+ subjects x \d seeds? x \d images? of each prompt +power (0\.[89]|1\.00)"
    assert re.search(design, ended.output)
    (line,) = [line.strip() for line in ended.output.splitlines() if "src/train.py" in line]
    words = shlex.split(line)
    assert "prior.lambda=0,1" in words
    assert "subject=miniature" in words
    assert any(word.startswith("seed=0") for word in words)
    with Image.open(plans / "pilot-dino.png") as figure:
        assert figure.width > 800


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            {"subject": "folder", "photos": "my_dog", "class_noun": "dog", "subject.crop": "pad"},
            "subject.crop=pad seed=0,1 drawing.images_per_prompt=4 subject=folder "
            "photos=FOLDER1,...,FOLDER7",
        ),
        (
            {"subject": "dreambench", "dreambench": "bench", "subject.name": "dog6"},
            "seed=0,1 drawing.images_per_prompt=4 subject=dreambench dreambench=bench "
            "subject.name=NAME1,...,NAME7",
        ),
    ],
)
def test_the_command_for_photos_has_places_for_folders(pilot, tmp_path, said, expected):
    config = {key: said[key] for key in ("photos", "dreambench") if key in said}
    config |= {"subject": {"_target_": "x"}, "overrides": [f"{k}={v}" for k, v in said.items()]}
    study = read_study([pilot])
    trial = replace(study.trials[0], run=Run(tmp_path, config))
    alone = replace(study, cells=(replace(study.cells[0], trials=(trial,)),))
    words = sweep_command(alone, Design(7, 2, 4, 0.8, 1.0))
    assert words == f"python src/train.py -m {expected}"


def test_a_smaller_effect_needs_a_larger_study(pilot):
    study = read_study([pilot])
    one = pilot_of(study, "dino", count_claims(study))
    found = designs(one, 0.05), designs(one, 0.02)
    large, small = (cheapest(each, 0.8) for each in found)
    assert large.power >= 0.8
    pairs = large.num_subjects * large.num_seeds
    assert pairs >= 5
    assert small is None or small.num_subjects * small.num_seeds > pairs


def test_a_study_says_what_it_could_have_seen(pilot):
    ended = plan(f"sweep={pilot}")
    assert ended.code == 0, ended.output
    (line,) = [line for line in ended.output.splitlines() if line.strip().startswith("dino")]
    seen = float(line.split()[1])
    study = read_study([pilot])
    one = pilot_of(study, "dino", count_claims(study))
    variance = one.components.of_subject(2, one.num_images)
    assert power(seen, variance, 5, 0.05 / one.num_claims) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("metric=dino", "effect=0"), "effect=0: give a number above 0"),
        (("metric=dino", "effect=much"), "effect=much: give a number above 0"),
        (("effect=0.1",), "give metric=..., the score to plan for"),
        (("metric=typo", "effect=0.1"), "metric=typo is not among the scores of pilot"),
        (("metric=dino", "effect=0.1", "power=2"), "power=2: give a number between 0 and 1"),
    ],
)
def test_what_is_no_plan_is_refused_in_one_sentence(pilot, overrides, said):
    assert said in plan(f"sweep={pilot}", *overrides).sentence


def test_one_subject_is_no_pilot(tmp_path):
    sweep = made_up_sweep(tmp_path / "one", axes={"prior.lambda": ("0", "1")})
    said = plan(f"sweep={sweep}", "metric=dino", "effect=0.1").sentence
    assert "compared in it on two subjects; run at least two subjects, better five" in said


@pytest.mark.slow
def test_a_metric_that_only_some_runs_have_hides_no_other(tmp_path):
    sweep = made_up_sweep(tmp_path / "some", FIVE, axes={"prior.lambda": ("0", "1")})
    for run in find_runs(sweep)[1:]:
        metrics = run.read_metrics()
        run.write_metrics({name: m for name, m in metrics.items() if name != "clip_i"})
    lines = plan(f"sweep={sweep}").output.splitlines()
    (dino,) = [line for line in lines if line.strip().startswith("dino")]
    (clip_i,) = [line for line in lines if line.strip().startswith("clip_i")]
    assert float(dino.split()[1]) > 0
    assert clip_i.split(maxsplit=1)[1] == "not known: no two settings can be compared in it"
    assert "cannot be a pilot for clip_i" in plan(f"sweep={sweep}", "metric=clip_i").sentence


def test_images_of_another_class_prompt_are_not_compared(tmp_path):
    """PRES with a wrong class noun is of that class: the report does not compare it either."""
    axes = {"class": ("none", "wrong", "correct")}
    study = read_study([made_up_sweep(tmp_path / "nouns", FIVE, axes=axes)])
    compared = {name: pilot_of(study, name, 1).num_comparisons for name in ("dino", "pres")}
    assert compared == {"dino": 3, "pres": 1}
