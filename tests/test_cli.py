"""The command line itself: usage, statuses, what goes to which stream, and what is imported for it."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from headwater import __version__, cli

COMMANDS = ["demo", "embed", "fit-head", "zero-shot", "similar", "index", "info", "verify"]
HEAVY = {"torch", "torchvision", "timm", "open_clip", "transformers", "faiss", "matplotlib", "fsspec", "botocore"}


def run(*words, **options):
    """Run a command in a process of its own."""
    line = [sys.executable, "-m", "headwater", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, check=False, **options)


def python(code):
    """Run Python in a process of its own."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.fixture
def command(capsys, monkeypatch):
    """Return a function that runs a command line in this process."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["headwater", *map(str, words)])
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = end.code or 0
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture
def manifest(tmp_path):
    """A manifest of texts: no image has to be read."""
    path = tmp_path / "manifest.jsonl"
    words = ["good" if i % 8 in (1, 3, 5) else "bad" for i in range(40)]  # one in eight says nothing of its label
    rows = [{"id": f"r{i}", "text": f"{word} words, {i % 5}", "label": i % 2} for i, word in enumerate(words)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


# Usage


@pytest.mark.parametrize(
    "words",
    [
        ("nonsense",),
        ("embed",),
        ("embed", "a.csv", "a.hw"),
        ("fit-head", "a.hw"),
        ("fit-head", "a.hw", "--features", "a/image"),
        ("info", "a.hw", "--nonsense"),
        ("similar", "a.hw", "--features", "a/image", "-k", "0"),
        ("similar", "a.hw", "--features", "a/image", "-k", "many"),
        ("fit-head", "a.hw", "--features", "a/image", "--label", "x", "--seed", "-1"),
        ("embed", "a.csv", "a.hw", "--encoder", "stub:8", "--batch-size", "0"),
        ("embed", "a.csv", "a.hw", "--encoder", "stub:8", "--workers", "0"),
    ],
)
def test_wrong_usage(command, words):
    """Usage that cannot be understood ends with status 2 and says how to ask for help."""
    status, out, err = command(*words)
    assert status == 2
    assert out == ""
    assert "--help" in err
    assert "Traceback" not in err


def test_help(command):
    """--help lists every command, and each command has help of its own."""
    status, out, _ = command("--help")
    assert status == 0
    assert all(f"  {name} " in out for name in COMMANDS)
    for name in COMMANDS:
        status, out, _ = command(name, "--help")
        assert status == 0
        assert out.startswith(f"Usage: headwater {name}")


def test_no_command(command):
    """Without a command the help is shown."""
    _, out, err = command()
    assert "fit-head" in out + err


def test_version(command):
    """--version says which headwater this is."""
    assert command("--version") == (0, f"headwater {__version__}\n", "")


# How a command ends


def test_a_users_error_in_a_process():
    """A user's error is one line on standard error and status 1."""
    done = run("info", "nowhere.hw")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "headwater: nowhere.hw: there is no store. Run: headwater embed MANIFEST nowhere.hw\n"


def test_a_run_in_a_process(manifest, tmp_path):
    """embed and fit-head, as a shell runs them: results on standard output, progress on standard error, status 0."""
    store = tmp_path / "a.hw"
    done = run("embed", manifest, store, "--encoder", "builtin:ngram")
    assert (done.returncode, done.stdout) == (0, f"ngram/text: 10 items embedded\n40 samples, in {store}\n")
    words = ("--features", "ngram/text", "--label", "label", "--groups", "none", "--json")
    done = run("fit-head", store, *words, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert json.loads(done.stdout)["mean"]["accuracy"] == 0.875


def test_errors_are_one_line(command, monkeypatch):
    """An error whose words run over several lines is printed as one."""
    from headwater.errors import InputError

    def fails(*args, **kwargs):
        raise InputError("first\n  second\n")

    monkeypatch.setattr("headwater.api.info", fails)
    assert command("info", "a.hw") == (1, "", "headwater: first second\n")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.EACCES, "a.hw: Permission denied"),
        (errno.ENOSPC, "a.hw: the disk is full. Free some space and run the same command again"),
    ],
)
def test_what_the_system_refuses(command, monkeypatch, code, expected):
    """What the operating system refuses is one line with the place, status 1."""

    def fails(*args, **kwargs):
        raise OSError(code, os.strerror(code), "a.hw")

    monkeypatch.setattr("headwater.api.info", fails)
    status, _, err = command("info", "a.hw")
    assert status == 1
    assert err.startswith(f"headwater: {expected}")
    assert err.count("\n") == 1


