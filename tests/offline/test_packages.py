"""Which wheels another machine needs: by its own conditions, of versions that go together, and none besides."""

import hashlib
import sys
import zipfile

import pytest

from headwater.api import wheelhouse
from headwater.errors import InputError
from headwater.offline import documentation, house, packages
from headwater.offline.target import Target, here, target_of

TARGET = Target((3, 13), (2, 28), "x86_64")


def wheel(folder, name, version, *requires, tag="py3-none-any", extras=()):
    """Write a wheel that holds nothing but what it says of itself."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    about = f"{name}-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [*(f"Requires-Dist: {one}" for one in requires), *(f"Provides-Extra: {one}" for one in extras)]
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{about}/METADATA", "\n".join(lines) + "\n")
        file.writestr(f"{about}/WHEEL", f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n")
        file.writestr(f"{about}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Return a folder that pip takes for all that there is."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.delenv("PIP_CONSTRAINT", raising=False)
    return folder


def fetched(own, tmp_path, extras=(), target=TARGET):
    """Fetch into an empty folder, and return the wheels and the names of the files."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    found = packages.fetch(own, extras, folder, target, lambda line: None)
    assert sorted(path.name for path in folder.iterdir()) == sorted(one.path.name for one in found)
    return [f"{one.name}=={one.version}" for one in found]


def test_conditions_are_those_of_the_other_machine(index, tmp_path):
    """A package that only the other Python needs is fetched; one that only this Python needs is not kept."""
    python = f"{here().python[0]}.{here().python[1]}"
    target = Target((3, 14), (2, 28), "x86_64")
    for name in ("there", "alone"):
        wheel(index, name, "1.0")
    needs = [f"there>=1; python_version > '{python}'", f"alone; python_version <= '{python}'"]
    own = wheel(tmp_path / "own", "lab", "1.0", *needs)
    assert fetched(own, tmp_path, target=target) == ["lab==1.0", "there==1.0"]


def test_versions_are_those_that_the_other_machine_may_have(index, tmp_path):
    """A condition of the other Python that rules out the newest version leads to an older one."""
    wheel(index, "base", "1.0")
    wheel(index, "base", "2.0")
    own = wheel(tmp_path / "own", "lab", "1.0", "base", "base<2; python_version >= '3.14'")
    assert fetched(own, tmp_path, target=Target((3, 14), (2, 28), "x86_64")) == ["base==1.0", "lab==1.0"]


def test_extras_also_those_of_other_packages(index, tmp_path):
    """Extras are followed: the chosen ones, those that name others of the package, and those of what is required."""
    wheel(index, "ray", "2.0", "arrow; extra == 'data'", extras=["data"])
    wheel(index, "arrow", "1.0")
    wheel(index, "plot", "1.0")
    needs = ["ray[data]; extra == 'ray'", "plot; extra == 'plots'", "lab[ray,plots]; extra == 'all'"]
    own = wheel(tmp_path / "own", "lab", "1.0", *needs, extras=["ray", "plots", "all"])
    assert fetched(own, tmp_path, ["all"]) == ["arrow==1.0", "lab==1.0", "plot==1.0", "ray==2.0"]


@pytest.mark.parametrize(("tag", "runs"), [("manylinux_2_28_x86_64", True), ("manylinux_2_34_x86_64", False)])
def test_a_wheel_of_a_newer_c_library_is_not_taken(index, tmp_path, tag, runs):
    """Wheels are for the C library of the other machine, or an older one; else the error names the package."""
    wheel(index, "fast", "1.0", tag=f"cp313-cp313-{tag}")
    own = wheel(tmp_path / "own", "lab", "1.0", "fast")
    if runs:
        assert fetched(own, tmp_path) == ["fast==1.0", "lab==1.0"]
        return
    with pytest.raises(InputError, match=r"Python 3\.13, x86_64, glibc 2\.28 or later.*fast"):
        fetched(own, tmp_path)


def test_versions_that_do_not_go_together(index, tmp_path):
    """What no version meets is an error of one line that names it."""
    wheel(index, "base", "2.0")
    own = wheel(tmp_path / "own", "lab", "1.0", "base", "base<2; python_version >= '3.14'")
    with pytest.raises(InputError, match="base<2"):
        fetched(own, tmp_path, target=Target((3, 14), (2, 28), "x86_64"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("3", None, None), "--python '3' is not a version"),
        (("3.9", None, None), "needs Python 3.11"),
        ((None, "2.x", None), "--glibc '2.x' is not a version"),
        ((None, "1.2", None), "--glibc 1.2: there are no wheels"),
        ((None, None, "Intel Xeon"), "--machine 'Intel Xeon' is not a processor"),
    ],
)
def test_a_machine_that_is_none(given, message):
    """What is no version or processor is refused, with how to find it out."""
    with pytest.raises(InputError, match=message):
        target_of(*given)


