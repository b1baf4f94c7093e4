"""The page in a real browser: each thing that a person can do on it."""

import csv
import io
import json
import re
import time
from pathlib import Path
from urllib.parse import urlencode

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    (p for p in map(Path, ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")) if p.exists()),
    None,
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="session")
def chromium():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, running):
    """Return a function that opens the page of a server; errors of its script and requests elsewhere fail the test."""
    pages = []

    def open_page(width=1280, height=900, **changes):
        url = running(**changes)
        page = chromium.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(90_000)  # of machines with other work
        page.url_of_server, page.odd = url, []
        page.on("pageerror", lambda error: page.odd.append(str(error)))
        page.on("request", lambda r: page.odd.append(r.url) if not r.url.startswith((url, "data:", "blob:")) else None)
        page.on("console", lambda m: page.odd.append(m.text) if "Content Security" in m.text else None)
        page.goto(url)
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        assert page.odd == []
        page.close()


def until(page, expression, timeout=90):
    """Wait until an expression is true; the page itself may not evaluate words."""
    end = time.monotonic() + timeout
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(20)


def choose(page, path):
    page.set_input_files("#file", path)
    page.wait_for_selector(".case")
    until(page, "!document.querySelector('#drop').classList.contains('busy')")


def cases_of(page):
    return page.eval_on_selector_all(".case img", "all => all.map((image) => image.getAttribute('src'))")


def fits(page):
    return page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


DROP = """([name, bytes, type]) => {
  const held = new DataTransfer();
  held.items.add(new File([Uint8Array.from(bytes)], name, { type }));
  const settings = { dataTransfer: held, bubbles: true, cancelable: true };
  for (const kind of ["dragenter", "dragover", "drop"])
    document.querySelector("#drop").dispatchEvent(new DragEvent(kind, settings));
}"""
PASTE = """([bytes]) => {
  const clipboardData = new DataTransfer();
  clipboardData.items.add(new File([Uint8Array.from(bytes)], "p.png", { type: "image/png" }));
  document.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
}"""
SET = """([where, value, event]) => {
  document.querySelector(where).value = value;
  document.querySelector(where).dispatchEvent(new Event(event));
}"""
SOURCES = "[...document.querySelectorAll('.case img')].map((i) => i.getAttribute('src')).join(',')"


def test_drop_an_image_and_read_the_grid(visit, paint, tmp_path):
    page = visit()
    image = paint(tmp_path / "new.png", 777)
    page.evaluate(DROP, ["new.png", list(image.read_bytes()), "image/png"])
    page.wait_for_selector(".case")
    assert page.locator(".case").count() == 12  # each patient once
    assert re.fullmatch(r"0\.\d{3}|1\.000", page.locator(".case .score span").first.inner_text())
    assert "grade" in page.locator(".case .column").first.inner_text()
    assert page.locator("#count").inner_text() == "12 most similar of 48 cases"
    labels = page.locator("#labels").inner_text()
    assert "beside the whole store" in labels
    until(page, "document.querySelector('#labels .said').textContent.includes('was right for')")
    page.wait_for_selector(".finding")
    assert page.locator(".finding").count() == 2
    assert "calibrated" in page.locator(".run h3").inner_text()
    assert "prediction set" in page.locator("#finding-list").inner_text()
    assert "training data" in page.locator("#finding-list").inner_text()
    assert "p1" not in page.locator("#grid").inner_text()
    assert fits(page)


def test_paste_an_image(visit, paint, tmp_path):
    page = visit()
    image = paint(tmp_path / "new.png", 777)
    until(page, "document.title.includes('gallery')")
    page.evaluate(PASTE, [list(image.read_bytes())])
    page.wait_for_selector(".case")


def test_go_on_from_a_case_and_back(visit, paint, tmp_path):
    page = visit()
    choose(page, paint(tmp_path / "new.png", 777))
    before = cases_of(page)
    page.locator(".case .open").nth(2).click()
    until(page, "location.hash.includes('case=')")
    until(page, f"{SOURCES} !== {json.dumps(','.join(before))}")
    assert "token" not in page.url
    assert "new.png" not in page.url
    there = cases_of(page)
    link = page.url
    page.go_back()
    until(page, f"{SOURCES} === {json.dumps(','.join(before))}")
    assert cases_of(page) == before
    page.go_forward()
    until(page, f"{SOURCES} === {json.dumps(','.join(there))}")
    page.goto("about:blank")
    page.odd.clear()
    page.goto(link)  # a link that was kept shows the same
    page.wait_for_selector(".case")
    assert cases_of(page) == there


