"""The page in real Chromium, as a reader has it: opened from a file, without a network."""

import json
import shutil
import time
from io import BytesIO

import pytest
import torch
from made_up import made_up_sweep
from PIL import Image

from dreambooth.reporting.figures import write_figures
from dreambooth.reporting.findings import findings
from dreambooth.reporting.page import as_json, number, p_value, signed, write_page
from dreambooth.reporting.study import read_study
from dreambooth.reporting.study_tables import tables_of
from dreambooth.runs.pictures import Picture
from dreambooth.runs.run import Run

pytestmark = [pytest.mark.browser, pytest.mark.slow]

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
HOSTILE = "</script><script>document.title='taken'</script> \"quoted\" & <img src=x onerror=x()>"
PHONE, DESK = {"width": 390, "height": 800}, {"width": 1280, "height": 900}


def written(sweep, folder, with_figures=False):
    study = read_study([sweep])
    tables = tables_of(study)
    figures = write_figures(study, folder / "figures") if with_figures else []
    return study, write_page(study, tables, findings(tables), figures, folder)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A page of 12 runs, one of them failed, one running, one with a hostile prompt."""
    folder = tmp_path_factory.mktemp("page")
    sweep = made_up_sweep(
        folder / "sweep",
        subjects=("biscuit", "comet"),
        images_per_prompt=1,
        num_class_images=8,
        failed={3: f"the loss is NaN: {HOSTILE}"},
        running=[7],
    )
    pixels = torch.full((3, 200, 300), 90, dtype=torch.uint8)
    Run(sweep / "0", {}).images.save("prompts", [Picture(pixels, HOSTILE, 0, HOSTILE)])
    return written(sweep, folder / "reports" / "made up", with_figures=True)


@pytest.fixture(scope="module")
def browser():
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    if executable is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=executable, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser):
    """Opens a page; whatever it says in the console or asks from elsewhere fails the test."""
    contexts, complaints = [], []

    def open_page(path, size=DESK, scheme="light", **settings):
        context = browser.new_context(
            viewport=size, color_scheme=scheme, offline=True, reduced_motion="reduce", **settings
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: complaints.append(f"console: {said.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("request", lambda request: check(request.url))
        page.goto(path.as_uri())
        return page

    def check(url):
        if not url.startswith(("file:", "data:")):
            complaints.append(f"request: {url}")

    open_page.complaints = complaints
    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def texts(page, selector):
    return page.locator(selector).all_text_contents()


def values(page, column):
    """The numbers of a column of the first table, as they stand; None where there is none."""
    cells = page.locator(f"#tables table >> nth=0 >> tbody tr td:nth-child({column})")
    found = cells.evaluate_all("cells => cells.map(cell => cell.dataset.value ?? null)")
    return [None if value is None else float(value) for value in found]


def wait_for(page, condition):
    """Asked from outside: the page's own policy forbids it to evaluate text."""
    end = time.monotonic() + 30
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(20)


def no_sideways_scroll(page):
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_it_asks_for_nothing_but_itself(report, visit):
    _, path = report
    page = visit(path)
    requested = page.evaluate("performance.getEntriesByType('resource').map(e => e.name)")
    assert [url for url in requested if not url.startswith("data:")] == []
    assert page.title() == "sweep: ablation report"
    assert page.locator("main section h2").all_text_contents() == [
        "Summary",
        "Tables",
        "Figures",
        "Images",
        "Gaps",
        "Provenance",
    ]


def test_the_summary_says_what_was_run_and_what_the_paper_says_to_it(report, visit):
    study, path = report
    page = visit(path)
    lede = page.locator(".lede").text_content()
    assert "12 runs: 6 cells, 2 subjects and 1 seed (10 finished, 1 failed and 1 running)" in lede
    said = texts(page, ".findings li")
    assert len(said) == len(findings(tables_of(study)))


def test_it_can_be_read_without_scripts(report, visit):
    _, path = report
    page = visit(path, java_script_enabled=False)
    assert page.locator("#tables tbody tr").count() > 6
    assert page.locator("figure svg").count() >= 5
    assert page.locator("#filters").is_hidden()
    assert page.locator(".copy").first.is_hidden()


def test_a_heading_sorts_its_table_and_blanks_stay_last(report, visit):
    _, path = report
    page = visit(path)
    heading = page.locator("#tables table >> nth=0 >> thead th:nth-child(2)")
    before = values(page, 2)
    numbers = sorted(v for v in before if v is not None)
    blanks = [None] * (len(before) - len(numbers))
    assert before != numbers + blanks
    heading.locator("button").click()
    assert values(page, 2) == numbers[::-1] + blanks
    assert heading.get_attribute("aria-sort") == "descending"
    heading.locator("button").click()
    assert values(page, 2) == numbers + blanks
    assert heading.get_attribute("aria-sort") == "ascending"
    page.locator("#tables table >> nth=0 >> thead th:nth-child(1) button").click()
    labels = texts(page, "#tables table >> nth=0 >> tbody th")
    assert labels == sorted(labels)
    assert heading.get_attribute("aria-sort") is None