def test_a_defect_is_not_hidden(monkeypatch):
    """An exception that is nobody's mistake but ours comes through as it is."""

    def fails(*args, **kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr("headwater.api.info", fails)
    monkeypatch.setattr(sys, "argv", ["headwater", "info", "a.hw"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_ctrl_c(command, monkeypatch):
    """Ctrl-C ends with status 130 and one line that says how to go on."""

    def fails(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("headwater.api.verify", fails)
    status, out, err = command("verify", "a.hw")
    assert (status, out) == (130, "")
    assert err == "headwater: stopped. What was finished is kept: run the same command again to go on.\n"


def test_a_reader_that_goes_away(manifest, tmp_path):
    """When what reads the output closes it, as `head` does, no traceback is left behind."""
    assert run("embed", manifest, tmp_path / "a.hw", "--encoder", "stub:512").returncode == 0
    line = f"{sys.executable} -m headwater similar {tmp_path / 'a.hw'} --features stub-512/text --id r0 -k 40 --json"
    done = subprocess.run(f"{line} | true", shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a terminal")
def test_a_terminal_sees_a_bar(manifest, tmp_path):
    """On a terminal embed draws a bar with the number of items and the rate."""
    main, side = os.openpty()
    line = [sys.executable, "-m", "headwater", "embed", manifest, tmp_path / "a.hw", "--encoder", "builtin:ngram"]
    done = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=side, text=True, env={**os.environ, "COLUMNS": "100"})
    out, _ = done.communicate()
    os.close(side)
    seen = b""
    with os.fdopen(main, "rb", buffering=0) as terminal:
        try:
            while part := terminal.read(4096):
                seen += part
        except OSError:  # the other side is closed
            pass
    assert done.returncode == 0
    assert out.startswith("ngram/text: 10 items embedded")
    assert b"10/10" in seen
    assert b"items/s" in seen


def test_sigint_before_anything_is_done(manifest, tmp_path):
    """Ctrl-C while the program is still starting leaves nothing half-written: the same command works afterwards."""
    line = [sys.executable, "-m", "headwater", "embed", str(manifest), str(tmp_path / "a.hw"), "--encoder", "stub:8"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert run(*line[3:]).returncode == 0


# What is imported


def test_fitting_does_not_import_torch(manifest, tmp_path):
    """Neither the package, nor its verbs, nor fit-head import torch or any other heavy library."""
    assert run("embed", manifest, tmp_path / "a.hw", "--encoder", "builtin:ngram").returncode == 0
    code = f"""
import sys, headwater, headwater.api
headwater.fit_head({str(tmp_path / "a.hw")!r}, features="ngram/text", label="label", groups="none")
headwater.similar({str(tmp_path / "a.hw")!r}, features="ngram/text", id="r0")
print(*{{name.split(".")[0] for name in sys.modules}})
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert not HEAVY & set(done.stdout.split())


def test_importing_headwater_is_light():
    """`import headwater` imports neither numpy nor polars."""
    done = python("import sys, headwater; print(*{name.split('.')[0] for name in sys.modules})")
    assert not {"numpy", "polars", "sklearn", *HEAVY} & set(done.stdout.split())


@pytest.mark.parametrize(
    "first", ["", "import headwater.embed", "import headwater.embed.run", "from headwater.embed import fill"]
)
def test_embed_is_the_verb(manifest, tmp_path, first):
    """`headwater.embed` is the verb, whether or not the package of that name was imported before, or is afterwards."""
    code = f"""
{first or "pass"}
import headwater as hw
store = hw.embed({str(manifest)!r}, {str(tmp_path / "a.hw")!r}, encoder="stub:8")
import headwater.embed.run
from headwater.embed import load_encoder
assert callable(hw.embed) and hw.open_store(store.path).feature_names() == ["stub-8/text"]
assert hw.heads.LinearProbe
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_every_verb_is_there():
    """Each name that the package promises can be had, and one that it does not promise is an AttributeError."""
    import headwater

    assert all(getattr(headwater, name) is not None for name in dir(headwater))
    assert {"embed", "fit_head", "zero_shot", "similar", "index", "info", "verify", "demo"} <= set(dir(headwater))
    with pytest.raises(AttributeError, match="nonsense"):
        headwater.nonsense  # noqa: B018


def test_a_full_gpu_is_a_line(command, monkeypatch):
    """A GPU that runs out of memory where nothing else says so ends in one line that says what to lower."""
    torch = pytest.importorskip("torch")

    def full(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("headwater.api.audit", full)
    status, _, said = command("audit", "some.hw")
    assert status == 1
    assert said.splitlines() == [
        "headwater: the GPU ran out of memory. Lower --batch-size, or pass --device cpu; what was finished is kept."
    ]