def test_begin_with_a_stored_case(visit):
    """Someone without an image begins with one of the store, each of another patient."""
    page = visit()
    page.wait_for_selector("#example-list img")
    assert page.locator("#example-list button").count() == 12
    until(page, "[...document.querySelectorAll('#example-list img')].every((i) => i.naturalWidth > 0)")
    page.locator("#example-list button").nth(3).click()
    page.wait_for_selector(".case")
    assert not page.locator("#examples").is_visible()
    assert "stored case" in page.locator("#query-name").inner_text()
    page.locator("#clear").click()
    assert page.locator("#examples").is_visible()


def test_filters(visit, paint, tmp_path):
    page = visit()
    choose(page, paint(tmp_path / "new.png", 777))
    page.click("#options summary")
    assert page.locator("fieldset legend").all_inner_texts() == ["grade", "site"]
    page.click("button.value:has-text('north')")
    until(page, "[...document.querySelectorAll('.case')].every((c) => c.innerText.includes('north'))")
    assert page.locator(".case").count() == 6
    assert page.locator("#n-filters").inner_text().strip() == "(1)"
    assert "filters" in page.url
    page.uncheck("#one-per")
    until(page, "document.querySelectorAll('.case').length === 20")
    page.select_option("#k", "10")
    until(page, "document.querySelectorAll('.case').length === 10")


@pytest.mark.parametrize(
    "filters", ["null", "5", "[1]", '{"site": 5}', '{"site": ["gone"]}', '{"__proto__": ["x"]}', "{", '{"gone": ["x"]}']
)
def test_a_link_of_somebody_else(filters, visit):
    """Filters that this store does not have are left out, and the page works."""
    page = visit()
    until(page, "document.title.includes('gallery')")
    page.goto(f"{page.url_of_server}#{urlencode({'filters': filters})}")
    page.reload()
    until(page, "document.title.includes('gallery')")
    assert page.locator("#error").is_hidden()
    assert page.locator("#n-filters").inner_text() == ""


def test_a_region_of_the_query(visit, gallery):
    page = visit(features=["texture/image"])
    choose(page, gallery / "images" / "08.png")
    before = page.locator(".case .score span").first.inner_text()
    box = page.locator("#query-image").bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    page.wait_for_selector("#region:visible")
    until(page, f"document.querySelector('.case .score span').textContent !== '{before}'")
    page.click("#clear-region")
    until(page, f"document.querySelector('.case .score span').textContent === '{before}'")


def test_no_sentence_is_asked_for_that_the_encoder_cannot_read(visit):
    visit(features=["texture/image"]).wait_for_selector("#words", state="hidden")
    page = visit(features=["clip/image"])
    page.wait_for_selector("#example-list img")
    assert page.locator("#words").is_visible()


def test_words_and_their_weight(visit, paint, tmp_path):
    page = visit(features=["clip/image"])
    page.fill("#text", "rough tissue")
    page.press("#text", "Enter")
    page.wait_for_selector(".case")
    assert "rough" not in page.url
    assert not page.locator("#weight-row").is_visible()
    choose(page, paint(tmp_path / "new.png", 777))
    assert page.locator("#weight-row").is_visible()
    before = cases_of(page)
    page.evaluate(SET, ["#weight", "0", "change"])
    until(page, f"{SOURCES} !== {json.dumps(','.join(before))}")


def test_more_and_less_like(visit, paint, tmp_path):
    page = visit()
    choose(page, paint(tmp_path / "new.png", 777))
    page.locator(".case").nth(5).get_by_label("More like this").click()
    page.wait_for_selector("#refine:visible")
    assert page.locator("#refine-text").inner_text() == "more like 1"
    page.locator(".case").nth(3).get_by_label("Less like this").click()
    until(page, "document.querySelector('#refine-text').textContent === 'more like 1, less like 1'")
    page.click("#clear-refine")
    page.wait_for_selector("#refine", state="hidden")


def test_heat_map_with_its_opacity(visit, served, gallery):
    page = visit(runs=[served / "areas"])
    choose(page, gallery / "images" / "45.png")
    page.locator(".finding").first.click()
    page.wait_for_selector("#heat:visible")
    page.evaluate(SET, ["#opacity", "0.2", "input"])
    assert page.locator("#heat").evaluate("heat => heat.style.opacity") == "0.2"
    page.click("#hide-heat")
    assert page.locator("#heat").is_hidden()