def test_what_is_left_out_is_as_here():
    """Without options the other machine is this one; each option replaces one part."""
    assert target_of(None, None, None) == here()
    assert target_of("3.12", "2.17", "aarch64") == Target((3, 12), (2, 17), "aarch64")
    assert Target((3, 12), (2, 17), "x86_64").platforms[-1] == "linux_x86_64"


@pytest.fixture
def tiny(index, tmp_path, monkeypatch):
    """Let a small wheel stand for headwater's own, which has a checkout to build from here."""
    wheel(index, "base", "1.0")
    made = wheel(tmp_path / "own", "headwater", "0.1.0", "base", "plot; extra == 'plots'", extras=["plots"])
    monkeypatch.setattr(sys.modules["headwater.api.wheelhouse"], "own_wheel", lambda folder: made)
    return made


def test_a_wheelhouse_says_what_it_holds(tiny, tmp_path):
    """Every package is pinned with its digest, every file has its checksum, and the text names the machine."""
    made = wheelhouse(tmp_path / "house", python="3.12", glibc="2.28", machine="x86_64")
    folder = tmp_path / "house"
    assert made.packages == {"base": "1.0", "headwater": "0.1.0"}
    digest = hashlib.sha256((folder / "wheels" / "base-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    lines = (folder / "requirements.txt").read_text().splitlines()
    assert {"--no-index", "--find-links wheels", f"base==1.0 --hash=sha256:{digest}"} <= set(lines)
    sums = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())
    there = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file() and p.name != "SHA256SUMS"}
    assert sums == {name: hashlib.sha256(p.read_bytes()).hexdigest() for name, p in there.items()}
    assert "Python 3.12, x86_64, glibc 2.28" in (folder / "INSTALL.txt").read_text()
    assert made.n_bytes == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def test_an_earlier_wheelhouse_is_replaced_and_nothing_else(tiny, tmp_path):
    """A wheelhouse is written again; a folder that holds something else is left as it is."""
    wheelhouse(tmp_path / "house")
    (tmp_path / "house" / "wheels" / "old-1.0-py3-none-any.whl").touch()
    wheelhouse(tmp_path / "house")
    assert not (tmp_path / "house" / "wheels" / "old-1.0-py3-none-any.whl").exists()
    (tmp_path / "house" / "wheels" / "notes.txt").touch()
    with pytest.raises(InputError, match="holds something else"):
        wheelhouse(tmp_path / "house")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    (tmp_path / "mine" / "SHA256SUMS").touch()  # as beside a system image that was downloaded
    with pytest.raises(InputError, match="holds something else"):
        wheelhouse(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_a_failure_leaves_the_earlier_wheelhouse(tiny, index, tmp_path):
    """When pip cannot fetch a package, what was there is still there, and nothing lies beside it."""
    wheelhouse(tmp_path / "house")
    before = sorted(path.name for path in tmp_path.iterdir())
    (index / "base-1.0-py3-none-any.whl").unlink()
    with pytest.raises(InputError, match="base"):
        wheelhouse(tmp_path / "house")
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / "house" / "wheels" / "base-1.0-py3-none-any.whl").exists()


def test_an_extra_that_is_none(tiny, tmp_path):
    """An unknown extra is an error with the nearest one, and nothing is written."""
    with pytest.raises(InputError, match=r"--extra plot.*plots"):
        wheelhouse(tmp_path / "house", extras="plot")
    assert not (tmp_path / "house").exists()


def test_the_same_pages_make_the_same_archive(tmp_path):
    """An archive does not depend on times or the order of files; what Sphinx leaves beside pages stays out."""
    site = tmp_path / "site"
    (site / ".doctrees").mkdir(parents=True)
    (site / "sub").mkdir()
    for name in ("index.html", "sub/page.html", ".doctrees/index.doctree"):
        (site / name).write_text(name)
    documentation.pack(site, tmp_path / "a.zip", "docs-1")
    (site / "index.html").touch()
    documentation.pack(site, tmp_path / "b.zip", "docs-1")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert documentation.unpack(tmp_path / "a.zip", tmp_path / "out").read_text() == "index.html"
    assert not (tmp_path / "out" / "docs-1" / ".doctrees").exists()


def test_the_text_names_the_documentation_only_where_there_is_one():
    """Without an archive the text does not send the reader to one."""
    assert "headwater docs" in house.install_text("1", ["plots"], TARGET, "headwater-docs-1.zip")
    assert "headwater docs" not in house.install_text("1", [], TARGET, None)
