"""MLflow's pages in a real browser: two runs are ticked and compared."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from tests.conftest import ROOT, serving, set_parameters, stage
from tests.test_tracking import runs_of

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# For the person who wants to see what the test saw.
SCREENSHOTS = ROOT / "build" / "screenshots"


@pytest.fixture
def page() -> Iterator[Page]:
    """A page of a browser that talks to nobody but this machine."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"no browser on this machine ({', '.join(BROWSERS)}): `apt-get install chromium` on Debian")
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu", *quiet])
        page = browser.new_page(viewport={"width": 1500, "height": 1300})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def test_the_report_reads_well_on_a_phone_and_on_a_wide_screen(finished: Path, page: Page) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for name, width in (("phone", 390), ("wide", 1600)):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto((finished / "metrics" / "report.html").as_uri())
        page.screenshot(path=SCREENSHOTS / f"report_{name}.png", full_page=True)
        # Nothing has to be scrolled sideways but tables, in their own frame; all pictures are drawn.
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("Array.from(document.images).every(image => image.complete && image.naturalWidth > 0)")
        assert page.locator(".poster").count() == 36
        sizes = page.evaluate(
            "Array.from(document.querySelectorAll('p, td, li')).map(e => parseFloat(getComputedStyle(e).fontSize))"
        )
        assert min(sizes) >= 12


def test_two_runs_are_compared(repository: Path, page: Page) -> None:
    stage("track", cwd=repository)
    set_parameters(repository, epochs=3, architecture="tutorial")
    for name in ("train", "evaluate"):
        stage(name, cwd=repository)
    names = sorted(one.info.run_name or "" for one in runs_of(repository))
    assert names == ["residual, 1 epochs", "tutorial, 3 epochs"]
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with serving("mlflow", "ui", "--port", "{port}", "--workers", "1", cwd=repository, healthy="/health") as (address, _):
        page.goto(f"{address}/#/experiments")
        page.get_by_role("link", name="poster-genres").first.click()
        page.wait_for_url("**/experiments/*")
        runs = page.url.split("?")[0].rstrip("/").removesuffix("/runs") + "/runs"
        page.goto(runs)
        for name in names:
            page.get_by_role("link", name=name, exact=True).first.wait_for()
        for _ in names:
            page.get_by_label("Press Space to toggle row selection (unchecked)").first.check(force=True)
        page.get_by_role("button", name="Compare").click()
        page.get_by_text("Comparing 2 Runs").first.wait_for()
        # The differing values of a parameter stand beside each other.
        row = page.get_by_role("row").filter(has_text="architecture").first
        row.wait_for()
        assert {"tutorial", "residual"} <= set(row.inner_text().split())
        row.scroll_into_view_if_needed()
        page.screenshot(path=SCREENSHOTS / "compare.png")

        # Both runs' curves are in one chart.
        page.goto(f"{runs}?compareRunsMode=CHART")
        page.get_by_placeholder("Search metric charts").fill("validation/macro_average_precision")
        curves = page.locator(".js-plotly-plot .scatterlayer .trace")
        curves.nth(1).wait_for(state="attached")
        page.screenshot(path=SCREENSHOTS / "curves.png")
        for name in names:
            assert page.get_by_text(name).count() >= 2, name  # in the list of runs, and in the legend
