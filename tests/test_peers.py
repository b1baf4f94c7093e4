"""The page that compares headwater with other tools says what was measured, and nothing else."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks" / "peers"
PAGE = ROOT / "docs" / "peers.md"
RESULTS = FOLDER / "results.json"
pytestmark = pytest.mark.skipif(not RESULTS.exists(), reason="other tools were not measured yet")
UNIT = re.compile(r"\d[\d,.]* ?(?:(?:s|ms|min|minutes|hours|MB|x|times)\b|%)|0\.\d{2,}")


@pytest.fixture(scope="module")
def page():
    """The module that makes the tables."""
    spec = importlib.util.spec_from_file_location("peers_page", FOLDER / "page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def results():
    return json.loads(RESULTS.read_text())


def test_every_table_is_that_of_the_results(page, results):
    """Each table of the page equals what ``results.json`` says, and the page holds all of them."""
    text = PAGE.read_text()
    assert page.filled(text, results) == text
    assert {found[1] for found in page.BLOCK.finditer(text)} == set(page.TABLES)


def test_a_changed_result_changes_the_page(page, results):
    """Every measured time and score stands in a table: the page of other results is another page."""
    text = PAGE.read_text()
    for comparison in results["comparisons"].values():
        for side in ("headwater", "peer"):
            first = comparison[side]["first"]
            kept = [dict(step) for run in first for step in run.values()]
            for run in first:
                for step in run.values():
                    step["wall_s"] += 1
            assert page.filled(text, results) != text
            for step, before in zip([step for run in first for step in run.values()], kept):
                step.update(before)
    assert page.filled(text, results) == text


def test_figures_stand_in_tables_only(page):
    """Outside the tables made from the results, the page has no time, size, ratio or score."""
    prose = page.BLOCK.sub("", PAGE.read_text())
    assert UNIT.findall("It took 3.5 s, 12 MB, 40 % and 0.932.") == ["3.5 s", "12 MB", "40 %", "0.932"]
    assert not UNIT.findall(re.sub(r"\d+\.\d+\.\d+", "", prose))


def test_both_sides_of_every_comparison_were_measured(results):
    """There are two repeats at least, of both sides, from nothing and again."""
    assert set(results["comparisons"]) == {"plain", "eva", "clip_zero_shot", "clip_probe"}
    for comparison in results["comparisons"].values():
        assert comparison["repeats"] >= 2
        for side in ("headwater", "peer"):
            assert len(comparison[side]["first"]) == len(comparison[side]["second"]) == comparison["repeats"]


def test_versions_on_the_page_are_those_measured(results):
    """What the page says of a tool's code is about the version that was measured."""
    text = PAGE.read_text()
    assert f"kaiko-eva {results['versions']['eva']['kaiko-eva']} " in text
    assert f"CLIP_benchmark {results['versions']['clip']['clip-benchmark']}:" in text
