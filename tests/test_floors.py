"""Every file imports its own folder or a lower floor, and heavy packages only inside functions."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "headwater"
FLOORS = {
    "errors": 0,
    "_extras": 0.5,  # the lower half of the ground floor is errors alone
    "_about": 0.8,
    "_alike": 0.7,
    "_arrays": 0.7,
    "_backend": 0.8,
    "_devices": 0.7,
    "_grades": 0.7,
    "_options": 0.7,
    "_links": 0.7,
    "_memory": 0.7,
    "_parquet": 0.6,
    "_reading": 0.7,
    "_missing": 0.7,
    "_schema": 0.7,
    "_shown": 0.7,
    "_survival": 0.8,
    "_tables": 0.7,
    "_tensors": 0.8,
    "_words": 0.7,
    "_checks": 0.8,
    "_progress": 0.8,
    "_writable": 1.5,
    "offline": 1,
    "sources": 1,
    "store": 1,
    "embed": 2,
    "heads": 2,
    "retrieve": 2,
    "evaluate": 2,
    "samples": 3,
    "runs": 3,
    "finetune": 4,
    "report": 4,
    "experiment": 5,
    "api": 6,
    "serve": 6.5,
    "commands": 7,
    "cli": 7.5,
}
ARRAYS_ONLY = {"heads", "retrieve", "evaluate"}
HEAVY = {"torch", "torchvision", "timm", "open_clip", "transformers", "peft", "faiss", "xgboost", "optuna"}
HEAVY |= {
    "matplotlib",
    "zarr",
    "ray",
    "h5py",
    "anndata",
    "datasets",
    "lance",
    "fsspec",
    "s3fs",
    "pydicom",
    "imagecodecs",
    "openslide",
    "tifffile",
}
TOP = ("__init__", "__main__")  # the package itself, which looks its verbs up when they are used
FILES = sorted(p for p in ROOT.rglob("*.py") if p.parent != ROOT or p.stem not in TOP)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path) for path in FILES}


def part(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Dotted names of headwater that a file imports, at module level or inside functions, typing-only ones included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the floor"
            if node.module == "headwater":
                found |= {f"headwater.{alias.name}" for alias in node.names}
            elif (node.module or "").startswith("headwater."):
                found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("headwater")}
    return found


def at_run_time(path: Path) -> set[str]:
    """Dotted names of the modules that a file imports, or takes names from, but for those that types alone need."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= below & MODULES or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        waiting += ast.iter_child_nodes(node)
    return found


def strings(path: Path) -> set[str]:
    """Places named by strings, as registries do: ``"headwater.embed.from_timm:TimmEncoder"``."""
    nodes = (
        n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant) and isinstance(n.value, str)
    )
    return {n.value.partition(":")[0] for n in nodes if n.value.startswith("headwater.") and " " not in n.value} - {
        "headwater.encoders"  # what packages call their encoders by, no place
    }


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path):
    """A file imports its own folder, or a floor below it; heads, retrieval and evaluation see arrays, never stores."""
    me = part(path)
    others = {name.split(".")[1] for name in imported(path) | strings(path) if "." in name} - {me}
    up = {other for other in others if FLOORS[other] >= FLOORS[me]}
    assert not up, f"{me} (floor {FLOORS[me]}) must not import {sorted(up)}"
    if me in ARRAYS_ONLY:
        assert not others & {"sources", "store"}, "takes arrays, not stores"


def test_no_circles():
    """No files import each other in a loop, imports inside functions included, those for types alone left out."""
    arrows = {name_of(path): at_run_time(path) & MODULES - {name_of(path)} for path in FILES}
    while ends := {name for name, targets in arrows.items() if not targets & set(arrows)}:
        arrows = {name: targets for name, targets in arrows.items() if name not in ends}
    assert not arrows, f"these import each other, or stand above a loop: {sorted(arrows)}"


def test_every_part_has_a_floor():
    """A new folder or file at the top must be given its floor here."""
    assert {part(path) for path in FILES} <= set(FLOORS)


def test_importing_everything_is_light():
    """Importing every module of the package loads none of the heavy dependencies."""
    here = MODULES if importlib.util.find_spec("fastapi") else MODULES - {"headwater.serve.app"}
    code = f"import importlib, sys; [importlib.import_module(n) for n in {sorted(here)!r}]; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & {name.split(".")[0] for name in loaded.stdout.split()}


def test_help_loads_no_arrays():
    """``headwater --help`` parses and prints: it imports neither numpy nor polars."""
    code = "import sys; sys.argv = ['headwater', '--help']; from headwater.cli import main\n"
    code += "try: main()\nexcept SystemExit: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "fit-head" in done.stdout
    assert not {"numpy", "polars", "sklearn"} & {name.split(".")[0] for name in done.stderr.split()}
