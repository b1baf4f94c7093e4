"""The process stopped, or refused by the disk, before any one call to the file system of the commit protocol.

Each fault happens in a child process. After it the store must open, nothing may differ from a checksum, every block
that the journal speaks of must be whole, and the same steps run again must end in the files of an uninterrupted run.
"""

import builtins
import errno
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from headwater.errors import DiskError
from headwater.store import BlockResult, create_store, journal, open_store, writer
from headwater.store.spec import FeatureSpec

KILLED, REFUSED = 17, 18
N = 150  # three blocks of 64, 64 and 22 items
KEYS = np.arange(16 * N, dtype=np.uint8).reshape(N, 16) + np.arange(N, dtype=np.uint8)[:, None]
LENGTHS = np.arange(N) % 5 + 1
SPECS = {
    "pooled": FeatureSpec(encoder="x", modality="image", dim=6),
    "tokens": FeatureSpec(encoder="x", modality="image", dim=6, tokens="all", n_tokens=3, token_dim=4),
    "ragged": FeatureSpec(encoder="x", modality="text", dim=6, tokens="all", token_dim=4),
}


def values(spec, rows):
    """What each row holds, made from its number alone."""
    pooled = (rows[:, None] * 7 + np.arange(spec.dim)).astype(spec.dtype)
    if spec.ragged:
        return pooled, [np.full((LENGTHS[row], spec.token_dim), row, spec.dtype) for row in rows]
    tokens = np.repeat(pooled[:, :1, None], spec.n_tokens, 1).repeat(spec.token_dim, 2) if spec.has_tokens else None
    return pooled, tokens


def run(path, spec, together=False):
    """Make a store, give out rows in two plans, and write every block; whatever is there already is kept."""
    name = f"x/{spec.modality}"
    features = create_store(path).require_features(name, spec, N)
    for n in (100, N):
        with features.writing() as writer:
            tasks = writer.plan(KEYS[:n], LENGTHS[:n] if spec.ragged else None)
            writer.set_environment({"made": "here"})
            blocks = []
            for task in tasks:
                failed = {int(row): "cannot be read" for row in task.rows if row % 50 == 3}
                blocks.append((task, BlockResult(task.rows, *values(spec, task.rows), failed)))
            if together:
                assert len(list(writer.commit_all(blocks))) == len(tasks)
            else:
                for task, result in blocks:
                    writer.commit(task, result)
        features = features.refresh()