def test_large_view_beside_the_query(visit, gallery):
    page = visit()
    choose(page, gallery / "images" / "45.png")
    page.locator(".case").nth(1).get_by_label("Enlarge").click()
    page.wait_for_selector("#large[open]")
    assert page.locator(".pan img:visible").count() == 2
    pan = page.locator("#right-pane .pan")
    pan.hover()
    page.mouse.wheel(0, -400)
    scales = page.locator(".pan img").evaluate_all("all => all.map((image) => image.style.transform)")
    assert scales[0] == scales[1]
    assert "scale(1)" not in scales[0]
    page.keyboard.press("ArrowRight")
    assert page.locator("#large-name").inner_text().startswith("Case 3 of ")
    page.click("#large-like")
    until(page, "location.hash.includes('case=')")


def test_blind_reading(visit, gallery, tmp_path):
    """No finding is shown, nor asked for, before the reader's own call is recorded."""
    page = visit(blind=True)
    asked = []
    page.on("request", lambda r: asked.append(r.url) if "findings" in r.url else None)
    choose(page, gallery / "images" / "45.png")
    page.wait_for_selector("#blind:visible")
    assert asked == []
    assert page.locator(".finding").count() == 0
    page.click("#own-calls button:has-text('low')")
    page.click("#reveal")
    page.wait_for_selector(".finding")
    page.click("[data-agree=disagree]")
    until(page, "document.querySelector('#agreed').textContent === 'recorded'")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "log" / "calls.csv").read_text())))
    assert [row["own_call"] for row in rows] == ["low", "low"]
    assert rows[1]["agreement"] == "disagree"
    assert rows[1]["run"] == "grade"


def test_what_was_shown_can_be_saved(visit, gallery, tmp_path):
    page = visit()
    choose(page, gallery / "images" / "45.png")
    page.wait_for_selector(".finding")
    with page.expect_download() as saved:
        page.click("#save-csv")
    rows = list(csv.DictReader(io.StringIO(Path(saved.value.path()).read_text())))
    assert [row["rank"] for row in rows] == [str(i + 1) for i in range(page.locator(".case").count())]
    assert set(rows[0]) == {"rank", "similarity", "case", "grade", "site", "age"}
    with page.expect_download() as saved:
        page.click("#save-json")
    told = json.loads(Path(saved.value.path()).read_text())
    assert len(told["hits"]) == len(rows)
    assert told["findings"][0]["run"] == "grade"


def test_an_error_in_place_and_it_goes_on(visit, gallery, tmp_path):
    page = visit()
    (tmp_path / "broken.png").write_bytes(b"no image")
    page.set_input_files("#file", tmp_path / "broken.png")
    page.wait_for_selector("#error:visible")
    assert "Not an image" in page.locator("#error").inner_text()
    choose(page, gallery / "images" / "45.png")
    assert page.locator("#error").is_hidden()
    page.fill("#text", "rough")
    page.press("#text", "Enter")  # no, texture comes second: clip reads it
    until(page, "!document.querySelector('#drop').classList.contains('busy')")


def test_keyboard(visit, gallery):
    page = visit()
    choose(page, gallery / "images" / "45.png")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.place") == "1"
    page.keyboard.press(" ")
    page.wait_for_selector("#large[open]")
    page.keyboard.press("Escape")
    page.evaluate("document.querySelectorAll('.case')[1].focus()")
    page.keyboard.press("+")
    page.wait_for_selector("#refine:visible")
    page.evaluate("document.querySelectorAll('.case')[1].focus()")
    page.keyboard.press("Enter")
    until(page, "location.hash.includes('case=')")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Backspace")
    until(page, "!location.hash.includes('case=')")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "text"
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("?")
    page.wait_for_selector("#help[open]")


def test_on_a_phone(visit, gallery):
    page = visit(width=360, height=740)
    assert fits(page)
    choose(page, gallery / "images" / "45.png")
    page.wait_for_selector(".finding")
    assert fits(page)
    widths = page.locator("button:visible").evaluate_all("all => all.map((b) => b.getBoundingClientRect().height)")
    assert min(widths) >= 26


def test_in_the_dark_it_is_dark(chromium, running):
    page = chromium.new_page(color_scheme="dark")
    page.goto(running())
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 18, 21)"
    page.close()