def test_filters_choose_subject_prompt_and_cell(report, visit):
    study, path = report
    page = visit(path)
    filters = page.locator("#filters")
    subject, prompt, cell = (filters.locator(f"[name={n}]") for n in ("subject", "group", "cell"))
    subject.select_option("comet")
    prompt.select_option("a [V] in the snow")
    own = [t for t in study.trials if t.subject == "comet" and t.status.state == "finished"]
    assert page.locator(".tile").count() == len(own) == 4
    assert texts(page, ".group h3") == ["comet: a [V] in the snow"]
    cell.select_option(study.cells[-1].label)
    assert texts(page, ".tile span") == [study.cells[-1].label]
    assert page.locator("#count").text_content() == "1 image"
    subject.select_option("All subjects")
    assert page.locator(".tile").count() == 2
    prompt.select_option("the subject's photos")
    assert page.locator(".tile").count() == 10  # photos are of no cell


def test_more_pictures_come_when_asked_for(report, visit):
    _, path = report
    page = visit(path)
    page.locator("#filters [name=subject]").select_option("All subjects")
    first = page.locator(".tile").count()
    total = int(page.locator("#count").text_content().split()[0])
    assert 120 <= first < total
    while page.locator("#more").is_visible():
        page.locator("#more").click()
    assert page.locator(".tile").count() == total


def test_a_picture_opens_in_full_size_with_what_made_it(report, visit):
    study, path = report
    trial = study.cells[-1].trials[0]
    trial.run.weights.mkdir(exist_ok=True)
    path = write_page(study, [], [], [], path.parent.parent / "with weights")
    page = visit(path)
    page.locator("#filters [name=group]").select_option("a [V] in the snow")
    page.locator("#filters [name=cell]").select_option(study.cells[-1].label)
    page.locator(".tile").first.click()
    dialog = page.locator("#large")
    picture = dialog.locator("img")
    assert "sweep" in picture.get_attribute("src")
    wait_for(page, "document.querySelector('#large img').naturalWidth === 64")
    said = dialog.inner_text()
    (row,) = (r for r in trial.rows if r["template"] == "a {} in the snow")
    assert row["prompt"] in said
    assert study.cells[-1].label in said
    assert f"{row['dino']:.4g}" in said
    command = dialog.locator("code").text_content()
    assert command.startswith(f"python src/generate.py run={trial.run.folder}")
    assert "first_index=0" in command
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    dialog.locator(".copy").click()
    wait_for(page, "document.querySelector('#large .copy').textContent === 'Copied'")
    assert page.evaluate("navigator.clipboard.readText()") == command


def test_a_picture_whose_file_is_gone_is_shown_by_its_thumbnail(tmp_path, visit):
    sweep = made_up_sweep(
        tmp_path / "s", axes={"prior.lambda": ("0",)}, images_per_prompt=1, num_class_images=1
    )
    _, path = written(sweep, tmp_path / "report")
    shutil.rmtree(sweep)
    page = visit(path)
    page.locator(".tile").nth(7).click()
    wait_for(page, "document.querySelector('#large img').src.startsWith('data:')")
    wait_for(page, "document.querySelector('#large img').naturalWidth === 64")
    assert page.locator("#file").is_hidden()
    assert [said for said in visit.complaints if "FILE_NOT_FOUND" not in said] == []
    visit.complaints.clear()  # the browser itself says that the file is gone


def test_everything_works_by_keyboard(report, visit):
    _, path = report
    page = visit(path)
    keys = page.keyboard
    keys.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    keys.press("Enter")
    assert page.url.endswith("#summary")

    def tab_to(selector, most=150):
        for _ in range(most):
            keys.press("Tab")
            if page.evaluate(f"document.activeElement.matches({selector!r})"):
                return
        raise AssertionError(f"Tab does not reach {selector}")

    tab_to("#tables th:nth-child(2) .sort")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    keys.press("Enter")
    numbers = [v for v in values(page, 2) if v is not None]
    assert numbers == sorted(numbers, reverse=True)
    tab_to("#filters [name=cell]")
    tab_to(".tile")
    keys.press("Enter")
    assert page.locator("#large").is_visible()
    title = page.locator("#large-title").text_content
    picture = page.locator("#large img").get_attribute
    first = picture("alt")
    keys.press("ArrowRight")
    assert picture("alt") != first
    keys.press("ArrowLeft")
    assert picture("alt") == first
    for _ in range(6):  # past the photos
        keys.press("ArrowRight")
    prompt, before = title(), picture("alt")
    keys.press("ArrowDown")
    assert picture("alt") != before
    assert (
        picture("alt").split(":")[0].split(", index")[1] == before.split(":")[0].split(", index")[1]
    )
    keys.press("ArrowUp")
    assert (title(), picture("alt")) == (prompt, before)
    for _ in range(12):
        keys.press("Tab")
        inside = (
            "document.activeElement === document.body || !!document.activeElement.closest('dialog')"
        )
        assert page.evaluate(inside)
    keys.press("Escape")
    assert page.locator("#large").is_hidden()
    assert page.evaluate("document.activeElement.querySelector('img').alt") == before


