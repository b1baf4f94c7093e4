"""The site: it builds without a warning, asks nothing of other servers, and is searched without one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.terminal import environment

pytest.importorskip("sphinx", reason="sphinx is not installed")
ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
LOADED = re.compile(r"""<(?:script|img|iframe|source)\b[^>]*\bsrc="([^"]+)"|<link\b[^>]*\bhref="([^"]+)\"""")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; every warning is an error, also a name that nothing has."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "--keep-going", "-q", "-b", "html", "docs", str(out)]
    env = {**os.environ, **environment(out), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def test_every_page_is_there(site):
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs").with_suffix(".html")).exists(), page


def test_it_loads_nothing_from_elsewhere(site):
    """Pages and styles load files of the site alone; links that a reader may click are free."""
    loaded = set()
    for page in site.rglob("*.html"):
        for found in LOADED.findall(page.read_text()):
            loaded |= {name for name in found if name}
    assert len(loaded) > 10
    assert not [name for name in loaded if name.startswith(("http:", "https:", "//"))]
    for style in site.rglob("*.css"):
        assert not re.findall(r"url\(['\"]?(?:https?:)?//", style.read_text()), style


def test_the_reference_is_whole(site):
    """Each command and each public name has its entry."""
    import headwater
    from headwater.cli import COMMANDS

    commands, names = ((site / f"{page}.html").read_text() for page in ("commands", "reference"))
    for family in COMMANDS.values():
        for name in family:
            assert f"<h3>{name}<" in commands, name
    for name in {*headwater._LAZY, *headwater._VERBS} - {"heads"}:
        assert re.search(rf'id="headwater\.[\w.]*\b{name}"', names), name


def test_it_is_searched_from_a_folder(site):
    """A browser without a server finds pages, and asks nothing of a network."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    browsers = [path for path in map(Path, ("/usr/bin/chromium", "/usr/bin/chromium-browser")) if path.exists()]
    if not browsers:
        pytest.skip("Chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(browsers[0]), args=["--no-sandbox", "--disable-gpu"])
        page, asked = browser.new_page(), []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{(site / 'search.html').as_uri()}?q=calibration")
        page.wait_for_selector("#search-results li a")
        assert "Evaluation" in page.inner_text("#search-results")
        browser.close()
    assert asked
    assert not [url for url in asked if not url.startswith(("file:", "data:"))]
