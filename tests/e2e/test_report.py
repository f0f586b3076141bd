"""Reports in a real browser: they open offline, sort, filter, move by keyboard, and say nothing on the console.

Where there is no Chromium, or no playwright to drive it, the tests are skipped.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seg_cli.data.labels import LabelSpace
from seg_cli.inference.evaluate import Example
from seg_cli.reports.gallery import save_examples
from seg_cli.reports.page_run import make_run_page
from seg_cli.reports.page_runs import make_runs_page
from seg_cli.runs.run import Run
from tests.e2e.conftest import SHAPES, TINY, Outcome
from tests.run_folders import counts_of, write_run

playwright = pytest.importorskip("playwright.sync_api", reason="playwright, which drives a browser, is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EVIL = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=2>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@contextmanager
def opened(browser: Any, path: Path, **options: Any) -> Iterator[Any]:
    """A report with its charts drawn; fails if it says anything on the console, raises, or asks for anything."""
    context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("dialog", lambda dialog: wrong.append("dialog") or dialog.dismiss())
    page.on("request", lambda request: wrong.append(request.url) if request.url.startswith("http") else None)
    page.goto(path.absolute().as_uri())
    page.wait_for_function(
        "window.Plotly && [...document.querySelectorAll('.plot')].every(p => p.querySelector('svg'))"
    )
    yield page
    assert page.evaluate("window.hacked") is None
    assert wrong == []
    context.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of one run and of four, with names that would do harm where they are not escaped."""
    root = tmp_path_factory.mktemp("reports")
    labels = LabelSpace(names=("Road", EVIL, "Sky"), colors=((120, 40, 120), (0, 60, 200), (150, 190, 220)))
    rng = np.random.default_rng(0)
    for model, miou in (("unet", 0.5), (EVIL, 0.7)):
        for seed in (0, 1):
            run = write_run(
                root / "runs" / f"{len(model)} {seed} <img src=x onerror=window.hacked=3>",
                **{"model": model, "seed": seed, "classes": labels.names, "config": {"name": EVIL}},
                counts=counts_of(miou, noise=0.08, seed=seed, images=12),
            )
            lines = [f"{n},{1 / n},{1.1 / n},{0.1 * n + 0.05 * seed}" for n in range(1, 8)]
            (run / "metrics.csv").write_text("\n".join(["epoch,train/loss,val/loss,val/miou", *lines]) + "\n")
            truth = rng.integers(0, 3, (24, 32)).astype(np.uint8)
            image = rng.integers(0, 255, (24, 32, 3)).astype(np.uint8)
            examples = [Example(name, image, truth, np.roll(truth, 2), 0.4) for name in ("a00", EVIL)]
            save_examples(examples, labels, run / "figures" / "examples", [("best", "fixed"), ("worst", "fixed")])
    write_run(root / "runs" / "failed", state="failed", reason=EVIL)
    results = json.loads((run / "results.json").read_text())
    results["splits"]["test"]["confusion"] = [[6, 2, 0], [0, 8, 0], [1, 0, 3]]
    (run / "results.json").write_text(json.dumps(results))
    (root / "run.html").write_text(make_run_page(run))
    (root / "runs.html").write_text(make_runs_page(root / "runs"))
    return root


def test_a_run_opens_and_its_slider_moves_by_keyboard(browser: Any, folder: Path) -> None:
    with opened(browser, folder / "run.html") as page:
        assert EVIL in page.text_content("#classes tbody")
        assert page.locator(".viewer .thumbs button").count() == 2
        slider = page.locator(".stage input[type=range]")
        right = page.locator(".stage img.over").nth(1)
        assert right.evaluate("e => e.style.clipPath") == "inset(0px 0px 0px 50%)"
        slider.focus()
        for _ in range(5):
            page.keyboard.press("ArrowRight")
        assert right.evaluate("e => e.style.clipPath") == "inset(0px 0px 0px 60%)"
        assert slider.get_attribute("aria-valuetext") == "60 % Truth, 40 % Prediction"
        shown = page.locator(".caption").text_content()
        page.keyboard.press("PageDown")
        assert page.locator(".caption").text_content() != shown
        page.locator(".controls select").nth(1).select_option("errors")
        assert page.locator(".side.right").text_content() == "Errors"
        page.get_by_role("button", name="Blink").click()
        assert page.get_by_role("button", name="Blink").get_attribute("aria-pressed") == "true"
        slider.hover(position={"x": 60, "y": 200})
        assert "truth " in page.locator(".caption").text_content()


def test_tables_sort_by_click_and_by_key(browser: Any, folder: Path) -> None:
    def column(page: Any) -> list[float]:
        return [float(text) for text in page.locator("#classes tbody tr td:nth-child(2)").all_text_contents()]

    with opened(browser, folder / "run.html") as page:
        heading = page.locator("#classes th", has_text="IoU").first
        heading.locator("button").click()
        assert heading.get_attribute("aria-sort") == "descending"
        assert column(page) == sorted(column(page), reverse=True)
        heading.locator("button").press("Enter")
        assert heading.get_attribute("aria-sort") == "ascending"
        assert column(page) == sorted(column(page))