def test_a_phone_scrolls_down_only(report, visit):
    _, path = report
    page = visit(path, PHONE)
    assert no_sideways_scroll(page)
    for details in page.locator("details").all():
        details.evaluate("element => element.open = true")
    assert no_sideways_scroll(page)
    page.locator(".tile").nth(9).click()
    assert no_sideways_scroll(page)
    assert page.locator("#large").evaluate("d => d.scrollWidth <= d.clientWidth")


@pytest.mark.parametrize(("scheme", "size"), [("light", DESK), ("dark", PHONE)])
def test_axe_finds_nothing_serious(report, visit, scheme, size):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    _, path = report
    page = visit(path, size, scheme)
    for details in page.locator("details").all():
        details.evaluate("element => element.open = true")
    assert serious(axe.run(page)) == []
    page.locator(".tile").nth(9).click()
    assert serious(axe.run(page)) == []


def serious(results):
    return [
        (found["id"], [node["html"][:200] for node in found["nodes"][:3]])
        for found in results.response["violations"]
        if found["impact"] in ("serious", "critical")
    ]


def test_text_from_runs_is_only_ever_text(report, visit):
    _, path = report
    page = visit(path)
    assert page.title() == "sweep: ablation report"
    assert any(HOSTILE in reason for reason in texts(page, ".gaps p"))
    page.locator("#filters [name=group]").select_option(HOSTILE)
    assert texts(page, ".group h3") == [f"biscuit: {HOSTILE}"]
    page.locator(".tile").first.click()
    assert page.locator("#large-title").text_content() == HOSTILE
    assert page.locator("script").count() == 2
    assert "<script>document" not in path.read_text()


def test_gaps_have_their_reason_and_the_command_that_fills_them(report, visit):
    study, path = report
    page = visit(path)
    gaps = [trial for trial in study.trials if trial.status.state != "finished"]
    assert texts(page, ".gaps code") == [trial.command for trial in gaps]
    assert texts(page, ".gaps .state") == [trial.status.state for trial in gaps] != []
    assert any("40 %" in said for said in texts(page, ".gaps p"))


def test_print_has_no_controls(report, visit):
    _, path = report
    page = visit(path, scheme="dark")
    page.emulate_media(media="print")
    for selector in ("nav", "#filters", ".copy >> nth=0"):
        assert page.locator(selector).is_hidden()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_six_runs_of_a_hundred_pictures_are_light_and_open_fast(tmp_path, visit):
    sweep = made_up_sweep(tmp_path / "sweep", images_per_prompt=3, num_class_images=25)
    details = []
    for i in range(4):  # as much to compress as a photo
        file = BytesIO()
        noise = [Image.effect_noise((256, 256), 40 + i) for _ in range(3)]
        soft = Image.merge("RGB", noise).resize((85, 85)).resize((256, 256))
        soft.save(file, "PNG", compress_level=1)
        details.append(file.getvalue())
    for i, picture in enumerate(sweep.glob("*/images/*/*.png")):
        if picture.parent.name in ("prompts", "class"):
            picture.write_bytes(details[i % 4])
    _, path = written(sweep, tmp_path / "report", with_figures=True)
    assert path.stat().st_size < 15e6
    seconds = []
    for _ in range(3):  # the machine may be busy with other things
        started = time.monotonic()
        page = visit(path)  # until everything is loaded
        page.locator(".tile").first.wait_for()
        seconds.append(time.monotonic() - started)
    assert int(page.locator("#count").text_content().split()[0]) >= 600
    assert min(seconds) < 4  # 2 to 3 s on a busy core


def test_json_cannot_end_the_block_that_holds_it():
    text = as_json({"a": "</script><!-- & \u2028"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": "</script><!-- & \u2028"}


def test_numbers_are_read_as_the_tables_print_them():
    nan = float("nan")
    assert [number(v) for v in (0.12345, -0.5, nan, 21.93)] == ["0.123", "−0.500", "–", "21.9"]
    assert [signed(v) for v in (0.25, 0.0, -12.3)] == ["+0.250", "0.000", "−12.3"]
    assert [p_value(v) for v in (0.0004, 0.04, nan)] == ["< 0.001", "0.040", "–"]
