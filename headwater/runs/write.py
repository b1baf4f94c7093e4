"""Runs on disk: written beside their place, and moved there as a whole."""

from __future__ import annotations

import io
import json
import platform
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

from headwater._reading import read_json
from headwater._writable import require_writable
from headwater.errors import InputError
from headwater.heads import save_head
from headwater.runs.places import seen_from
from headwater.runs.run import CURVES, DECISION, ENCODER, FIGURES, HEAD_FILES, INSTANCES, RUN_FILES, TRIALS, Run
from headwater.store import Store

COMMANDS = ("fit-head", "zero-shot", "evaluate", "fine-tune")  # whose runs they are


def run_folder(out: str | Path | None) -> Path | None:
    """Return where a run is to be written, unless something else is there."""
    if out is None:
        return None
    path = require_writable(out)
    if path.is_dir():
        taken = any(path.iterdir()) and not _is_run(path)
    else:
        taken = path.exists()
    if taken:
        raise InputError(f"--out {path} holds something that is not a run. Give another path.")
    return path


def _is_run(path: Path) -> bool:
    """Whether a directory holds a run, or what is left of one whose writing was cut short."""
    try:
        config = read_json(path / "config.json")
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("command") in COMMANDS


def write_run(target: Path | None, run: Run, kind: str, *, head_of: Path | None = None) -> Run:
    """Write a run, whole: its files are made beside their place, and moved there one after the other.

    The head is written as it is, or copied from the run ``head_of``.
    """
    if target is None:
        return run
    optional: dict[str, bytes] = {}
    if run.decision:
        optional[DECISION] = to_json(run.decision).encode()
    if run.trials is not None:
        optional[TRIALS] = parquet(run.trials)
    if run.instances is not None:
        optional[INSTANCES] = parquet(run.instances)
    if run.curves is not None:
        optional[CURVES] = parquet(run.curves)
    predictions = parquet(run.predictions)
    metrics = dict(run.metrics)
    if "external" in metrics:
        metrics["external"] = seen_from(target, metrics["external"])
    target.parent.mkdir(parents=True, exist_ok=True)
    with _beside(target) as folder:
        (folder / "config.json").write_text(to_json(seen_from(target, run.config)))
        (folder / "predictions.parquet").write_bytes(predictions)
        if head_of is None:
            save_head(run.head, kind, folder)
        else:
            for name in HEAD_FILES:
                shutil.copyfile(head_of / name, folder / name)
        for name, content in optional.items():
            (folder / name).write_bytes(content)
        for number, adapter in enumerate(run.adapters):
            (folder / ENCODER / str(number)).mkdir(parents=True)
            adapter.write(folder / ENCODER / str(number))
        (folder / "metrics.json").write_text(to_json(metrics))
        target.mkdir(exist_ok=True)
        (target / "metrics.json").unlink(missing_ok=True)  # a directory without it is not a run
        shutil.rmtree(target / ENCODER, ignore_errors=True)
        if run.adapters:
            (folder / ENCODER).replace(target / ENCODER)
        for name in {DECISION, TRIALS, INSTANCES, CURVES} - set(optional):
            (target / name).unlink(missing_ok=True)  # an earlier run's says nothing of this head
        shutil.rmtree(target / FIGURES, ignore_errors=True)
        for name in (*optional, *RUN_FILES):
            (folder / name).replace(target / name)
    return run


def parquet(table: pl.DataFrame) -> bytes:
    """Return a table as the bytes of a Parquet file.

    Writing these says that a disk is full in a way that can be told from other errors; polars would not.
    """
    data = io.BytesIO()
    table.write_parquet(data)
    return data.getvalue()


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """Give an empty folder beside ``target``, and take it away in the end."""
    target = target.resolve()  # "." has no name to put anything beside
    folder = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def to_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"


def described(store: Store, names: Sequence[str]) -> dict[str, Any]:
    """Return what identifies features: their spec, and a word that changes when any stored value does."""
    found = {name: store.features(name) for name in names}
    return {name: {**f.spec.to_dict(), "fingerprint": f.fingerprint} for name, f in found.items()}


def environment() -> dict[str, str]:
    packages = ("headwater", "numpy", "scikit-learn", "polars")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}
