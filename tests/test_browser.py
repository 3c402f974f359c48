"""The report and MLflow's pages in a real browser."""

import re
from itertools import product
from pathlib import Path
from typing import Literal

from playwright.sync_api import Page

from tests.conftest import ROOT, SCREENSHOTS, serving
from tests.test_report import describe, page_with
from tests.test_tracking import runs_of


def test_the_report_reads_well_on_a_phone_and_on_a_wide_screen(finished: Path, page: Page, tmp_path: Path) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page_with(tmp_path, describe([]))  # with the tables and figures that the sample's report has not, and long names
    themes: dict[Literal["light", "dark"], str] = {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 24, 27)"}
    reports = {"sample": (finished / "metrics" / "report.html", 36), "all": (tmp_path / "page.html", 1)}
    for (name, (path, posters)), width, (theme, background) in product(reports.items(), (320, 390, 768, 1440), themes.items()):
        page.goto(path.as_uri())
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=theme)
        page.screenshot(path=SCREENSHOTS / f"report_{name}_{width}_{theme}.png", full_page=True)
        # Nothing is cut or has to be scrolled sideways, and all pictures are drawn.
        wide = "Array.from(document.body.querySelectorAll('*')).filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
        assert page.evaluate(f"{wide}.map(e => e.outerHTML.slice(0, 200))") == []
        assert page.evaluate("Array.from(document.images).every(image => image.complete && image.naturalWidth > 0)")
        assert page.locator(".poster").count() == posters
        texts = "Array.from(document.querySelectorAll('p, td, th, li, small, svg text'))"
        # Figures are scaled by their frame's width over their own.
        scale = "(e.ownerSVGElement ? e.ownerSVGElement.getScreenCTM().a : 1)"
        smallest = page.evaluate(f"Math.min(...{texts}.map(e => parseFloat(getComputedStyle(e).fontSize) * {scale}))")
        assert smallest >= (11.5 if width > 320 else 9.5)  # at 320 figures are drawn smaller than they are
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == background


def test_two_runs_are_compared(experimented: Path, page: Page) -> None:
    names = sorted(one.info.run_name or "" for one in runs_of(experimented))
    assert names == ["residual, 1 epoch", "two-epochs"]
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with serving("mlflow", "ui", "--port", "{port}", "--workers", "1", cwd=experimented, healthy="/health") as (address, _):
        (path,) = re.findall(r"<http://127\.0\.0\.1:5000(/#[^>]+)>", (ROOT / "README.md").read_text(encoding="utf-8"))
        page.goto(f"{address}{path}")
        runs = f"{address}{path.partition('?')[0]}/runs"
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
        page.get_by_placeholder("Search metric charts").fill("curves/validation_macro_average_precision")
        curves = page.locator(".js-plotly-plot .scatterlayer .trace")
        curves.nth(1).wait_for(state="attached")
        page.screenshot(path=SCREENSHOTS / "curves.png")
        for name in names:
            assert page.get_by_text(name).count() >= 2, name  # in the list of runs, and in the legend
