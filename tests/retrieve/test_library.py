"""Which build of FAISS is installed is said, and two builds, or what is left of one, are said with their cure."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

from headwater.api import doctor
from headwater.errors import MissingExtra
from headwater.retrieve.library import FaissLibrary, faiss_library, load_faiss

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Put packages of these names and versions before those that are installed, as ``pip`` would list them."""

    def put(**builds):
        for name, found in builds.items():
            folder = tmp_path / f"{name}-{found}.dist-info"
            folder.mkdir()
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {found}\n")
        monkeypatch.syspath_prepend(tmp_path)
        return tmp_path

    return put


@pytest.fixture
def anew(monkeypatch):
    """Import FAISS anew, which must be installed."""
    pytest.importorskip("faiss")
    for name in [name for name in sys.modules if name.partition(".")[0] == "faiss"]:
        monkeypatch.delitem(sys.modules, name)


def extras_of(name, extras):
    """The requirements of an extra, with those of the extras that it includes."""
    found = set()
    for requirement in extras[name]:
        own, included = re.match(r"([\w.-]+)(?:\[([\w,-]+)\])?", requirement).groups()
        found |= (
            {own} if own != "headwater" else {one for other in included.split(",") for one in extras_of(other, extras)}
        )
    return found


def test_no_extra_brings_two_builds():
    """``all`` brings faiss-cpu, ``all-gpu`` and ``gpu`` faiss-gpu, and no extra or group both."""
    project = tomllib.loads(PROJECT.read_text())
    extras = project["project"]["optional-dependencies"]
    builds = {name: {one for one in extras_of(name, extras) if one.startswith("faiss")} for name in extras}
    assert builds["all"] == builds["retrieve"] == {"faiss-cpu"}
    assert builds["all-gpu"] == builds["gpu"] == {"faiss-gpu"}
    assert all(len(found) <= 1 for found in builds.values())
    of_gpu = {"faiss-gpu", "torchcodec"}
    assert extras_of("all", extras) - {"faiss-cpu"} == extras_of("all-gpu", extras) - of_gpu
    groups = {
        name: [one for one in group if isinstance(one, str)] for name, group in project["dependency-groups"].items()
    }
    for name in groups:
        assert len({one for one in extras_of(name, extras | groups) if one.startswith("faiss")}) <= 1


@pytest.mark.parametrize("other", ["faiss_gpu", "faiss-gpu", "faiss_gpu_cu12"])
def test_two_builds_are_said(installed, other):
    """`doctor` names both, and the commands that leave the one for the GPU."""
    pytest.importorskip("faiss")
    installed(**{other: "9.9"})
    found = doctor().environment.faiss
    name = other.replace("_", "-")
    assert set(found.builds) == {"faiss-cpu", name}
    assert found.builds[name] == "9.9"
    assert found.line().endswith(f"Run: pip uninstall -y faiss-cpu {name} && pip install faiss-gpu")


def test_an_empty_folder_is_no_library(installed, anew):
    """A build whose files went with those of another is said to be damaged, where it is asked for and by `doctor`."""
    (installed() / "faiss").mkdir()
    (installed() / "faiss" / "__init__.py").touch()
    with pytest.raises(MissingExtra, match=r"its files are missing. Run: pip uninstall -y faiss-cpu && pip install"):
        load_faiss()
    assert "its files are missing. Run: pip uninstall -y faiss-cpu" in faiss_library().line()


def test_a_library_that_cannot_be_loaded(installed, anew):
    """What CUDA's loader says is said in one line."""
    (installed() / "faiss.py").write_text("raise OSError('libcudart.so.12:\\n cannot open')")
    assert faiss_library().line().endswith("cannot be used: libcudart.so.12: cannot open")


@pytest.mark.parametrize("left", [None, "", "Name: other\n"], ids=["no file", "empty", "no version"])
def test_what_is_left_of_other_packages(installed, left):
    """A folder that a package left behind, without its file, name or version, is no build of FAISS and no error."""
    pytest.importorskip("faiss")
    before = faiss_library()
    folder = installed() / "other-1.0.dist-info"
    folder.mkdir()
    if left is not None:
        (folder / "METADATA").write_text(left)
    assert faiss_library() == before


def test_the_build_that_is_found_first_counts(installed):
    """Of one package in two folders, the first on the path is the one that is imported."""
    pytest.importorskip("faiss")
    installed(faiss_cpu="9.9")
    assert faiss_library().builds == {"faiss-cpu": "9.9"}


@pytest.mark.parametrize(
    ("library", "said"),
    [
        (FaissLibrary({}), "not installed: pip install 'headwater[retrieve]'"),
        (FaissLibrary({}, error="libfaiss.so: cannot open"), "its library cannot be used: libfaiss.so: cannot open"),
        (FaissLibrary({"faiss-cpu": "1.15"}), "faiss-cpu 1.15, which uses the CPU"),
        (FaissLibrary({"faiss-gpu": "1.15"}, has_gpu=True), "faiss-gpu 1.15, which sees no GPU"),
        (FaissLibrary({"faiss-gpu": "1.15"}, has_gpu=True, n_gpus=1), "faiss-gpu 1.15, which sees 1 GPU"),
        (FaissLibrary({"faiss-gpu": "1.15"}, has_gpu=True, n_gpus=2), "faiss-gpu 1.15, which sees 2 GPUs"),
    ],
)
def test_its_line(library, said):
    """A build is said with what it can use."""
    assert said in library.line()


def test_the_installed_library():
    """The build that the tests run with is found, with its version."""
    faiss = pytest.importorskip("faiss")
    found = faiss_library()
    assert found.error is None
    assert list(found.builds.values()) == [faiss.__version__]
    assert found.has_gpu == hasattr(faiss, "StandardGpuResources")
