"""Every code block of the README and of docs/ runs, in order, page by page; one that does not says why in a comment."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DEMO = "headwater demo --out headwater-demo\n"
BLOCK = re.compile(r"(<!-- not run[^>]*-->\n)?```(\w+)\n(.*?)```(\n<!-- not run[^>]*-->)?", re.S)


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return language and code of each block that is to run."""
    found = BLOCK.findall(page.read_text())
    return [(language, code) for before, language, code, after in found if not before and not after]


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """A folder in which the README's ``headwater demo`` has run, once for all test processes."""
    folder = tmp_path_factory.getbasetemp().parent / "docs-demo"
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            folder.mkdir(exist_ok=True)
            run("bash", DEMO, folder)
            (folder / "done").touch()
    return folder


def run(language: str, code: str, folder: Path) -> None:
    command = {"bash": ["bash", "-euc", code], "python": [sys.executable, "-W", "error", "-c", code]}[language]
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    env = {"PATH": path, "HOME": str(folder), "OMP_NUM_THREADS": "1"}  # another page runs beside it
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_page_runs(page, demo, tmp_path):
    """A reader who types a page from top to bottom, after ``headwater demo``, meets no error."""
    shutil.copytree(demo, tmp_path, dirs_exist_ok=True)
    typed = ""
    for language, code in blocks(page):
        if code == DEMO:
            assert (tmp_path / "headwater-demo").exists()  # by this very command
        elif language == "bash":
            run(language, code, tmp_path)
        elif language == "python":
            typed += code  # a page is one session
            run(language, typed, tmp_path)


def test_every_page_has_something_to_run():
    """The finder of blocks finds them: README and docs hold commands and Python that run."""
    languages = [language for page in PAGES for language, _ in blocks(page)]
    assert languages.count("bash") >= 4
    assert languages.count("python") >= 6


def test_links_lead_somewhere():
    """Every relative link of README and docs names a file that exists."""
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