def test_themes_change_the_page_and_its_charts(browser: Any, folder: Path) -> None:
    with opened(browser, folder / "run.html", color_scheme="dark") as page:

        def look() -> tuple[str, str, str]:
            ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
            bar = page.evaluate("document.querySelector('[data-chart=classes]').data[0].marker.color")
            numbers = page.evaluate("document.querySelector('[data-chart=confusion]').layout.annotations")
            return ground, bar, next(number["font"]["color"] for number in numbers if number["text"] == "75")

        dark = look()
        assert (dark[0], dark[2]) == ("rgb(20, 23, 26)", "#000000"), "the larger, the lighter"
        button = page.locator("#theme")
        assert button.text_content() == "Theme: auto"
        button.click()
        assert (button.text_content(), look()[0]) == ("Theme: light", "rgb(251, 251, 249)")
        assert look()[1] != dark[1]
        assert look()[2] == "#ffffff", "the larger, the darker"
        button.click()
        assert look() == dark


def test_the_leaderboard_sorts_filters_and_shows_columns(browser: Any, folder: Path) -> None:
    with opened(browser, folder / "runs.html") as page:
        rows = page.locator("#leaderboard tbody tr:visible")
        assert rows.count() == 4
        assert EVIL in rows.first.text_content()
        page.locator("#leaderboard th", has_text="mIoU").locator("button").click()
        assert "unet" in rows.first.text_content()
        assert page.locator("#leaderboard th[aria-sort]").get_attribute("aria-sort") == "ascending"
        page.locator("select[data-key=seed]").select_option("=1")
        assert rows.count() == 2
        assert page.locator("#count").text_content() == "2 of 4 runs"
        page.locator("#search").fill("unet")
        assert rows.count() == 1
        page.get_by_role("button", name="Clear").click()
        assert rows.count() == 4
        heading = page.locator("#leaderboard th", has_text="IoU Road")
        assert not heading.is_visible()
        page.get_by_text("Columns").click()
        page.get_by_label("IoU Road").check()
        assert heading.is_visible()


def test_two_runs_side_by_side_and_their_curves(browser: Any, folder: Path) -> None:
    with opened(browser, folder / "runs.html") as page:
        assert page.evaluate("document.querySelector('#curve-plot').data.length") == 4
        page.locator("#leaderboard [data-pick]").first.uncheck()
        assert page.evaluate("document.querySelector('#curve-plot').data.length") == 3
        page.select_option("#curve-of", "train/loss")
        assert page.evaluate("document.querySelector('#curve-plot').data[0].y[1]") == 0.5
        page.select_option("#run-a", "3")
        page.select_option("#run-b", "0")
        assert "Of 12 images B is better in 12 and worse in 0." in page.text_content("#compare-note")
        assert page.locator("#changed tbody tr").count() == 12
        assert page.locator("#side-by-side img").count() == 8
        assert page.locator("#side-by-side img[alt='']").count() == 0
        assert page.evaluate("document.querySelector('#parallel').data.length") == 4  # of fifths of four runs


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run.html", "runs.html"])
def test_it_fits_a_phone_and_paper_and_all_has_a_name(name: str, browser: Any, folder: Path, tmp_path: Path) -> None:
    nameless = """() => [...document.querySelectorAll('button, select, input, img, a')].filter(e =>
        !(e.getAttribute('aria-label') || e.getAttribute('alt') !== null || e.textContent.trim() ||
          (e.labels && e.labels.length))).map(e => e.outerHTML.slice(0, 80))"""
    with opened(browser, folder / name, viewport={"width": 360, "height": 700}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.evaluate(nameless) == []
        page.screenshot(path=tmp_path / "phone.png", full_page=True)
        pdf = page.pdf(format="A4")
        assert pdf.startswith(b"%PDF")
        assert page.evaluate("document.querySelectorAll('.plot svg').length") > 0, "after printing it is as before"
    with Image.open(tmp_path / "phone.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10


def test_no_script_runs_but_the_pages_own(browser: Any, folder: Path) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto((folder / "run.html").absolute().as_uri())
    insert = "const s = document.createElement('script'); s.textContent = 'window.hacked = 1'; document.body.append(s)"
    page.evaluate(f"() => {{ {insert} }}")
    assert page.evaluate("window.hacked") is None
    context.close()


@pytest.mark.slow
def test_from_a_training_to_a_report(segrun: Callable[..., Outcome], browser: Any) -> None:
    run = Path("outputs/shapes/one")
    assert segrun(*TINY, *SHAPES, f"run_dir={run}").status == 0
    assert (run / "figures" / "examples" / "index.json").is_file()
    assert segrun("report", str(run)).status == 0
    assert segrun("report", "outputs", "--out", "all.html").status == 0
    assert (run / "report.html").stat().st_size < 8e6
    with opened(browser, run / "report.html") as page:
        miou = Run.open(run).results["splits"]["test"]["miou"]
        assert page.locator(".tiles dd").first.text_content().startswith(f"{miou:.3f}")
        assert page.locator("[data-example]").count() >= 3
    with opened(browser, Path("all.html")) as page:
        assert page.locator("#leaderboard tbody tr").count() == 1
