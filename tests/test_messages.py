"""What messages name is there: options, parameters and places; and values stand as Python writes them."""

import ast
import inspect
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import typer.main

from headwater import errors
from headwater.api import evaluate, explain, fit_head, open_run
from headwater.cli import app
from headwater.errors import HeadwaterError, how_to_make
from headwater.heads import HEADS, REGRESSORS, head_class

ROOT = Path(__file__).parents[1] / "headwater"
FILES = sorted(ROOT.rglob("*.py"))
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
ADVICE = re.compile(r"\b(?:raise|lower|pass|set|give|use|increase|reduce) ([a-z]+_[a-z_]+)\b")
OTHERS = {
    "--revision": "of hf download, the hub's own command",
    "--local-dir": "of hf download",
    **dict.fromkeys(("--no-index", "--find-links", "--only-binary", "--hash", "--dest"), "of pip"),
    **dict.fromkeys(("--disable-pip-version-check", "--no-input", "--no-deps", "--python-version"), "of pip"),
    **dict.fromkeys(("--implementation", "--platform"), "of pip"),
    "--quiet": "of sha256sum",
    "--fold-by-fold": "of a script of benchmarks/, in the docstring that cites its figures",
}


@cache
def options():
    """Every option of every command."""
    group = typer.main.get_command(app)
    every = [p for command in (group, *group.commands.values()) for p in command.params]
    return {name for p in every for name in (*p.opts, *p.secondary_opts)} | {"--help"}


@cache
def parameters():
    """Every parameter of every head, which --set gives."""
    classes = [*(head_class(kind) for kind in HEADS), *(head_class(kind, regression=True) for kind in REGRESSORS)]
    return {name for head in classes for name in inspect.signature(head).parameters}


def strings(path):
    """Every text in a file with its line, those of docstrings and messages alike."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def raised(path):
    """Every text in what a file raises or warns of, with its line."""
    for node in ast.walk(ast.parse(path.read_text())):
        called = isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "warn"
        if called or (isinstance(node, ast.Raise) and node.exc is not None):
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.lineno, part.value


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_an_option_that_is_named_exists(path):
    """Every word that looks like an option, in whatever text of the package, is an option of some command."""
    known = options() | set(OTHERS)
    unknown = [f"line {line}: {word}" for line, text in strings(path) for word in OPTION.findall(text)]
    assert not [found for found in unknown if found.split()[-1] not in known]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_is_to_be_set_can_be(path):
    """What an error tells to raise, lower or pass is a parameter of a head, for --set, or else an option."""
    known = parameters()
    for line, text in raised(path):
        for word in ADVICE.findall(text):
            assert word in known or f"--{word.replace('_', '-')}" in options(), f"line {line}: {word}"


def test_the_search_finds_what_it_looks_for():
    """An option that does not exist, and advice that cannot be followed, would be found."""
    assert OPTION.findall("pass --no-such-thing, or --out RUN; a -- b, x--y") == ["--no-such-thing", "--out"]
    assert not {"--no-such-thing", "--max-colours"} & options()
    assert {"--missing-values", "--out", "--no-refit", "--map"} <= options()
    assert ADVICE.findall("are allowed; cut it into tiles, or raise max_colours") == ["max_colours"]
    assert "max_colours" not in parameters() | {name.strip("-").replace("-", "_") for name in options()}


VALUES = {
    "np.str_": (np.str_("a"), "'a'"),
    "a quote in it": (np.str_('it\'s "so" (1)'), repr('it\'s "so" (1)')),
    "np.float64": (np.float64(1.0), "1.0"),
    "np.float32": (np.float32(-2.5e-9), "-2.5e-09"),
    "nan": (np.float64("nan"), "nan"),
    "np.int64": (np.int64(-3), "-3"),
    "np.uint8": (np.uint8(7), "7"),
    "np.True_": (np.True_, "True"),
    "np.bytes_": (np.bytes_(b"x"), "b'x'"),
    "np.datetime64": (np.datetime64("2020-01-02"), "'2020-01-02'"),
    "np.timedelta64": (np.timedelta64(3, "D"), "3"),
    "in a list": ([np.float64(1.0), np.str_("b")], "[1.0, 'b']"),
    "in a dict": ({np.str_("k"): (np.int64(1), np.False_)}, "{'k': (1, False)}"),
}
KINDS = sorted(
    (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HeadwaterError)),
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", VALUES)
def test_values_stand_as_python_writes_them(kind, name):
    """No message of any kind of error holds what NumPy writes around a value."""
    value, plain = VALUES[name]
    message = str(kind(f"label {value!r} is none"))
    assert message == f"label {plain} is none"


def test_other_words_are_left_alone():
    """What is no value of NumPy stays as it is."""
    for text in ("np.load(file) is refused", "call np.float64 (1.0)", "snp.str_('a')", "np.True_ness", "f(np.int64)"):
        assert str(HeadwaterError(text)) == text


def test_one_class_is_named_plainly(make_store):
    """A real message about a class of whole numbers has no word of NumPy."""
    halves = [0] * 6 + [1] * 6
    store = make_store(np.random.default_rng(0).standard_normal((12, 3)), label=halves, fold=halves)
    with pytest.raises(HeadwaterError) as caught:
        fit_head(store, features="made/image", label="label", split="fold", params={"C": np.float64(-1.0)})
    assert "np." not in str(caught.value)


FULL = {"a folder of somebody's": "mine/photo.png", "a file": "mine.csv", "a run without a head": "mine/config.json"}


@pytest.mark.parametrize("kind", FULL)
def test_nobody_is_told_to_write_over_what_is_there(tmp_path, kind):
    """Where something else is, no message says to run a command with --out there; where nothing is, it does."""
    path = tmp_path / FULL[kind]
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")
    place = tmp_path / Path(FULL[kind]).parts[0]
    for call in (
        lambda: open_run(place),
        lambda: evaluate(place, tmp_path / "s.hw", label="x"),
        lambda: explain(place, id="x"),
    ):
        with pytest.raises((HeadwaterError, OSError)) as caught:
            call()
        assert f"--out {place}" not in str(caught.value)
    with pytest.raises(HeadwaterError, match="Run: headwater fit-head … --out"):
        open_run(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "Run: " in how_to_make(tmp_path / "empty", "headwater fit-head …")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_advice_to_write_asks_whether_something_is_there(path):
    """A message that says to run a command with ``--out`` and a path is made by `how_to_make`."""
    left = {"embed/adapter.py", "embed/joined.py"}
    text = re.sub(r'"\s*f?"', "", path.read_text())
    assert not re.search(r"Run: headwater [^\n]*--out \{", text) or str(path.relative_to(ROOT)) in left


def test_messages_name_pages_that_an_installation_has():
    """Who installed a wheel has no docs/ folder: shown texts name a page of the documentation, not its file."""
    lost = []
    for path in FILES:
        tree = ast.parse(path.read_text())
        holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        docs = {id(n.body[0].value) for n in ast.walk(tree) if isinstance(n, holders) and ast.get_docstring(n)}
        docs |= {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                lost += [f"{path.name}: {found}" for found in re.findall(r"\bdocs/\w+\.md\b", node.value)]
    assert not lost
