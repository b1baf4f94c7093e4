"""Every code block of the README and of docs/ runs, in order, page by page; one that does not says why in a comment."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from tests.terminal import Commands, Terminal, environment

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DEMOS = {
    "headwater demo --out headwater-demo\n": "headwater-demo",
    "headwater demo --kind mammography --out mammography-demo\n": "mammography-demo",
}
BLOCK = re.compile(r"(<!-- not run[^>]*-->\n)?```(\w+)\n(.*?)```(\n<!-- not run[^>]*-->)?", re.S)


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return language and code of each block that is to run."""
    found = BLOCK.findall(page.read_text())
    return [(language, code) for before, language, code, after in found if not before and not after]


QUICK = """
import sys
import headwater as hw
sys.modules[hw.demo.__module__].TUNED.clear()  # two runs of its ladder that no page looks at, and half of its minutes
hw.demo("headwater-demo")
hw.demo("mammography-demo", kind="mammography", n_patients=16)  # of 60, on which the tables of the page were made
"""


@pytest.fixture(scope="session")
def commands():
    """The process in which the commands of all pages run, that none has to load what another has."""
    with Commands() as running:
        yield running


@pytest.fixture(scope="session")
def demo(tmp_path_factory, commands):
    """A folder with what both demonstrations make, but for the runs that tune an encoder, for all test processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "docs-demo"
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            folder.mkdir(exist_ok=True)
            with Terminal(folder, commands) as terminal:
                terminal.type("python", QUICK)
            (folder / "done").touch()
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_page_runs(page, demo, commands, tmp_path):
    """A reader who types a page from top to bottom, after ``headwater demo``, meets no error."""
    shutil.copytree(demo, tmp_path, dirs_exist_ok=True)
    with Terminal(tmp_path, commands) as terminal:
        for language, code in blocks(page):
            if code in DEMOS:
                assert (tmp_path / DEMOS[code]).exists()
            elif language in ("bash", "python"):
                terminal.type(language, code)


@pytest.mark.slow
def test_the_readme_from_nothing(tmp_path):
    """The README runs from its first command on, the whole demonstration, each command being a process of its own."""
    lines = {"bash": ["bash", "-euc"], "python": [sys.executable, "-W", "error", "-c"]}
    for language, code in blocks(PAGES[0]):
        if language in lines:
            line = [*lines[language], code]
            done = subprocess.run(
                line, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "headwater-demo" / "runs" / "clip-full").exists()


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "glas").exists(), reason="the data of docs/papers_on_data.md are not here")
def test_the_tables_of_four_studies(tmp_path):
    """Every table and figure of the page comes out, on the real data."""
    (tmp_path / "data").mkdir()
    for name in ("glas", "lc25000_lung", "mini_mias", "covid_cxr"):
        (tmp_path / "data" / name).symlink_to(DATA / name)
    (tmp_path / "data" / "mobilenetv2_100.safetensors").symlink_to(DATA / "weights" / "mobilenetv2_100.safetensors")
    lines = {"bash": ["bash", "-euc"], "python": [sys.executable, "-c"]}
    for _, language, code, _ in BLOCK.findall((ROOT / "docs" / "papers_on_data.md").read_text()):
        line = [*lines[language], code]
        done = subprocess.run(
            line, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    assert list((tmp_path / "a" / "figures").glob("systems*"))
    assert json.loads((tmp_path / "a" / "external" / "metrics.json").read_text())["external"]["folds"]["mean"]
    assert "top3_f1_micro" in json.loads((tmp_path / "b" / "ngram_text" / "metrics.json").read_text())["mean"]
    assert (tmp_path / "c" / "tuned" / "figures" / "training.png").exists()


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


def test_files_that_are_named_exist():
    """Every file of the package, tests or benchmarks that README, docs or the changelog name is there."""
    named = [
        (page.name, name)
        for page in [*PAGES, ROOT / "CHANGELOG.md"]
        for name in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", page.read_text())
    ]
    assert len(named) > 20
    missing = [
        (page, name) for page, name in named if not any((ROOT / top / name).exists() for top in ("headwater", ""))
    ]
    assert not missing
