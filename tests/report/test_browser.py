"""The report in a real browser: on a screen, a phone and paper."""

from pathlib import Path

import pytest

from headwater.api import report

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    (p for p in map(Path, ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")) if p.exists()),
    None,
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def written(runs, tmp_path_factory):
    """Two reports: of a few runs with everything, and of the run with names that would break a page."""
    folder = tmp_path_factory.mktemp("reports")
    full = [runs[name] for name in ("image", "text", "both", "south")]
    report(full, out=folder / "full.html", checklist="claim", columns=["age", "site"], by="site")
    report(runs["evil"], out=folder / "evil.html", checklist="stard-ai", columns=["evil"], ids=True)
    for name in ("multiclass", "ordinal", "outputs", "survival", "multilabel"):
        report(runs[name], out=folder / f"{name}.html")
    return folder


@pytest.fixture
def visit(chromium):
    """Return a function that opens a report; errors of its script, of its policy, and any request fail the test."""
    pages = []

    def open_page(path, width=1280, height=900, **options):
        page = chromium.new_page(viewport={"width": width, "height": height}, **options)
        page.odd = []
        page.on("pageerror", lambda error: page.odd.append(str(error)))
        page.on("console", lambda m: page.odd.append(m.text))
        page.on("dialog", lambda d: page.odd.append(d.message))
        page.on("request", lambda r: page.odd.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
        page.goto(path.as_uri())
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        assert page.odd == []
        page.close()


def sideways(page):
    """The number of pixels by which the page is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.mark.parametrize("name", ["full", "evil", "multiclass", "ordinal", "outputs", "survival", "multilabel"])
def test_nothing_overflows_on_a_phone(visit, written, name):
    page = visit(written / f"{name}.html", width=360, height=740)
    assert sideways(page) <= 0
    page.set_viewport_size({"width": 1280, "height": 900})
    assert sideways(page) <= 0


@pytest.mark.parametrize("name", ["full", "survival"])
def test_on_paper(visit, written, tmp_path, name):
    """It prints to PDF; what is for the screen alone is gone, and tables are not cut."""
    page = visit(written / f"{name}.html", width=690)
    page.emulate_media(media="print")
    assert page.locator("nav").is_hidden()
    pictures = page.locator("img").evaluate_all("all => all.map((image) => image.complete && image.naturalWidth > 0)")
    assert all(pictures)  # also those far below, which nobody has scrolled to
    assert name != "full" or len(pictures) > 3
    assert page.locator(".tools").first.is_hidden()
    assert sideways(page) <= 0
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    data = (tmp_path / "report.pdf").read_bytes()
    assert data.startswith(b"%PDF")
    assert data.count(b"/Type /Page\n") + data.count(b"/Type /Page ") + data.count(b"/Type /Page/") >= 2


def test_dark_and_light(visit, written):
    ground = "getComputedStyle(document.body).backgroundColor"
    assert visit(written / "full.html", color_scheme="dark").evaluate(ground) == "rgb(15, 18, 21)"
    assert visit(written / "full.html", color_scheme="light").evaluate(ground) == "rgb(245, 246, 248)"


def test_a_click_sorts_a_table(visit, written):
    page = visit(written / "full.html")
    table = page.locator("table[data-sort]").first
    values = "rows => rows.map((row) => Number(row.cells[3].dataset.v))"
    head = table.locator("th").nth(3)
    head.click()
    up = table.locator("tbody tr").evaluate_all(values)
    head.click()
    down = table.locator("tbody tr").evaluate_all(values)
    assert up == sorted(up)
    assert down == up[::-1]
    assert len(up) == 4


def test_the_map_changes_its_colours_and_shows_pictures(visit, written):
    page = visit(written / "full.html")
    box = page.locator(".mapbox").first
    point = box.locator("circle[data-p]").first
    fill = "element => getComputedStyle(element).fill"
    before = box.locator("circle").evaluate_all("all => all.map((p) => getComputedStyle(p).fill).join()")
    box.locator("select").select_option(label="site")
    assert box.locator("circle").evaluate_all("all => all.map((p) => getComputedStyle(p).fill).join()") != before
    assert box.locator(".legend:visible").inner_text().split() == ["north", "south"]
    assert point.evaluate(fill) != "rgb(0, 0, 0)"
    point.scroll_into_view_if_needed()
    point.hover(force=True)
    tip = box.locator(".tip")
    tip.wait_for(state="visible")
    assert "called" in tip.inner_text()
    assert tip.locator("i").bounding_box()["width"] == 72
    assert "data:image/jpeg" in tip.locator("i").evaluate("e => getComputedStyle(e).backgroundImage")


def test_names_that_would_run_do_not(visit, written):
    """The script of a class name is shown as text, in every table, figure and tip."""
    page = visit(written / "evil.html")
    assert "<script>alert" in page.locator("main").inner_text()
    assert page.locator("script").count() == 1
    assert page.locator("[onload]").count() == 0
    page.locator("circle").first.hover(force=True)
    page.wait_for_timeout(100)
