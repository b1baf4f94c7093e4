"""What is given to others: the wheel, the documentation in it, and an installation that has no network.

A network is taken away by a namespace of its own, where the system allows that; pip has no index in any case.
"""

import hashlib
import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from headwater import __version__
from headwater.offline.documentation import pack
from tests.terminal import environment

pytest.importorskip("sphinx", reason="sphinx is not installed")
ROOT = Path(__file__).parents[2]
DOCS = f"headwater-docs-{__version__}"
pytestmark = pytest.mark.slow


def run(words, cwd, env=None, *, network=True):
    """Run a command; it must end with status 0."""
    alone = ["unshare", "-rn"] if not network and shutil.which("unshare") else []
    if alone and subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        alone = []
    line = [*alone, *map(str, words)]
    return subprocess.run(line, cwd=cwd, env=env or environment(cwd), capture_output=True, text=True, check=False)


def done(words, cwd, env=None, *, network=True):
    """Run a command that must succeed, and return what it printed."""
    found = run(words, cwd, env, network=network)
    assert found.returncode == 0, f"{found.stdout}\n{found.stderr}"
    return found.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """A folder with the wheel and the archive, as docs/release.py writes them."""
    out = tmp_path_factory.mktemp("dist")
    done([sys.executable, ROOT / "docs" / "release.py", out], out, {**os.environ, "OMP_NUM_THREADS": "1"})
    assert not (ROOT / "headwater" / "documentation.zip").exists()
    return out


@pytest.fixture(scope="module")
def installed(dist, tmp_path_factory):
    """The environment of a headwater that was installed from its wheel, beside the packages that are here."""
    folder = tmp_path_factory.mktemp("installed")
    wheel = next(dist.glob("*.whl"))
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", folder / "lib", wheel]
    done(pip, folder)
    return {**os.environ, "PYTHONPATH": str(folder / "lib"), "HEADWATER_CACHE": str(folder / "cache")}


@pytest.fixture(scope="module")
def house(installed, tmp_path_factory):
    """A wheelhouse of the core for this machine, made by the installed headwater."""
    folder = tmp_path_factory.mktemp("house")
    done([sys.executable, "-P", "-m", "headwater", "wheelhouse", folder / "house"], folder, installed)
    return folder / "house"


def test_an_archive_beside_the_wheel_and_in_it(dist):
    """The archive holds the pages, is also in the wheel, and is small."""
    archive = dist / f"{DOCS}.zip"
    with zipfile.ZipFile(archive) as held, zipfile.ZipFile(next(dist.glob("*.whl"))) as wheel:
        assert held.testzip() is None
        names = set(held.namelist())
        assert wheel.read("headwater/documentation.zip") == archive.read_bytes()
    assert {f"{DOCS}/{name}" for name in ("index.html", "search.html", "searchindex.js", "air_gapped.html")} <= names
    assert archive.stat().st_size < 5_000_000


def test_the_archive_is_the_same_when_built_again(dist, tmp_path):
    """Two builds of the same checkout give the same bytes."""
    runpy.run_path(str(ROOT / "docs" / "release.py"))["build_site"](tmp_path / "site")
    pack(tmp_path / "site", tmp_path / "again.zip", DOCS)
    assert (tmp_path / "again.zip").read_bytes() == (dist / f"{DOCS}.zip").read_bytes()


def test_the_wheel_is_packed_again_from_what_is_installed(dist, installed, tmp_path):
    """The wheel of a wheelhouse holds the same files as the one that was installed."""
    code = "import sys; from pathlib import Path; from headwater.offline.own_wheel import own_wheel as o\n"
    done([sys.executable, "-c", code + "print(o(Path(sys.argv[1])))", tmp_path], tmp_path, installed)
    first, second = next(dist.glob("*.whl")), next(tmp_path.glob("*.whl"))
    assert first.name == second.name
    with zipfile.ZipFile(first) as one, zipfile.ZipFile(second) as other:
        names = [set(file.namelist()) for file in (one, other)]
        assert names[0] == names[1]
        differ = [name for name in names[0] if one.read(name) != other.read(name) and not name.endswith("/RECORD")]
    assert not differ


def test_a_changed_file_is_not_packed(dist, tmp_path):
    """An installed file that was changed is named, and no wheel comes out."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", tmp_path / "lib"]
    done([*pip, next(dist.glob("*.whl"))], tmp_path)
    with (tmp_path / "lib" / "headwater" / "errors.py").open("a") as file:
        file.write("\n")
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "lib")}
    found = run([sys.executable, "-P", "-m", "headwater", "wheelhouse", "house"], tmp_path, env)
    assert found.returncode == 1
    assert "errors.py was changed since it was installed" in found.stderr
    assert not (tmp_path / "house").exists()


def test_the_documentation_opens(installed, tmp_path):
    """``headwater docs`` prints the path of a first page that is there, again when asked again."""
    for _ in range(2):
        printed = done([sys.executable, "-P", "-m", "headwater", "docs", "--no-open"], tmp_path, installed)
        page = Path(printed.strip())
        assert page.parent.name == DOCS
        assert "headwater" in page.read_text()
        assert (page.parent / "searchindex.js").exists()
    done([sys.executable, "-P", "-m", "headwater", "docs", "--no-open", "--out", "mine"], tmp_path, installed)
    assert (tmp_path / "mine" / "index.html").exists()


def test_a_checkout_has_no_documentation_in_it(tmp_path):
    """From a checkout, the command says where the pages are instead."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = run([sys.executable, "-P", "-m", "headwater", "docs", "--no-open"], tmp_path, env)
    assert found.returncode == 1
    assert "docs/release.py" in found.stderr


def test_installed_and_used_without_a_network(house, tmp_path):
    """From the wheelhouse alone: checksums hold, pip installs, the demonstration runs, and the documentation opens."""
    done(["sha256sum", "--quiet", "-c", "SHA256SUMS"], house)
    assert (house / f"{DOCS}.zip").exists()
    done([sys.executable, "-m", "venv", tmp_path / "env"], tmp_path)
    binaries = tmp_path / "env" / "bin"
    env = {"PATH": f"{binaries}:/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done([binaries / "pip", "install", "-q", "-r", house / "requirements.txt"], tmp_path, env, network=False)
    done([binaries / "pip", "check"], tmp_path, env)
    printed = done([binaries / "headwater", "demo", "--out", "demo"], tmp_path, env, network=False)
    assert "Most similar to" in printed
    done([binaries / "headwater", "verify", "demo/demo.hw"], tmp_path, env, network=False)
    page = done([binaries / "headwater", "docs", "--no-open"], tmp_path, env, network=False)
    assert Path(page.strip()).exists()


def test_a_damaged_wheel_is_not_installed(house, tmp_path):
    """One changed byte is found by the checksums, and by pip."""
    shutil.copytree(house, tmp_path / "house")
    wheel = next((tmp_path / "house" / "wheels").glob("typer-*.whl"))
    data = bytearray(wheel.read_bytes())
    data[len(data) // 2] ^= 1
    wheel.write_bytes(data)
    assert hashlib.sha256(data).hexdigest() not in (tmp_path / "house" / "SHA256SUMS").read_text()
    sums = run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], tmp_path / "house")
    assert sums.returncode != 0
    assert wheel.name in sums.stdout
    pip = [sys.executable, "-m", "pip", "install", "-q", "--ignore-installed", "--target", tmp_path / "lib"]
    found = run([*pip, "-r", tmp_path / "house" / "requirements.txt"], tmp_path)
    assert found.returncode != 0
    assert "DO NOT MATCH THE HASHES" in found.stderr