class Fault:
    """Counts calls to the file system, or those alone that write, and does something in place of one, or half-way."""

    def __init__(self, at, kind, writes=False):
        self.at, self.kind, self.writes, self.count = at, kind, writes, 0

    def due(self, writes=False):
        self.count += writes or not self.writes
        if self.writes and not writes:
            return False
        return self.count == self.at

    def strike(self, write=None, data=b""):
        if self.kind in ("short", "kill-short") and write is not None:
            write(data[: len(data) // 2])
        if self.kind in ("kill", "kill-short"):
            os._exit(KILLED)
        raise OSError(errno.EIO if self.kind == "eio" else errno.ENOSPC, "refused")

    def install(self):
        fault, path = self, pathlib.Path
        real = {name: getattr(path, name) for name in ("replace", "write_bytes", "mkdir", "unlink", "open")}
        fsync, truncate, open_file, change = os.fsync, os.ftruncate, os.open, journal.open_to_change

        def guarded(function):
            def call(*arguments, **options):
                if fault.due():
                    fault.strike()
                return function(*arguments, **options)

            return call

        def write_bytes(self, data):
            if fault.due(writes=True):
                fault.strike(lambda half: real["write_bytes"](self, half), bytes(data))
            return real["write_bytes"](self, data)

        def opened(self, mode="r", *arguments, **options):
            file = real["open"](self, mode, *arguments, **options)
            return Written(file, fault) if mode in ("wb", "ab") else file

        path.write_bytes, path.open = write_bytes, opened
        for name in ("replace", "mkdir", "unlink"):
            setattr(path, name, guarded(real[name]))
        os.fsync, os.ftruncate = guarded(fsync), guarded(truncate)
        made = guarded(open_file)
        os.open = lambda path, flags, *mode: (made if flags & os.O_EXCL else open_file)(path, flags, *mode)
        journal.open_to_change = lambda path: Written(change(path), fault)


class Written:
    """A file that is written to, whose writes are counted."""

    def __init__(self, file, fault):
        self.file, self.fault = file, fault

    def write(self, data):
        if self.fault.due(writes=True):
            self.fault.strike(lambda half: (self.file.write(half), self.file.flush()), bytes(data))
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return self.file.__exit__(*error)


def struck(path, spec, at, kind, together, writes):
    """Run in a child process with a fault; return its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        builtins.print = lambda *words, **options: None
        Fault(at, kind, writes).install()
        run(path, spec, together)
        status = 0
    except (DiskError, OSError):
        status = REFUSED
    finally:
        os._exit(status)


def files_of(path):
    kept = {}
    for file in sorted(path.rglob("*")):
        if file.is_file() and file.suffix != ".lock":
            kept[str(file.relative_to(path))] = file.read_bytes()
    return kept


def require_sound(path, spec):
    """Whatever is there can be opened, agrees with its checksums, and holds nothing but what was written."""
    if not (path / "store.json").exists():
        return
    store = open_store(path)
    assert list(store.verify()) == []
    for name in store.feature_names():
        features = store.features(name)
        rows = np.flatnonzero(features.status == 1)
        pooled, tokens = values(spec, rows)
        np.testing.assert_array_equal(np.asarray(features.pooled[rows]), pooled)
        if spec.ragged:
            for row, matrix in zip(rows.tolist(), tokens, strict=True):
                np.testing.assert_array_equal(features.tokens[row], matrix)
        elif spec.has_tokens:
            np.testing.assert_array_equal(np.asarray(features.tokens[rows]), tokens)


@pytest.mark.parametrize("kind", ["kill", "kill-short", "short", "eio"])
@pytest.mark.parametrize(("shape", "step"), [("pooled", 29), ("ragged", 37)])
def test_a_fault_at_some_calls(tmp_path, shape, step, kind):
    """At every few calls to the file system a fault leaves a sound store, which the same steps finish."""
    every_fault(tmp_path, SPECS[shape], step, kind)


@pytest.mark.parametrize("kind", ["kill", "kill-short", "short", "eio"])
def test_a_fault_while_blocks_are_made_durable_together(tmp_path, monkeypatch, kind):
    """Blocks that are written side by side and recorded together leave a sound store as well."""
    monkeypatch.setattr("headwater.store.writer.TOGETHER", 2)
    every_fault(tmp_path, SPECS["tokens"], 23, kind, together=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kill", "kill-short", "short", "eio"])
@pytest.mark.parametrize("shape", list(SPECS))
def test_a_fault_at_any_call(tmp_path, shape, kind):
    """At every single call to the file system a fault leaves a sound store, which the same steps finish."""
    every_fault_alone(tmp_path, shape, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kill", "kill-short", "short", "eio"])
@pytest.mark.parametrize("shape", list(SPECS))
def test_a_fault_at_any_call_of_blocks_together(tmp_path, shape, kind):
    """At every single call a fault leaves a sound store, also of blocks that are recorded together."""
    every_fault_alone(tmp_path, shape, kind, "together")


def every_fault_alone(*words):
    """Strike at every call, from a process that has loaded little, and is forked in a tenth of the time."""
    line = [sys.executable, __file__, *map(str, words)]
    env = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    done = subprocess.run(line, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr


def every_fault(folder, spec, step, kind, together=False, writes=False):
    run(folder / "whole", spec, together)
    whole = files_of(folder / "whole")
    at, last = step, None
    while last != 0:
        path = folder / f"{at}"
        last = struck(path, spec, at, kind, together, writes)
        assert last in (0, KILLED, REFUSED), (at, last)
        require_sound(path, spec)
        if last:
            run(path, spec, together)
            require_sound(path, spec)
        found = files_of(path)
        assert set(found) == set(whole), (at, set(found) ^ set(whole))
        for name, data in whole.items():
            if name.endswith(".jsonl"):  # lines of blocks that a killed run finished stand before the others
                assert sorted(found[name].splitlines()) == sorted(set(data.splitlines())), (at, name)
            else:
                assert found[name] == data, (at, name)
        shutil.rmtree(path)
        at += step
    assert at > (30 if writes else 100)  # or the faults would not have been counted


if __name__ == "__main__":
    folder, shape, kind, *together = sys.argv[1:]
    if together:
        writer.TOGETHER = 2
    os.fsync = os.fstat  # as in the process of the tests
    writes = kind == "kill-short"  # at other calls it is "kill" again; "short" is a full disk there
    every_fault(pathlib.Path(folder), SPECS[shape], 1, kind, together=bool(together), writes=writes)
