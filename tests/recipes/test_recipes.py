"""Recipes: each published system has one that runs and reads as a user would write it; the docs show its figures."""

import ast
import io
import os
import subprocess
import sys
import tokenize
from pathlib import Path

import msgspec
import pytest

from tests.terminal import environment

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "recipes"
FILES = {path.stem.partition("_")[0].upper(): path for path in sorted(FOLDER.glob("[a-d][0-9]*_*.py"))}
ALLOWED = {"headwater", "support", "polars", "numpy", "pathlib"}


@pytest.fixture(scope="module")
def table():
    """The module that writes the tables of the docs, imported as a script in its folder does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        import support
        import table

        yield table
    for module in (support, table):
        sys.modules.pop(module.__name__)


def test_every_system_has_a_recipe_and_a_result(table):
    assert set(FILES) == set(table.SYSTEMS)
    found = table.results()
    assert {result.system for result in found if result.mode == "small"} == set(table.SYSTEMS)
    for result in found:
        assert ROOT / result.recipe == FILES[result.system], "a result of a recipe that is not there"
        assert result.rows, result.system
        assert "/" not in result.data
        assert not [word for word in result.command.split() if word.startswith(("/", "../"))]


def test_the_docs_show_what_recipes_measured(table):
    page, studies = table.PAGE.read_text(), table.STUDIES_PAGE.read_text()
    assert page == table.page_with(table.tables(table.results()), page), "run: python recipes/table.py"
    assert studies == table.page_with(table.studies(table.study_results()), studies), "run: python recipes/table.py"


def test_every_study_has_its_script_and_report(table):
    """Each study was run on real data, and its whole report is part of the site."""
    found = table.study_results()
    assert {result.system for result in found} == set(table.STUDIES)
    for result in found:
        assert (ROOT / result.recipe).is_file()
        assert result.mode == "data"
        assert result.conclusions
        report = ROOT / f"docs/_static/reports/study_{result.system}-{result.data}.html"
        text = report.read_text()
        assert "<img" not in text, "pictures of cases are not ours to publish"
        assert f"{result.rows[0].own.value:.3f}" in text


def test_a_figure_without_its_file_is_found(table):
    """A figure that was edited in the page, or whose result was deleted, is not what the tables say."""
    found, page = table.results(), table.PAGE.read_text()
    assert table.page_with(table.tables(found[1:]), page) != page
    figure = f"{found[0].rows[0].own.value:.3f}"
    assert figure in page
    edited = page.replace(figure, "0.999")
    assert table.page_with(table.tables(found), edited) != edited


@pytest.mark.parametrize("name", FILES)
def test_it_reads_as_a_user_would_write_it(name):
    """At most 60 lines of code, public names alone, and text for the gallery."""
    text = FILES[name].read_text()
    tree = ast.parse(text)
    code = {
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER)
    }
    assert len(code) <= 61, "the title and 60 lines of code"
    title = (ast.get_docstring(tree) or "").split("\n")
    assert title[0].startswith(f"{name}: ")
    assert title[1] == "=" * len(title[0])
    assert "# %%" in text
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
            assert {module.partition(".")[0] for module in modules} <= ALLOWED, modules
            assert all(
                m in ("headwater", "headwater.sources", "headwater.heads") for m in modules if m.startswith("headwater")
            )
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_"), node.attr


@pytest.mark.recipes
@pytest.mark.parametrize("name", FILES)
def test_it_runs(name, tmp_path, table):
    """With ``--small``, without a network; its figures agree with the committed ones as far as their intervals say."""
    command = [sys.executable, str(FILES[name]), "--small", "--out", "out"]
    env = {
        **os.environ,
        **environment(tmp_path),
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    new = msgspec.json.decode((tmp_path / "out/result.json").read_bytes(), type=table.Result)
    [kept] = [r for r in table.results() if r.system == name and r.mode == "small"]
    assert (new.command, new.data, new.n_samples, new.n_groups) == (
        kept.command,
        kept.data,
        kept.n_samples,
        kept.n_groups,
    )
    assert [(row.at, row.metric, row.published) for row in new.rows] == [
        (r.at, r.metric, r.published) for r in kept.rows
    ]
    for row, before in zip(new.rows, kept.rows, strict=True):
        low, high = (
            (row.own.low, row.own.high) if row.own.low is not None else (row.own.value - 0.1, row.own.value + 0.1)
        )
        assert low - 0.02 <= before.own.value <= high + 0.02, (row.at, row.metric)


def test_neither_or_both_kinds_of_data_are_refused(tmp_path):
    for words in ([], ["--small", "--data", "."]):
        command = [sys.executable, str(next(iter(FILES.values()))), *words]
        env = {**os.environ, **environment(tmp_path), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "--small" in done.stderr
